"""A benchmark from its servers to its table, as small as it can be."""

import asyncio
import sys
from pathlib import Path

import pytest

from benchmarks.report import report
from benchmarks.results import CellResult, read
from deploy.local.process import ROOT

pytestmark = pytest.mark.prove


@pytest.mark.timeout(600)
async def test_two_arms_beside_each_other(tmp_path: Path) -> None:
    """The orders obey the invariants, or there is no file. Counts are those of the runs; times are not asserted."""
    out = tmp_path / "results.jsonl"
    arms = ("--arm=naive", "--arm=product")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "run", *arms, "--customers=1", "--rounds=1", "--seconds=3"),
        f"--out={out}",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    header, results = read(out)
    assert said.decode() == f"{report(header, results)}\n"
    found = {each.arm: each for each in results if isinstance(each, CellResult)}
    assert 104 <= (found["naive"].events or 0) <= 113  # the median of orders whose notifications end together or apart
    assert 47 <= (found["product"].events or 0) <= 50
    for each in found.values():
        assert min(each.cpu["worker"], each.cpu["temporal"]) > 0
        assert {"shop postgres", "sandbox"} <= each.cpu.keys()  # which may take less than the kernel's tick
        assert each.postgres["shop"].wal_bytes > 0
        assert each.answer.p50 <= each.done.p50
