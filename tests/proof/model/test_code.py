"""The model, the schema and the code have the same transitions of an order's status."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from orders.models import Status
from tests.proof.model.activities import Activities
from tests.proof.model.configurations import CONFIGURATIONS
from tests.proof.model.explorer import explore
from tests.proof.model.protocol import Protocol
from tests.proof.model.state import CLOSED

ROOT: Final = Path(__file__).parents[3]
ACTIVITIES: Final = ROOT / "activities"
MOVING: Final = (ACTIVITIES, ROOT / "gateways", ROOT / "app")  # all code that may write to PostgreSQL
MOVERS: Final = {"move_row", "_move"}
OUTSIDE: Final = {
    ("processing", "shipping"),
    ("processing", "shipped"),
    ("shipping", "shipped"),
    ("shipped", "delivered"),
}  # by events of the warehouse

Pair = tuple[str, str]


@pytest.mark.prove
async def test_the_database_allows_what_the_model_does(database_url: str) -> None:
    """Each transition of the model is a row of order_transitions, and each row is taken in the model."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT from_status, to_status FROM order_transitions")
    finally:
        await connection.close()
    assert {(row["from_status"], row["to_status"]) for row in rows} == edges_of_the_model() | OUTSIDE


@pytest.mark.prove
def test_the_code_makes_the_transitions_of_the_model() -> None:
    """Each transition that the code can make is taken in the model, and the other way round."""
    assert set(pairs_in_the_code()) == edges_of_the_model() | OUTSIDE


def test_the_models_activities_are_the_codes() -> None:
    """Each activity of the model is one of the code, by name."""
    assert {name for name in vars(Activities) if not name.startswith("_")} <= set(activities_of_the_code())


@cache
def edges_of_the_model() -> frozenset[Pair]:
    names = ("3DS, the run itself is cancelled", "terminated, shipping, expiry")
    return frozenset(edge for name in names for edge in explore(Protocol(CONFIGURATIONS[name])).edges)


def pairs_in_the_code() -> Iterator[Pair]:
    """From each function that calls a mover, and from each statement that writes an event together with a row."""
    for path in sorted(path for folder in MOVING for path in folder.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                yield from pairs_in_function(path, node)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from pairs_in_sql(node.value)


def pairs_in_function(path: Path, function: ast.AsyncFunctionDef | ast.FunctionDef) -> Iterator[Pair]:
    """Two statuses next to each other in a call; or, for release_stock, a table of what follows which status."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and called(node) in MOVERS:
            found = [pair for pair in pairwise(map(status_of, node.args)) if all(pair)]
            handed_on = called(node) == "move_row" and function.name in {"_move", "_close"}
            assert found or handed_on, f"{path.name}:{node.lineno}: between which statuses does it move?"
            yield from ((str(before), str(after)) for before, after in found)
        if isinstance(node, ast.Dict) and function.name == "release_stock":
            for key, value in zip(node.keys, node.values, strict=True):
                before, after = status_of(key), status_of(value)
                assert before, f"{path.name}:{node.lineno}: from which status does it close?"
                yield from ((before, closed) for closed in ({after} if after else CLOSED))


def pairs_in_sql(text: str) -> Iterator[Pair]:
    """`'absent', 'pending'` beside an INSERT INTO order_events; a parameter stands for however an order closes."""
    if "INSERT INTO order_events" not in text:
        return
    for before, after, parameter in re.findall(r"'([a-z]+)', (?:'([a-z]+)'|(\$\d+))", text):
        if before in {"absent", *Status}:
            yield from ((before, each) for each in (CLOSED if parameter else {after}))


def activities_of_the_code() -> Iterator[str]:
    for path in ACTIVITIES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef) and any(map(is_defn, node.decorator_list)):
                yield node.name


def is_defn(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Attribute) and decorator.attr == "defn"


def called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def status_of(node: ast.expr | None) -> str | None:
    match node:
        case ast.Attribute(value=ast.Name(id="Status"), attr=name):
            return Status[name].value
    return None
