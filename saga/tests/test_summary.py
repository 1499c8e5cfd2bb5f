"""What the Web UI shows beside an activity."""

import pytest

from saga.execution import MAX_SUMMARY, _fitting


@pytest.mark.parametrize("letter", ["a", "ж", "語", "🎁"])
def test_a_long_summary_is_cut_between_two_letters(letter: str) -> None:
    """Temporal counts bytes; what an external service says has any length."""
    cut = _fitting(letter * 500)
    assert MAX_SUMMARY - 4 < len(cut.encode()) <= MAX_SUMMARY
    assert set(cut) == {letter, "…"}


def test_a_short_summary_stays_as_it_is() -> None:
    """It is cut only where it must be."""
    assert _fitting("ж" * 200) == "ж" * 200
