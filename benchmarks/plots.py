"""The plots of docs/performance.md, as SVG. They need matplotlib: `make bench-peers`."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.arms.registry import ARMS
from benchmarks.cells import CART, Cell
from benchmarks.docs import IMAGES
from benchmarks.measure.statistics import spread
from benchmarks.report import PROCESSES, Figure, answer, cell_of, cpu_of, done, rate, usual
from benchmarks.results import CellResult, HotResult, Result

STYLE: Final = {
    "svg.hashsalt": "benchmarks",  # the same figures make the same file
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
}
BUSY: Final = Cell(16)
ALONE: Final = Cell(1)


def draw_all(results: Sequence[Result]) -> list[str]:
    """Draw every plot that the results fill, in docs/images/. Returns the lines of Markdown that show them."""
    import matplotlib as mpl  # noqa: PLC0415 (an optional package)

    mpl.use("svg")
    names = [arm.name for arm in ARMS]
    cells = sorted((each for each in results if isinstance(each, CellResult)), key=lambda each: names.index(each.arm))
    hot = [each for each in results if isinstance(each, HotResult)]
    shown = []
    with mpl.rc_context(STYLE):
        if cells:
            shown += [
                _draw("bench-rate", "Orders a second over customers at a time", lambda axes: _rate(axes, cells)),
                _draw("bench-latency", "First answer and completion of one order", lambda axes: _latency(axes, cells)),
                _draw("bench-cpu", "CPU of an order, by process", lambda axes: _cpu(axes, cells)),
            ]
        if hot:
            shown.append(_draw("bench-hot", "Reservations a second over customers", lambda axes: _hot(axes, hot)))
    return shown


def _draw(name: str, title: str, fill: Callable[[Any], None]) -> str:
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    canvas = Canvas(figsize=(7.5, 4), layout="constrained")
    fill(canvas.subplots())
    canvas.savefig(IMAGES / f"{name}.svg", metadata={"Date": None, "Creator": None})
    return f"![{title}](images/{name}.svg)"


def _cpu(axes: Any, results: Sequence[CellResult]) -> None:  # noqa: ANN401 (matplotlib's)
    arms = _arms(results, BUSY)
    left = [0.0] * len(arms)
    for process in PROCESSES:
        widths = [_median(results, arm, BUSY, cpu_of(process)) or 0.0 for arm in arms]
        if any(widths):
            axes.barh(arms, widths, left=left, label=process)
            left = [one + other for one, other in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("ms of CPU for an order, 16 customers")
    axes.legend(frameon=False)


def _rate(axes: Any, results: Sequence[CellResult]) -> None:  # noqa: ANN401
    loads = sorted({each.customers for each in results if each.items == CART and each.offered is None})
    for arm in dict.fromkeys(each.arm for each in results):
        points = [(load, value) for load in loads if (value := _median(results, arm, Cell(load), rate)) is not None]
        axes.plot(*zip(*points, strict=True), marker="o", label=arm)
    axes.set_xscale("log", base=2)
    axes.set_xticks(loads, [str(load) for load in loads])
    axes.set_yscale("log")
    axes.set_xlabel("customers at a time")
    axes.set_ylabel("orders a second")
    axes.legend(frameon=False, ncols=2)


def _latency(axes: Any, results: Sequence[CellResult]) -> None:  # noqa: ANN401
    arms = _arms(results, ALONE)
    axes.barh(arms, [_median(results, arm, ALONE, done) or 0.0 for arm in arms], color="0.85", label="all is done")
    axes.barh(arms, [_median(results, arm, ALONE, answer) or 0.0 for arm in arms], height=0.5, label="first answer")
    axes.invert_yaxis()
    axes.set_xlabel("ms, median, 1 customer")
    axes.legend(frameon=False)


def _hot(axes: Any, results: Sequence[HotResult]) -> None:  # noqa: ANN401
    loads = sorted({each.customers for each in results})
    for arm in dict.fromkeys(each.arm for each in results):
        for products in sorted({each.products for each in results}):
            found = [each for each in results if (each.arm, each.products) == (arm, products)]
            rates = [spread(each.rate for each in found if each.customers == load) for load in loads]
            label = f"{arm}, {products} product{'s' if products > 1 else ''}"
            style = "-" if products == 1 else ":"
            axes.plot(loads, [each and each.median for each in rates], style, marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(loads, [str(load) for load in loads])
    axes.set_yscale("log")
    axes.set_xlabel("customers at a time")
    axes.set_ylabel("reservations a second")
    axes.legend(frameon=False)


def _arms(results: Sequence[CellResult], cell: Cell) -> list[str]:
    return [*dict.fromkeys(each.arm for each in results if cell_of(each) == cell)]


def _median(results: Sequence[CellResult], arm: str, cell: Cell, figure: Figure) -> float | None:
    found = usual([each for each in results if each.arm == arm and cell_of(each) == cell], figure)
    return found and found.median
