"""The tables of a run, in Markdown: medians of its rounds, and ratios within a round with their range."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from benchmarks.cells import CART, Cell
from benchmarks.measure.statistics import Spread, ratios, spread
from benchmarks.results import CellResult, Header, HotResult, Result, ScaleResult

NOTHING: Final = "–"  # noqa: RUF001 (as tables have it)
DISTURBED: Final = "†"  # marks a figure of which every round was flagged

Figure = Callable[[CellResult], float | None]

ENGINES: Final = {
    "dev": "the development server",
    "postgres": "the server on PostgreSQL",
    "given": "a server that was given by address",
    "none": "not used",
}
DATABASES: Final = ("engine", "shop")
PROCESSES: Final = ("worker", "temporal", "restate", "engine postgres", "shop postgres", "sandbox")


class Ratio(NamedTuple):
    """A figure of an arm in a cell, through that of the `beside` arm in the `other` cell, which is the same if None."""

    title: str
    figure: Figure
    beside: str | None
    cell: Cell
    other: Cell | None = None


def rate(result: CellResult) -> float:
    return result.rate


def answer(result: CellResult) -> float:
    return result.answer.p50


def done(result: CellResult) -> float:
    return result.done.p50


def cpu(result: CellResult) -> float:
    return result.cpu_total


def events(result: CellResult) -> float | None:
    return result.events


RATIOS: Final = (
    Ratio("orders/s through the floor's, 16 customers", rate, "floor", Cell(16)),
    Ratio("orders/s through the naive saga's, 16 customers", rate, "naive", Cell(16)),
    Ratio("first answer p50 through the naive saga's, 1 customer", answer, "naive", Cell(1)),
    Ratio("CPU of an order through the naive saga's, 16 customers", cpu, "naive", Cell(16)),
    Ratio("orders/s through those of DBOS with 7 steps, 16 customers", rate, "dbos-7", Cell(16)),
    Ratio("orders/s through those of Restate with 7 steps, 16 customers", rate, "restate-7", Cell(16)),
    Ratio("orders/s through those without an engine, 16 customers", rate, "no-engine", Cell(16)),
    Ratio("time of 50 items through that of 1, 1 customer", done, None, Cell(1, 50), Cell(1, 1)),
    Ratio("events of 50 items through those of 1", events, None, Cell(1, 50), Cell(1, 1)),
)


def report(header: Header, results: Sequence[Result]) -> str:
    """All tables that the results fill."""
    cells = [each for each in results if isinstance(each, CellResult)]
    hot = [each for each in results if isinstance(each, HotResult)]
    scale = [each for each in results if isinstance(each, ScaleResult)]
    parts = [_about(header)]
    parts += [_cell_table(cell, header, found) for cell, found in _by_cell(cells).items()]
    if ratio_table := _ratio_table(header, cells):
        parts.append(ratio_table)
    if hot:
        parts.append(_hot_table(hot))
    if scale:
        parts.append(_scale_table(scale))
    if any(each.is_flagged for each in cells) or any(each.is_flagged for each in hot):
        parts.append(
            f"{DISTURBED} Other programs used more than 0.2 cores in every round of this figure: it enters no ratio."
        )
    return "\n\n".join(parts)


def figures(results: Iterable[CellResult], figure: Figure) -> dict[int, float]:
    """A figure of each round that nobody disturbed."""
    return {each.round: value for each in results if not each.is_flagged and (value := figure(each)) is not None}


def of_cell(results: Iterable[CellResult], arm: str, cell: Cell) -> list[CellResult]:
    return [each for each in results if each.arm == arm and cell_of(each) == cell]


def cell_of(result: CellResult) -> Cell:
    return Cell(result.customers, result.items, is_open=result.offered is not None)


def _about(header: Header) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in header.versions.items())
    machine = f"{header.cores} cores ({header.processor})"
    measured = f"Measured {header.when} at commit {header.commit}, profile {header.profile}, {machine} for everything."
    skipped = [f"Skipped: {name}, because {why}." for name, why in header.skipped.items()]
    return "\n".join((f"{measured} Temporal is {ENGINES[header.engine]}. {versions}.", *skipped))


def _by_cell(results: Sequence[CellResult]) -> Mapping[Cell, list[CellResult]]:
    found: dict[Cell, list[CellResult]] = {}
    for each in results:
        found.setdefault(cell_of(each), []).append(each)
    return dict(
        sorted(found.items(), key=lambda pair: (pair[0].is_open, pair[0].items != CART, *vars(pair[0]).values()))
    )


def _cell_table(cell: Cell, header: Header, results: Sequence[CellResult]) -> str:
    processes = [name for name in PROCESSES if any(name in each.cpu for each in results)]
    heads = (
        "arm",
        "orders/s",
        *(("offered/s",) if cell.is_open else ()),
        "first answer ms p50 / p99",
        "done ms p50 / p99",
        f"CPU ms: all; {', '.join(processes)}",
        "fsyncs engine; shop",
        "WAL KB engine; shop",
        "events; workflow tasks; KB",
    )
    found = {arm: [each for each in results if each.arm == arm] for arm in header.arms}
    rows = [_cell_row(cell, arm, rounds, processes) for arm, rounds in found.items() if rounds]
    return "\n".join((f"### {cell.name[0].upper()}{cell.name[1:]}", "", *_markdown(heads, rows)))


def _cell_row(cell: Cell, arm: str, results: Sequence[CellResult], processes: Sequence[str]) -> list[str]:
    def shown(figure: Figure, digits: int = 0) -> str:
        found = usual(results, figure)
        return NOTHING if found is None else f"{found.median:.{digits}f}"

    kilobytes = shown(lambda each: each.history_bytes and each.history_bytes / 1000, 1)
    return [
        arm,
        _with_range(usual(results, rate), 1) + (DISTURBED if all(each.is_flagged for each in results) else ""),
        *((shown(lambda each: each.offered, 1),) if cell.is_open else ()),
        f"{shown(answer)} / {shown(lambda each: each.answer.p99)}",
        f"{shown(done)} / {shown(lambda each: each.done.p99)}",
        f"{shown(cpu)}; {', '.join(shown(cpu_of(name)) for name in processes)}",
        "; ".join(shown(_fsyncs_of(name), 1) for name in DATABASES),
        "; ".join(shown(_wal_of(name), 1) for name in DATABASES),
        f"{shown(events)}; {shown(lambda each: each.workflow_tasks)}; {kilobytes}",
    ]


def cpu_of(process: str) -> Figure:
    return lambda result: result.cpu.get(process)


def _fsyncs_of(database: str) -> Figure:
    return lambda result: result.postgres[database].fsyncs


def _wal_of(database: str) -> Figure:
    return lambda result: result.postgres[database].wal_bytes / 1000


def usual(results: Iterable[CellResult], figure: Figure) -> Spread | None:
    """Of the rounds that nobody disturbed; of all rounds if there is none."""
    found = [*results]
    calm = spread(figures(found, figure).values())
    return calm or spread(value for each in found if (value := figure(each)) is not None)


def _ratio_table(header: Header, results: Sequence[CellResult]) -> str:
    arms = [arm for arm in header.arms if arm.startswith("product")]
    rows = []
    for ratio in RATIOS:
        values = [_ratio(results, arm, ratio) for arm in arms]
        if any(values):
            rows.append([ratio.title, *(_with_range(value, 2, "x") for value in values)])
    return "\n".join(("### Ratios", "", *_markdown(("figure", *arms), rows))) if rows else ""


def _ratio(results: Sequence[CellResult], arm: str, ratio: Ratio) -> Spread | None:
    return ratios(
        figures(of_cell(results, arm, ratio.cell), ratio.figure),
        figures(of_cell(results, ratio.beside or arm, ratio.other or ratio.cell), ratio.figure),
    )


def _hot_table(results: Sequence[HotResult]) -> str:
    cells = sorted({(each.products, each.customers) for each in results})
    heads = ("products", "customers", "arm", "reservations/s", "ratio", "p50 / p99 ms", "ratio of p99", "CPU ms")
    rows = [
        _hot_row(products, customers, arm, [e for e in results if (e.products, e.customers) == (products, customers)])
        for products, customers in cells
        for arm in ("for-update", "product")
    ]
    return "\n".join(("### Reservations alone", "", *_markdown(heads, rows)))


def _hot_row(products: int, customers: int, arm: str, results: Sequence[HotResult]) -> list[str]:
    mine = [each for each in results if each.arm == arm]
    usual = [each for each in results if each.arm == "for-update"]

    def shown(figure: Callable[[HotResult], float], digits: int) -> str:
        calm = spread(_hot_figures(mine, figure).values())
        found = calm or spread(figure(each) for each in mine)
        return f"{found.median:.{digits}f}" if found else NOTHING

    def ratio(figure: Callable[[HotResult], float]) -> str:
        return _with_range(ratios(_hot_figures(mine, figure), _hot_figures(usual, figure)), 2, "x")

    return [
        str(products),
        str(customers),
        arm,
        shown(lambda each: each.rate, 0) + (DISTURBED if all(each.is_flagged for each in mine) else ""),
        ratio(lambda each: each.rate),
        f"{shown(lambda each: each.latency.p50, 1)} / {shown(lambda each: each.latency.p99, 1)}",
        ratio(lambda each: each.latency.p99),
        shown(lambda each: each.cpu, 2),
    ]


def _hot_figures(results: Iterable[HotResult], figure: Callable[[HotResult], float]) -> dict[int, float]:
    return {each.round: figure(each) for each in results if not each.is_flagged}


def _scale_table(results: Sequence[ScaleResult]) -> str:
    sizes = [*dict.fromkeys(each.size for each in results)]
    found = {(each.what, each.size): each for each in results}
    rows = []
    for what in dict.fromkeys(each.what for each in results):
        row = [found.get((what, size)) for size in sizes]
        rows.append([what, *(_scaled(each) if each else NOTHING for each in row)])
    return "\n".join(("### Size", "", *_markdown(("", *sizes), rows)))


def _scaled(result: ScaleResult) -> str:
    return f"{result.value:.1f} {result.unit}{f', {result.note}' if result.note else ''}"


def _with_range(found: Spread | None, digits: int, unit: str = "") -> str:
    if found is None:
        return NOTHING
    text = f"{found.median:.{digits}f}{unit}"
    return f"{text} ({found.low:.{digits}f}{NOTHING}{found.high:.{digits}f})" if found.size > 1 else text


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' for _ in heads)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"
