"""Results for people; and the JSON for scripts where it is more than a model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from app.cli.command import Session
from app.cli.layout import Cell, Row, count_of, line, show, table, time_of
from client.runs import Run, StuckRun
from client.schedules import ScheduleView
from orders.models import CancelOutcome, CancelView, Model, OrderOutcome, OrderView
from orders.names import CHECK_INVENTORY, PAYMENT_WARNING, RECONCILE_ORDERS, VERIFY_ORDERS
from orders.recommendations import IndexProgress, RecommendationsOutcome, Source
from orders.stock import StockReport
from orders.verification import VerifyReport

SOURCES: Final[Mapping[Source, str]] = {
    Source.MODEL: "the language model's choice among what is most like their purchases",
    Source.SIMILARITY: "what is most like their purchases",
    Source.POPULAR: "what is popular with other customers",
}
UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))  # of time, in seconds
ADVICE: Final = {
    CHECK_INVENTORY: "the alert about low stock was not posted: mend SLACK_WEBHOOK, then starter.py check-inventory",
    RECONCILE_ORDERS: "its alerts were not posted: mend SLACK_WEBHOOK, and read the run's page",
    VERIFY_ORDERS: "an invariant is broken: starter.py verify",
}

# ------------------------------------------------------------------------------------------------------------- orders


def show_order(out: Console, outcome: OrderOutcome, link: str) -> None:
    code = humanize(outcome.error_code) if outcome.error_code else ""
    show(
        out,
        f"{outcome.order_id} is placed" if outcome.success else f"{outcome.order_id} is not placed: {code}",
        {
            "why": outcome.error,
            "payment": outcome.payment_intent,
            "fulfillment": outcome.fulfillment_id,
            "Web UI": link,
        },
    )


def show_cancel(out: Console, order_id: str, outcome: CancelOutcome, link: str) -> None:
    show(
        out,
        f"{order_id} is cancelled" if outcome.cancelled else f"{order_id} is not cancelled",
        {
            "reason": humanize(outcome.reason) if outcome.reason else None,
            "money": "refunded" if outcome.refunded else None,
            "Web UI": link,
        },
    )


def show_status(
    out: Console,
    session: Session,
    found: Iterable[tuple[Run, OrderView | CancelView | None]],
    warnings: Sequence[str],
) -> None:
    for run, view in found:
        facts = {
            "state": run.state,
            "stage": humanize(run.stage) if run.stage else None,
            "started": time_of(run.started),
        }
        if isinstance(view, OrderView):
            facts |= {
                "stock": "reserved or sold" if view.inventory_reserved else "nothing held",
                "payment": f"{view.payment_intent or 'none'}, {'charged' if view.payment_processed else 'not charged'}",
                "fulfillment": view.fulfillment_status,
            }
        elif view is None:
            facts |= {"details": "no worker answers"}
        facts |= {"parked": ", ".join(view.stuck) if view else None, "needs attention": run.needs_attention}
        show(out, run.workflow_id, facts | {"Web UI": session.link(run.workflow_id, run.run_id)})
    for warning in warnings:
        line(out, f"Payment: {warning}")


def show_runs(out: Console, session: Session, runs: Sequence[Run]) -> None:
    if not runs:
        out.print("There are none.")
        return
    rows = (_named(session, run, run.stage or "", run.state, time_of(run.started)) for run in runs)
    table(out, ("run", "stage", "state", "started"), rows)


def show_stuck(out: Console, session: Session, found: Sequence[StuckRun]) -> None:
    if not found:
        out.print("No run needs an operator.")
        return
    rows = (_named(session, each.run, _what(each), time_of(each.since), advice_about(each)) for each in found)
    table(out, ("run", "what", "since", "what to do"), rows)


# -------------------------------------------------------------------------------------------- stock, recommendations


def show_stock(out: Console, report: StockReport, link: str) -> None:
    low = len(report.low_stock_items) + report.unlisted
    earlier = ", the others earlier" if report.alerted < low and not report.undelivered else ""
    if low:
        rows = (
            (item.product_id, item.product_name, str(item.quantity), str(item.reorder_level))
            for item in report.low_stock_items
        )
        table(out, ("product", "name", "units", "reorder level"), rows)
    facts = {
        "not listed": f"{report.unlisted} more" if report.unlisted else None,
        "alerted": f"{report.alerted} now{earlier}" if low else None,
        "not alerted": report.undelivered,
        "Web UI": link,
    }
    show(out, f"{count_of(low, 'product')} at or below the reorder level", facts)


def show_recommendations(out: Console, customer: str, outcome: RecommendationsOutcome, link: str) -> None:
    facts = {"source": SOURCES[outcome.source], "why not the model's": outcome.fallback, "Web UI": link}
    show(out, f"{count_of(len(outcome.recommendations), 'recommendation')} for {customer}", facts)
    if outcome.recommendations:
        rows = ((each.product_id, each.name, each.reason) for each in outcome.recommendations)
        table(out, ("product", "name", "reason"), rows)


def show_index(out: Console, progress: IndexProgress, link: str) -> None:
    facts = {
        "model": f"{progress.target.model}, {progress.target.dimensions} dimensions",
        "searched": "yes" if progress.finished else "not yet: some products were not reached, the next run goes on",
        "Web UI": link,
    }
    show(out, f"{progress.embedded} of {count_of(progress.products, 'product')} embedded", facts)


# ---------------------------------------------------------------------------------------------------------- invariants


def show_verdict(out: Console, report: VerifyReport, link: str) -> None:
    """Every invariant, with the orders and products that break it."""
    intact = Text("?") if report.unverified else Text("✓", "green")
    rows = []
    for rule, meaning in report.rules.items():
        broken = [f"{each.subject}: {each.what}" for each in report.violations if each.rule == rule]
        rows.append((Text("✗", "red") if broken else intact, (meaning, *broken)))
    table(out, ("", "rule"), rows)
    unlisted = report.count - len(report.violations)
    facts = {
        "not listed": f"{unlisted} more" if unlisted else None,
        "alerted": f"{report.alerted} now" if report.count else None,
        **{f"not verified {number}": what for number, what in enumerate(report.unverified, start=1)},
        "Web UI": link,
    }
    show(out, f"{count_of(report.count, 'violation')}, {count_of(report.checked, 'order')} verified", facts)


# ----------------------------------------------------------------------------------------------------------- schedules


def show_schedules(out: Console, session: Session, found: Iterable[ScheduleView]) -> None:
    rows = (
        Row(
            (
                each.name,
                duration(each.every) if each.every else "",
                _next(each),
                tuple(f"{run.state}, {time_of(run.started)}" for run in each.runs) or "none yet",
            ),
            (session.schedule_link(each.name),),
        )
        for each in found
    )
    table(out, ("schedule", "every", "next run", "last runs"), rows)


def duration(seconds: int) -> str:
    """In the largest unit that divides it."""
    for unit, size in UNITS:
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


# ------------------------------------------------------------------------------------------------------------- scripts


def run_json(session: Session, run: Run) -> dict[str, Any]:
    return {**run.model_dump(mode="json"), "link": session.link(run.workflow_id, run.run_id)}


def json_of(model: Model | None) -> dict[str, Any] | None:
    return model.model_dump(mode="json") if model else None


# --------------------------------------------------------------------------------------------------------------- parts


def humanize(name: str) -> str:
    return name.replace("_", " ")


def _named(session: Session, run: Run, *cells: Cell) -> Row:
    return Row((run.workflow_id, *cells), (session.link(run.workflow_id),))


def _what(found: StuckRun) -> Cell:
    return found.parked or found.run.needs_attention or ""


def advice_about(found: StuckRun) -> str:
    """What an operator can do about a run that is marked."""
    if found.run.needs_attention == PAYMENT_WARNING:
        return "answer it in the Stripe dashboard; starter.py cancel-order ORDER stops what has not left"
    if advice := ADVICE.get(found.run.workflow):
        return advice
    if found.parked:
        command = f"starter.py resolve {found.run.order_id} --step …"
        return f"check what was undone, then {command} --retry, --skip or --resolved, and --reason"
    if found.run.closed and not (found.run.needs_attention or "").startswith("notification:"):
        return "its run is gone: reconcile-orders restarts the order"
    if found.run.closed:
        return "the message was given up: reach its addressee by other means"
    return "the run retries by itself: look for the cause"


def _next(found: ScheduleView) -> str:
    if not found.applied:
        return "never: starter.py schedules apply"
    if found.paused:
        return f"paused: {found.note}"
    if found.every is None:
        return found.note
    return time_of(found.next) if found.next else ""
