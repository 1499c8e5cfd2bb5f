"""The command line: what it starts, its output, its exit status."""

import json
import uuid
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import ListWorkflowExecutionsRequest, RegisterNamespaceRequest
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from app.cli.command import EXIT_CODES, MEANINGS, Exit
from gateways.temporal import reaching_temporal
from orders.errors import NoAnswer, Permanent
from orders.names import SEARCH_ATTRIBUTES
from tests.integration.cli.conftest import Starter
from tests.support.shop import Shop, an_order, eventually, new_order_id

DECLINED = "pm_card_chargeDeclined"
NOBODY = "127.0.0.1:1"


def a_file(folder: Path, **changes: object) -> str:
    file = folder / "order.json"
    file.write_text(json.dumps(an_order(**changes)))
    return str(file)


async def test_an_order_is_placed_from_a_file(shop: Shop, program: Starter, tmp_path: Path) -> None:
    """The output is the outcome and the link, the exit status 0."""
    order_id = new_order_id()
    said = await program("process-order", a_file(tmp_path), "--order-id", order_id)

    assert said.status == 0, said
    assert said.out.startswith(f"{order_id} is placed")
    assert f"http://127.0.0.1:8233/namespaces/default/workflows/{order_id}" in said.out
    assert await shop.status(order_id) == "processing"


async def test_an_order_is_placed_from_standard_input(shop: Shop, starter: Starter) -> None:
    """With --json standard output is the outcome as JSON, with a new order id."""
    said = await starter("process-order", "-", "--json", stdin=json.dumps(an_order()))

    assert said.status == 0, said
    outcome = said.json
    assert outcome["success"]
    assert outcome["paymentIntent"].startswith("pi_")
    assert await shop.status(outcome["orderId"]) == "processing"


async def test_a_business_no_is_exit_status_1(shop: Shop, starter: Starter, tmp_path: Path) -> None:
    """The output says why, for people and for scripts."""
    order_id, file = new_order_id(), a_file(tmp_path, paymentMethodId=DECLINED)
    said = await starter("process-order", file, "--order-id", order_id)
    assert (said.status, said.out.splitlines()[0]) == (1, f"{order_id} is not placed: card declined")
    assert "needs a new order id: an order that is rejected stays rejected" in said.out

    again = await starter("process-order", file, "--order-id", order_id, "--json")
    assert (again.status, again.json["errorCode"]) == (1, "card_declined")
    assert await shop.stock() == (100, 0)


async def test_a_technical_failure_is_exit_status_3(shop: Shop, starter: Starter, tmp_path: Path) -> None:
    """The order failed, and was undone."""
    shop.hooks.fail("request_fulfillment", Permanent("no", type="fulfillment_refuses_us"))
    said = await starter("process-order", a_file(tmp_path))

    assert said.status == 3, said
    assert "needs a new order id: an order that is failed stays failed" in said.out
    assert await shop.stock() == (100, 0)


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (b"", ["input: must be JSON"]),
        (b"{", ["input: must be JSON"]),
        (b"\xff\xfe\xfa", ["input: must be JSON"]),
        (b"[1, 2]", ["input: must be an object"]),
        (b" " * 100_000, ["input: must be at most 65536 bytes"]),
        (
            json.dumps(an_order(customerEmail="nobody", items=[{"productId": "1", "quantity": 0}])).encode(),
            ["customerEmail: ", "items[0].quantity: "],
        ),
        (json.dumps(an_order()).replace("29.99", "NaN").encode(), ["input: must be JSON"]),
    ],
)
async def test_bad_input_is_refused_before_anything(starter: Starter, content: bytes, problems: list[str]) -> None:
    """Exit status 2 and a line for each field, without a call to Temporal, which is out of reach here."""
    said = await starter("process-order", "-", stdin=content, TEMPORAL_ADDRESS=NOBODY)

    lines = said.err.splitlines()
    assert said.status == 2, said
    assert [line[: len(problem)] for line, problem in zip(lines, problems, strict=True)] == problems
    assert said.out == ""


