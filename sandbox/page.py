"""The page for people who watch: money per order, shipments, messages and the journal. No script, all text escaped."""

import json
from collections.abc import Iterable
from decimal import Decimal
from html import escape
from typing import Any, Final

from sandbox.world import World

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
<h1>The outside world</h1>
{tables}
</html>
"""


def render(world: World) -> str:
    books = world.provider_records()
    tables = (
        _table("Money", ("order", "authorized", "captured", "refunded", "refund pending"), _money(books["orders"])),
        _table("Shipments", ("order", "id", "status"), _columns(books["fulfillment"], "orderId", "id", "status")),
        _table("E-mail", ("to", "template", "data"), _columns(books["emails"], "to", "template", "data")),
        _table("Alerts", ("text",), _columns(books["alerts"], "text")),
        _table("Events", ("event", "user", "properties"), _columns(books["events"], "event", "userId", "properties")),
        _table("Journal", ("at", "service", "request", "status", "fault", "body"), _journal(world)),
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
        kinds = ("authorized", "captured", "refunded", "refund_pending")
        yield (order, *(_amount(money[kind], money["currency"]) for kind in kinds))


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
