"""`make histories` keeps the histories that stand for runs in production, unless it is told to record them anew."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.shop import Shop
from tests.tools.histories import FOLDER, SCENARIOS, prepare, record

DECLINED = "declined.process-order"
INVALID = "invalid.process-order"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One history that the code of today replays, and one of a workflow whose first activity had another name."""
    shutil.copy(FOLDER / f"{INVALID}.json", tmp_path)
    text = (FOLDER / f"{DECLINED}.json").read_text()
    assert '"reserve_stock"' in text
    (tmp_path / f"{DECLINED}.json").write_text(text.replace('"reserve_stock"', '"hold_stock"'))
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in folder.iterdir()}


async def test_a_history_that_does_not_replay_is_kept(folder: Path) -> None:
    """Nothing is recorded; the refusal names that history only, and says what to do."""
    before = contents(folder)
    refusal = await prepare(folder, force=False)
    assert refusal is not None
    assert DECLINED in refusal
    assert INVALID not in refusal
    assert "docs/extending.md" in refusal
    assert "make histories FORCE=1" in refusal
    assert contents(folder) == before


async def test_forced_it_records_every_history_anew(shop: Shop, folder: Path) -> None:
    """Also those that do not replay."""
    scenarios = {name: SCENARIOS[name] for name in ("declined", "invalid")}
    before = contents(folder)
    assert await prepare(folder, force=True) is None
    await record(shop, folder, scenarios)
    after = contents(folder)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)
    assert await prepare(folder, force=False) is None


async def test_what_replays_is_kept_and_what_is_missing_recorded(shop: Shop, folder: Path) -> None:
    """A guarded change leaves the histories of the runs before it as they are."""
    (folder / f"{DECLINED}.json").unlink()
    before = contents(folder)
    assert await prepare(folder, force=False) is None
    await record(shop, folder, {name: SCENARIOS[name] for name in ("declined", "invalid")})
    after = contents(folder)
    assert after[INVALID] == before[INVALID]
    assert json.loads(after[DECLINED])["events"]