@pytest.mark.parametrize(("name", "problem"), [("absent.json", "No such file"), (".", "Is a directory")])
async def test_a_bad_file_is_one_line(starter: Starter, name: str, problem: str) -> None:
    """The line says what is wrong with which file."""
    said = await starter("process-order", name, TEMPORAL_ADDRESS=NOBODY)

    assert said.status == 2, said
    assert said.err.splitlines() == [said.err.strip()]
    assert said.err.startswith(f"{name}: {problem}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("process-order",),
        ("process-order", "-", "--order-id", "a:b"),
        ("cancel-order", "a:b"),
        ("cancel-order", "o1", "--email", "nobody"),
        ("list", "--runs", "--stage", "nowhere"),
        ("list", "--status", "nowhere"),
        ("list", "--stage", "completed"),
        ("list", "--runs", "--status", "pending"),
        ("resolve", "o1", "--step", "void_payment", "--reason", "so"),
        ("resolve", "o1", "--step", "void_payment", "--reason", "so", "--retry", "--skip"),
    ],
)
async def test_bad_arguments_are_exit_status_2(starter: Starter, arguments: tuple[str, ...]) -> None:
    """There is an error message, and no call to Temporal."""
    said = await starter(*arguments, stdin=json.dumps(an_order()), TEMPORAL_ADDRESS=NOBODY)

    assert said.status == 2, said
    assert said.err


@pytest.mark.parametrize(
    "command",
    [
        ("process-order", "-"),
        ("cancel-order", "o1"),
        ("status", "o1"),
        ("list", "--runs"),
        ("stuck",),
        ("resolve", "o1", "--step", "void_payment", "--retry", "--reason", "so"),
        ("demo",),
        ("check-inventory",),
        ("recommend", "cus_123"),
        ("index-products",),
        ("schedules", "apply"),
        ("schedules", "list"),
        ("schedules", "pause", "index-products", "--reason", "so"),
        ("schedules", "resume", "index-products"),
        ("schedules", "trigger", "index-products"),
    ],
    ids=" ".join,
)
async def test_temporal_out_of_reach_is_one_line(starter: Starter, command: tuple[str, ...]) -> None:
    """Exit status 4 with one line; with --json the error is JSON too."""
    said = await starter(*command, "--json", stdin=json.dumps(an_order()), TEMPORAL_ADDRESS=NOBODY)

    assert said.status == 4, said
    assert said.err.startswith(f"Temporal is out of reach: nothing answers at {NOBODY}. Is `make up` running?")
    assert said.err.splitlines() == [said.err.strip()]
    assert said.json["error"] == said.err.strip()


async def test_a_namespace_that_is_not_there_is_named(starter: Starter) -> None:
    """With the setting to correct."""
    said = await starter("list", "--runs", TEMPORAL_NAMESPACE="nowhere")
    assert said.status == 4, said
    assert said.err.endswith("Correct TEMPORAL_NAMESPACE, e.g. TEMPORAL_NAMESPACE=default\n")


async def test_the_program_ends_with_that_status(program: Starter) -> None:
    """A process of its own prints all its output, and no traceback."""
    said = await program("list", "--runs", "--json", TEMPORAL_ADDRESS=NOBODY)

    assert said.status == 4, said
    assert said.err.splitlines() == [said.err.strip()]
    assert said.json["error"] == said.err.strip()


async def test_a_bad_setting_is_named(starter: Starter) -> None:
    """An invalid setting is bad input."""
    said = await starter("list", HTTP_TIMEOUT_SECONDS="never")
    assert said.status == 2
    assert said.err.startswith("HTTP_TIMEOUT_SECONDS: ")


@pytest.mark.prove
async def test_without_a_worker_it_says_so(temporal: WorkflowEnvironment, starter: Starter) -> None:
    """Exit status 4; the run exists."""
    namespace = await an_empty_namespace(temporal)
    said = await starter(
        "process-order", "-", "--order-id", "o1", stdin=json.dumps(an_order()), TEMPORAL_NAMESPACE=namespace
    )
    assert said.status == 4, said
    first, last = said.err.splitlines()
    assert first == "Waiting for o1. To look at it again: .venv/bin/python starter.py status o1"
    assert last.startswith("order o1 is kept by Temporal, but no worker polls the task queue `orders`")

    shown = await starter("status", "o1", TEMPORAL_NAMESPACE=namespace)
    assert shown.status == 0, shown
    assert "running" in shown.out
    assert "no worker answers" in shown.out


