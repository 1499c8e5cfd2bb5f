"""What a run ran on: commit, machine, versions."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import asyncpg
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest

from benchmarks.arms.arm import Arm
from benchmarks.cells import Profile
from benchmarks.results import Header
from benchmarks.servers import Servers
from deploy.local.process import ROOT

PACKAGES: Final = ("temporalio", "asyncpg", "uvloop", "dbos", "restate-sdk")


async def read_header(profile: Profile, servers: Servers, arms: Sequence[Arm], skipped: Mapping[str, str]) -> Header:
    """The header of a run of arms."""
    info = await servers.client.workflow_service.get_system_info(GetSystemInfoRequest())
    versions = {
        "Temporal server": info.server_version,
        "PostgreSQL of the shop": await _postgres(servers.database),
        "PostgreSQL of the engine": await _postgres(servers.engine_database),
    }
    return _header(
        profile.name,
        servers.engine,
        versions,
        arms={arm.name: arm.title for arm in arms},
        skipped=skipped,
        seconds=profile.seconds,
        seed=servers.seed,
    )


async def read_database_header(what: str, url: str) -> Header:
    """The header of a run with a database alone."""
    return _header(what, "none", {"PostgreSQL": await _postgres(url)}, arms={}, skipped={}, seconds=0, seed=0)


def _header(profile: str, engine: str, versions: Mapping[str, str], **rest: Any) -> Header:  # noqa: ANN401 (fields)
    return Header(
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        commit=_commit(),
        profile=profile,
        engine=engine,
        cores=os.cpu_count() or 0,
        processor=_processor(),
        versions={
            "Python": platform.python_version(),
            **versions,
            **{package: found for package in PACKAGES if (found := _package(package))},
        },
        **rest,
    )


async def _postgres(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SHOW server_version")).split()[0]
    finally:
        await connection.close()


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """Of this checkout, with `-dirty` if it is changed."""
    command = ("git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*")
    try:
        return subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL).strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
