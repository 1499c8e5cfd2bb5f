"""How results look on a terminal of any width: no id, link or command is cut, and none is broken over two lines.

Text wraps between words only, and `…` in backticks counts as one word. A table that does not fit becomes one block for
each row. Every text is shown without characters that control a terminal: any client may start a run under any id.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from orders.plain_text import without_harmful

GAP: Final = 2  # columns between two cells
MIN_PROSE: Final = 24  # columns; text in a narrower column is hard to read
WORD: Final = re.compile(r"`[^`]*`\S*|\S+")


class Whole(str):
    """A text to paste, such as a command: it stays on one line, however long."""

    __slots__ = ()


Cell: TypeAlias = str | tuple[str, ...] | Text  # a tuple has one line for each item; a Text keeps its style


class Row(NamedTuple):
    """A row of a table, and the links or commands that follow it on lines of their own."""

    cells: Sequence[Cell]
    below: tuple[str, ...] = ()


def line(out: Console, text: str, style: str = "") -> None:
    """A line of text, wrapped."""
    _print(out, _wrapped(text, out.width), style)


def show(out: Console, headline: str, facts: Mapping[str, Cell | None]) -> None:
    """A headline, and the facts that have a value."""
    line(out, headline, "bold")
    _facts(out, facts)


def table(out: Console, header: Sequence[str], rows: Iterable[Row | Sequence[Cell]]) -> None:
    """Rows below a header; if they do not fit beside each other, a block for each row."""
    given = [row if isinstance(row, Row) else Row(row) for row in rows]
    columns = list(zip(header, *(row.cells for row in given), strict=True))
    widths = [max(cell_len(without_harmful(part)) for cell in column for part in _parts(cell)) for column in columns]
    widest = widths.index(max(widths))
    room = out.width - GAP * (len(widths) - 1) - sum(widths) + widths[widest]
    words = (word for cell in columns[widest] for part in _parts(cell) for word in _words(part))
    least = max(MIN_PROSE, *map(cell_len, words))
    fits = room >= min(widths[widest], least)
    widths[widest] = min(room, widths[widest])
    if fits:
        _print_row(out, [Text(name, "dim") for name in header], widths)
    for row in given:
        if fits:
            _print_row(out, row.cells, widths)
        else:
            _print(out, _lines(row.cells[0], out.width), _style(row.cells[0]) or "bold")
            _facts(out, dict(zip(header[1:], row.cells[1:], strict=True)))
        _print(out, map(without_harmful, row.below), "dim")


def time_of(moment: datetime) -> str:
    """In this machine's time zone, which is named."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def count_of(number: int, noun: str) -> str:
    """`1 product`, `2 products`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _facts(out: Console, facts: Mapping[str, Cell | None]) -> None:
    """Each value beside its name, or below it if it does not fit there."""
    given = {name: value for name, value in facts.items() if value}
    indent = max(map(len, given), default=0) + 2 * GAP
    room = out.width - indent
    for name, value in given.items():
        label = f"{'':{GAP}}{name}"
        lines = _lines(value, room)
        if room < MIN_PROSE or _width(lines) > room:
            _print(out, [label])
            _print(out, _lines(value, out.width - 2 * GAP), _style(value), 2 * GAP)
        else:
            out.print(Text(label.ljust(indent)).append(lines[0], _style(value)), soft_wrap=True)
            _print(out, lines[1:], _style(value), indent)


def _print_row(out: Console, cells: Sequence[Cell], widths: Sequence[int]) -> None:
    columns = [_lines(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, columns))):
        text = Text()
        for cell, lines, width in zip(cells, columns, widths, strict=True):
            part = lines[number] if number < len(lines) else ""
            text.append(part, _style(cell)).append(" " * (width - cell_len(part) + GAP))
        text.rstrip()
        out.print(text, soft_wrap=True)


def _print(out: Console, lines: Iterable[str], style: str | Style = "", indent: int = 0) -> None:
    for each in lines:
        out.print(Text(" " * indent).append(each, style), soft_wrap=True)


def _style(cell: Cell) -> str | Style:
    return cell.style if isinstance(cell, Text) else ""


def _parts(cell: Cell) -> tuple[str, ...]:
    return cell if isinstance(cell, tuple) else (cell.plain if isinstance(cell, Text) else cell,)


def _lines(cell: Cell, width: int) -> list[str]:
    return [line for part in _parts(cell) for line in _wrapped(part, width)]


def _words(text: str) -> list[str]:
    plain = without_harmful(text)
    return [plain] if isinstance(text, Whole) else WORD.findall(plain)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most that width; a word that is longer has a line of its own."""
    if isinstance(text, Whole):
        return [without_harmful(text)]
    lines = [""]
    for word in _words(text):
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _width(lines: Iterable[str]) -> int:
    return max(map(cell_len, lines), default=0)