def test_a_namespace_that_is_not_set_up() -> None:
    """The text says what is missing, and how to create it. A development server answers so only at times."""
    text = "Namespace shop has no mapping defined for search attribute OrderStage"
    with (
        pytest.raises(NoAnswer, match=f"lacks a search attribute: {text}.*search-attribute create"),
        reaching_temporal(),
    ):
        raise RPCError(text, RPCStatusCode.INVALID_ARGUMENT, b"")


async def an_empty_namespace(temporal: WorkflowEnvironment) -> str:
    """A namespace without workers, with the search attributes."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    request = RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=Duration(seconds=86_400))
    await temporal.client.workflow_service.register_namespace(request)
    kinds = dict.fromkeys(SEARCH_ATTRIBUTES, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
    await temporal.client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=name, search_attributes=kinds), retry=True
    )

    async def is_known() -> bool:
        try:
            await temporal.client.workflow_service.list_workflow_executions(
                ListWorkflowExecutionsRequest(namespace=name, page_size=1, query="OrderStage IS NOT NULL")
            )
        except RPCError:
            return False
        return True

    await eventually(is_known, "the namespace is known")
    attributes = dict.fromkeys(SEARCH_ATTRIBUTES, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
    await temporal.client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=name, search_attributes=attributes)
    )
    return name


@pytest.mark.prove
async def test_a_parked_cancel_is_resolved_where_it_is_parked(shop: Shop, starter: Starter) -> None:
    """The parked run is that of cancel-order, and a skip ends it; the operator's name is kept."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    shop.hooks.fail("void_payment", Permanent("no", type="refund_failed"))
    assert (await starter("cancel-order", order_id)).status == 5

    word = ("--step", "void_payment", "--skip", "--reason", "paid in cash", "--by", "ada")
    said = await starter("resolve", order_id, *word, "--json")
    assert said.status == 0, said
    outcome = await shop.client.get_workflow_handle(f"cancel-order:{order_id}").result()
    assert outcome["cancelled"]
    assert await shop.pool.fetchval("SELECT actor FROM resolutions WHERE order_id = $1", order_id) == "ada"


async def test_an_order_is_cancelled(shop: Shop, starter: Starter) -> None:
    """Exit status 0 the first time, 1 with the reason the second time."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    said = await starter("cancel-order", order_id, "--email", "customer@example.com")
    assert (said.status, said.out.splitlines()[0]) == (0, f"{order_id} is cancelled")

    again = await starter("cancel-order", order_id, "--json")
    assert (again.status, again.json["reason"]) == (1, "already_cancelled")
    assert await shop.stock() == (100, 0)


async def test_an_unknown_order_is_exit_status_1(shop: Shop, starter: Starter) -> None:
    """`status` and `cancel-order` both refuse it."""
    order_id = new_order_id()
    said = await starter("status", order_id, DATABASE_URL=shop.settings.database_url.get_secret_value())
    assert (said.status, said.err.strip()) == (1, f"Temporal knows no order {order_id}")
    said = await starter("status", order_id, DATABASE_URL="postgresql://127.0.0.1:1/nothing")
    reason = "PostgreSQL at DATABASE_URL cannot be used: nothing answers at 127.0.0.1:1 (is `make up` running?)"
    assert (said.status, said.err.strip()) == (1, f"Temporal knows no order {order_id}. {reason}")
    cancelled = await starter("cancel-order", order_id, "--json")
    assert (cancelled.status, cancelled.json["reason"]) == (1, "unknown_order")
    assert await shop.status(order_id) is None


async def test_the_help_says_where_the_exit_statuses_are(starter: Starter) -> None:
    """It ends with one line about the command that lists them, which needs neither settings nor a server."""
    for command in ((), ("process-order",), ("schedules",), ("schedules", "apply")):
        shown = await starter(*command, "--help")
        assert [line for line in shown.out.splitlines() if line.strip()][-1].split() == EXIT_CODES.split()

    said = await starter("exit-codes", TEMPORAL_ADDRESS=NOBODY, DATABASE_URL="none")
    assert [int(line.split()[0]) for line in said.out.splitlines() if line[:1].isdigit()] == list(Exit)
    assert (await starter("exit-codes", "--json")).json == {str(status): MEANINGS[status] for status in Exit}
