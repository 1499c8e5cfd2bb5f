"""The page at /: payments per order, shipments, messages and the journal. It has no script; all text is escaped."""

import json
from collections.abc import Iterable
from decimal import Decimal
from html import escape
from typing import Any, Final

from sandbox.world import MONEY, World

LATEST: Final = 200
ZERO_DECIMAL: Final = ("jpy",)

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<title>Sandbox</title>
<style>
  body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }}
  table {{ border-collapse: collapse; margin-bottom: 2rem; }}
  caption {{ text-align: left; font-weight: 600; padding: .5rem 0; }}
  th, td {{ text-align: left; vertical-align: top; padding: .15rem .75rem; border-top: 1px solid #ddd; }}
  td {{ font-family: ui-monospace, monospace; font-size: 12px; overflow-wrap: anywhere; }}
</style>
<h1>The sandbox: Stripe, warehouse, e-mail, analytics, Slack and OpenAI, simulated</h1>
{tables}
</html>
"""


def render(world: World) -> str:
    records = world.provider_records()
    tables = (
        _table("Payments (Stripe)", ("order", *(kind.replace("_", " ") for kind in MONEY)), _money(records["orders"])),
        _table("Shipments", ("order", "id", "status"), _columns(records["fulfillment"], "orderId", "id", "status")),
        _table("E-mail", ("to", "template", "data"), _columns(records["emails"], "to", "template", "data")),
        _table("Alerts (Slack)", ("text",), _columns(records["alerts"], "text")),
        _table("Analytics", ("event", "user", "data"), _columns(records["events"], "event", "userId", "properties")),
        _table("Requests, newest first", ("at", "service", "request", "status", "fault", "body"), _journal(world)),
    )
    return _PAGE.format(tables="\n".join(tables))


def _table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption>\n<tr>{head}</tr>\n{body}</table>"


def _text(cell: object) -> str:
    return escape(cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False))


def _money(orders: dict[str, dict[str, Any]]) -> Iterable[Iterable[object]]:
    for order, money in orders.items():
        yield (order, *(_amount(money[kind], money["currency"]) for kind in MONEY))


def _amount(minor: int, currency: str) -> str:
    return f"{Decimal(minor).scaleb(0 if currency in ZERO_DECIMAL else -2)} {currency}"


def _columns(rows: Iterable[dict[str, Any]], *names: str) -> Iterable[Iterable[object]]:
    return ([row[name] for name in names] for row in rows)


def _journal(world: World) -> Iterable[Iterable[object]]:
    for entry in reversed(list(world.journal.about())[-LATEST:]):
        request = f"{entry['method']} {entry['path']}"
        replayed = " replayed" if entry["replayed"] else ""
        yield (
            entry["at"],
            entry["service"],
            request,
            f"{entry['status'] or '-'}{replayed}",
            entry["fault"] or "",
            entry["body"],
        )
