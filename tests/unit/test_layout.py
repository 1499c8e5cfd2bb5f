"""How results look on a terminal of any width: nothing that an operator copies is cut or broken."""

import io
from datetime import UTC, datetime, timedelta, timezone

import pytest
from rich.console import Console
from rich.text import Text

from app.cli.layout import Row, Whole, count_of, line, show, table, time_of

LINK = "http://127.0.0.1:8233/namespaces/default/workflows/cancel-order:order-0123456789ab"
COMMAND = ".venv/bin/python starter.py resolve order-0123456789ab --step void_payment --retry --reason 'mended'"
WHY = "the bank refused the refund (expired_or_canceled_card: The card is closed), and so did a second attempt"
WIDTHS = (40, 60, 80, 120, 160)


def a_console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def lines_of(out: Console) -> list[str]:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_to_copy_is_broken(width: int) -> None:
    """A link, an id and a command are each on one line, in facts and in tables; other text keeps to the width."""
    out = a_console(width)
    show(out, "order-0123456789ab is parked", {"why": WHY, "to resolve": Whole(COMMAND), "Web UI": LINK, "none": None})
    line(out, f"Look again: `{COMMAND}`.")
    rows = [Row(("cancel-order:order-0123456789ab", "void payment", WHY, "2026-11-29 02:15:14 UTC"), (LINK,))]
    table(out, ("run", "step", "reason", "since"), rows)

    lines = lines_of(out)
    assert sum(LINK in each for each in lines) == 2
    assert sum(COMMAND in each for each in lines) == 2
    assert any("cancel-order:order-0123456789ab" in each and LINK not in each for each in lines)
    words = " ".join(lines).split()
    assert all(words.count(word) >= 2 for word in WHY.split())
    others = [each for each in lines if LINK not in each and COMMAND not in each and "cancel-order" not in each]
    assert all(len(each) <= width for each in others), others


def test_a_table_that_fits_has_columns() -> None:
    """Its longest text wraps inside its column, and every row begins below the header."""
    out = a_console(60)
    table(out, ("product", "reason"), [("1", WHY), ("22", ("one", "two"))])
    lines = lines_of(out)
    assert lines[0] == "product  reason"
    assert lines[1].startswith("1        the bank refused")
    assert lines[2].startswith("         ")
    assert lines[-2:] == ["22       one", "         two"]


def test_a_table_that_does_not_fit_becomes_blocks() -> None:
    """Each row is named by its first cell, and the header names the others."""
    out = a_console(40)
    table(out, ("run", "state", "started"), [("order-0123456789ab", "running", "2026-11-29 02:15:14 UTC")])
    assert lines_of(out) == ["order-0123456789ab", "  state    running", "  started  2026-11-29 02:15:14 UTC"]


def test_no_text_controls_the_terminal() -> None:
    """Neither escape sequences nor markup of the printing library have an effect."""
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor", highlight=False)
    table(out, ("a", "b"), [("\x1b[31mred", "[red]x[/red]")])
    show(out, "\x1b[2Jgone", {"a": "b\nWeb UI  http://evil.example"})
    text = "\n".join(lines_of(out))
    assert "\x1b[31m" not in text
    assert "\x1b[2J" not in text
    assert "[red]x[/red]" in text
    assert "b Web UI" in text


def test_wide_characters_keep_the_columns() -> None:
    """A character that takes two columns counts as two."""
    out = a_console(60)
    table(out, ("name", "units"), [("茶杯", "3"), (Text("cup", "red"), "4")])
    assert lines_of(out) == ["name  units", "茶杯  3", "cup   4"]


def test_times_name_their_zone() -> None:
    """It is that of this machine."""
    assert time_of(datetime(2026, 11, 29, 2, 15, 14, tzinfo=UTC)).endswith(
        f" {datetime(2026, 11, 29, 2, 15, 14, tzinfo=UTC).astimezone().tzname()}"
    )
    far = timezone(timedelta(hours=14))
    assert time_of(datetime(2026, 11, 29, 2, 15, 14, tzinfo=far)) == time_of(
        datetime(2026, 11, 28, 12, 15, 14, tzinfo=UTC)
    )


@pytest.mark.parametrize(("number", "text"), [(0, "0 orders"), (1, "1 order"), (2, "2 orders")])
def test_singular_and_plural(number: int, text: str) -> None:
    assert count_of(number, "order") == text
