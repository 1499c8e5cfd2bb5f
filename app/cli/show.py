"""Results for people; and the JSON for scripts where it is more than a model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from app.cli.command import Session
from app.cli.layout import Cell, Row, Whole, count_of, line, show, table, time_of
from app.cli.standing import Needs, StandingRun
from client.resolutions import StepEnd
from client.runs import Run
from client.schedules import ScheduleView
from orders.commands import command_line
from orders.models import (
    CLOSED,
    Attention,
    CancelOutcome,
    CancelReason,
    ErrorCode,
    Model,
    OrderOutcome,
    OrderView,
    RefundOutcome,
    RefundReason,
    Status,
    View,
)
from orders.money import DECIMALS
from orders.money import show as amount_of
from orders.order_report import ListedOrder, OrderReport
from orders.recommendations import IndexProgress, RecommendationsOutcome, Source
from orders.stock import StockReport
from orders.verification import VerifyReport

SOURCES: Final[Mapping[Source, str]] = {
    Source.MODEL: "the language model's choice among what is most like their purchases",
    Source.SIMILARITY: "what is most like their purchases",
    Source.POPULAR: "what is popular with other customers",
}
UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))  # of time, in seconds
PLACED: Final = "placed"  # the outcome of a run that has placed its order
TECHNICAL: Final = frozenset({ErrorCode.FAILED, ErrorCode.AUTHORIZATION_EXPIRED})  # no business refusals

# ------------------------------------------------------------------------------------------------------------- orders


def show_order(out: Console, outcome: OrderOutcome, link: str) -> None:
    code = humanize(outcome.error_code) if outcome.error_code else ""
    show(
        out,
        f"{outcome.order_id} is placed" if outcome.success else f"{outcome.order_id} is not placed: {code}",
        {
            "why": outcome.error,
            "another try": another_try(outcome),
            "total": _amount(outcome.total, outcome.currency),
            "payment": outcome.payment_intent,
            "fulfillment": outcome.fulfillment_id,
            "Web UI": link,
        },
    )


def _amount(number: float | None, currency: str | None) -> str | None:
    if number is None or currency is None:
        return None
    return f"{number:.{DECIMALS[currency]}f} {currency}"


def another_try(outcome: OrderOutcome) -> str | None:
    """Whether another try needs a new id; None for an order that is placed, or that waits for an operator."""
    if outcome.error_code is None:
        return None
    if outcome.error_code is ErrorCode.CANCELLED:
        return _needs_new_id(Status.CANCELLED)
    special = {
        ErrorCode.UNDO_PARKED: f"not yet: `{command_line('status', outcome.order_id)}` says what the order waits for",
        ErrorCode.PAYMENT_REQUIRED: f"the order keeps its stock: {_pay_command(outcome.order_id)}",
        ErrorCode.AUTHENTICATION_REQUIRED: (
            f"the customer authenticates the payment, or pays with another: {_pay_command(outcome.order_id)}"
        ),
        ErrorCode.INVALID_ORDER: "may have the same order id: nothing was kept of this one",
        ErrorCode.ORDER_ID_CONFLICT: "needs a new order id: this one belongs to another order",
    }
    closed_as = Status.FAILED if outcome.error_code in TECHNICAL else Status.REJECTED
    return special.get(outcome.error_code) or _needs_new_id(closed_as)


def _pay_command(order_id: str) -> str:
    return f"`{command_line('pay', order_id, '--payment-method', 'PAYMENT_METHOD')}`"


def _needs_new_id(status: Status) -> str:
    return f"needs a new order id: an order that is {status} stays {status}"


def show_cancel(out: Console, order_id: str, outcome: CancelOutcome, link: str) -> None:
    is_parked = outcome.reason == CancelReason.UNDO_PARKED
    show(
        out,
        f"{order_id} is cancelled" if outcome.cancelled else f"{order_id} is not cancelled",
        {
            "reason": humanize(outcome.reason) if outcome.reason else None,
            "money": "refunded" if outcome.refunded else None,
            "what to do": f"`{command_line('status', order_id)}` says what it waits for" if is_parked else None,
            "Web UI": link,
        },
    )


def show_refund(out: Console, order_id: str, outcome: RefundOutcome, link: str) -> None:
    is_parked = outcome.reason is RefundReason.REFUND_PARKED
    reason = humanize(outcome.reason) if outcome.reason else None
    show(
        out,
        f"{outcome.refund_id} of {order_id} is {'refunded' if outcome.refunded else 'not refunded'}",
        {
            "reason": reason,
            "why": outcome.error,
            "amount": _amount(outcome.refund_amount, outcome.currency),
            "status": outcome.status,
            "back in stock": count_of(outcome.restocked, "unit") if outcome.restocked else None,
            "what to do": f"`{command_line('status', order_id)}` says what it waits for" if is_parked else None,
            "Web UI": link,
        },
    )


def show_status(  # noqa: PLR0913, PLR0917 (what the database says, what Temporal says, and what follows)
    out: Console,
    session: Session,
    order: OrderReport | None,
    missing: str,
    needs: Sequence[Needs],
    found: Sequence[StandingRun],
) -> None:
    """The order as its row has it, then what it waits for, then its runs."""
    if order:
        _show_report(out, order)
    elif missing:
        line(out, f"{missing}. Only the runs are shown; what became of the order, PostgreSQL knows.")
    elif any(each.run.outcome == PLACED for each in found):
        why = "it is another database, or was restored to an earlier time (docs/production.md, Backup)"
        line(out, f"There is no row of this order at DATABASE_URL, but its run has placed it, so it is charged: {why}.")
    else:
        what = "nothing is reserved, charged or sent"
        line(out, f"There is no row of this order at DATABASE_URL. If that is the database of its shop, {what}.")
    for need in needs:
        _show_need(out, need)
    for each in found:
        run = each.run
        facts = {
            "state": run.state,
            "outcome": _outcome(run) if run.outcome else None,
            "stage": None if run.outcome else _outcome(run),
            "started": time_of(run.started),
            "waits": _required(each.view),
            "details": None if each.view else "no worker answers",
            "Web UI": session.link(run.workflow_id, run.run_id),
        }
        show(out, f"run {run.workflow_id}", facts)


def _required(view: View | None) -> str | None:
    """What the order waits for, if that is another payment method."""
    required = view.payment_required if isinstance(view, OrderView) else None
    return f"{required.error}: {_pay_command(required.order_id)}" if required else None


def show_orders(out: Console, orders: Sequence[ListedOrder]) -> None:
    if not orders:
        out.print("There are none.")
        return
    rows = ((each.id, _state_of(each), each.amount, time_of(each.created_at)) for each in orders)
    table(out, ("order", "state", "amount", "created"), rows)


def show_runs(out: Console, session: Session, runs: Sequence[Run]) -> None:
    if not runs:
        out.print("There are none.")
        return
    rows = (_named(session, run, _outcome(run), run.state, time_of(run.started)) for run in runs)
    table(out, ("run", "outcome or stage", "state", "started"), rows)


def show_stuck(out: Console, session: Session, found: Sequence[Needs], missing: str) -> None:
    if not found:
        out.print("No run needs an operator.")
    for each in found:
        name = each.run.workflow_id if each.run else f"order {each.order_id}"
        link = session.link(each.run.workflow_id, each.run.run_id) if each.run else None
        _show_need(out, each, name, link)
    if missing:
        line(out, f"{missing}. Orders that are parked without a run are not shown.")


def _show_report(out: Console, order: OrderReport) -> None:
    facts = {
        "why": order.error,
        "another try": _needs_new_id(order.status) if order.status in CLOSED else None,
        "price": order.price,
        "money": order.money,
        "payment": order.payment_intent,
        "shipment": order.shipment,
        "messages": "; ".join(f"{each.kind} {humanize(each.state)}" for each in order.notifications) or "none yet",
        "created": time_of(order.created_at),
    }
    show(out, f"{order.id} is {_state_of(order)}", facts)
    for part in order.partial_refunds:
        units = f", {count_of(part.restock, 'unit')} back in stock" if part.restocked and part.restock else ""
        why = f" ({humanize(part.refusal)})" if part.refusal else ""
        said_why = f": {part.reason}" if part.reason else ""
        amount = amount_of(part.amount, order.currency)
        line(out, f"Refund {part.refund_id} of {amount} is {part.status}{why}{units}, {time_of(part.at)}{said_why}")
    for parcel in order.parcels:
        line(out, f"Parcel {parcel.id}, {parcel.text}")
        if parcel.tracking_url:
            line(out, Whole(f"  {parcel.tracking_url}"))
    for each in order.warnings:
        amount = f" over {amount_of(each.amount, order.currency)}" if each.amount else ""
        text = f"{each.kind} {each.id}{amount} is {each.status} ({each.reason}), since {time_of(each.at)}"
        line(out, f"Payment warning: {text}")
    for said in order.resolutions:
        line(out, f"{said.actor} said {said.action} of {said.step}, {time_of(said.at)}: {said.reason}")


def show_retry(out: Console, step: str, end: StepEnd, command: str | None, link: str) -> None:
    headline = {
        "done": "is done",
        "parked": "is parked again",
        "under_way": "is still being tried",
        "ended": "is not done: its run was ended",
    }[end.state]
    why = "how" if end.state == "done" else "why"
    show(out, f"{step} {headline}", {why: end.text, "Web UI": link})
    if command:
        line(out, Whole(f"  {command}"))


def _show_need(out: Console, need: Needs, name: str | None = None, link: str | None = None) -> None:
    """What needs an operator, below the name of its run if that is not said already."""
    attention, advice = need.attention, need.advice
    facts = {
        "what": _what(attention) if name else None,
        "why": attention.reason or "not known: no worker answers",
        "since": time_of(attention.since) if attention.since else None,
        "amount": need.amount,
        "what to do": advice.text,
        "Web UI": link,
    }
    show(out, name or _what(attention), facts)
    if advice.command:
        line(out, Whole(f"  {advice.command}"))


def _what(attention: Attention) -> str:
    if attention.parked:
        return f"{attention.what} is parked"
    return f"{attention.what} keeps failing" if attention.actions else attention.what


def _outcome(run: Run) -> str:
    """How the run ended; until then where it is."""
    return humanize(run.outcome or run.stage or "")


def _state_of(order: ListedOrder) -> str:
    return f"{order.status}, parked at {order.parked.step}" if order.parked else order.status


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


def _next(found: ScheduleView) -> str:
    if not found.applied:
        return f"never: `{command_line('schedules', 'apply')}`"
    if found.paused:
        return f"paused: {found.note}"
    if found.every is None:
        return found.note
    return time_of(found.next) if found.next else ""
