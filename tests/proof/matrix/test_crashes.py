"""Workers that kill themselves at every crash point of every activity, and others that find all as it was left.

The engine gives the attempt that died with its worker up at once. tests/integration/e2e/test_killed_worker.py waits
until it has timed out.
"""

import ast
import asyncio
import inspect
import pkgutil
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import pytest
from pydantic import SecretStr
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

import workflows
from activities.payments import AUTHORIZE
from app.crash_points import crash_point
from app.startup_checks import CannotStart
from app.wiring import open_worker
from config.settings import Settings
from orders.names import cancel_order_id, notify_shipment_id, refund_order_id
from sandbox.server import serve
from tests.proof.matrix import scenarios, scheduled_workflows
from tests.proof.matrix.crashing_worker import IDENTITY, a_crashing_worker, points_of
from tests.proof.matrix.scenarios import Scenario, together_with
from tests.proof.matrix.scheduled_workflows import scheduled_id
from tests.support.invariants import assert_invariants
from tests.support.sample import sampled
from tests.support.shop import Shop, new_order_id, running, settings_for
from workflows.order_saga import STEPS

SECONDS: Final = 60  # that a scenario may take, with all its workers

LOST: Final = ApplicationError("its worker died", type="worker_died", next_retry_delay=timedelta(milliseconds=1))


class Cell(NamedTuple):
    """An order, the crash point at which it loses its worker, how the shop charges, and how it executes steps."""

    scenario: Scenario
    point: str
    capture: str = "manual"
    execution: str = "regular"


def cells(
    scenario: Scenario,
    activity: str,
    effects: Iterable[int],
    capture: str = "manual",
    execution: str = "regular",
) -> Iterator[Cell]:
    for point in ["begin", *(f"effect:{number}" for number in effects), "end"]:
        yield Cell(scenario, f"{activity}:{point}", capture, execution)


def name(cell: Cell) -> str:
    return "-".join([cell.scenario.__name__, cell.point, *{cell.capture, cell.execution} - {"manual", "regular"}])


ONE: Final = (1,)
TWO: Final = (1, 2)
THREE: Final = (1, 2, 3)

TABLE: Final = [
    *cells(scenarios.placed, "reserve_stock", ONE),
    *cells(scenarios.placed_together, "reserve_stock", ONE),
    *cells(scenarios.placed, "authorize_payment", THREE),  # created, its id written, confirmed
    *cells(scenarios.placed, "request_fulfillment", THREE),  # marked, asked, its id written
    *cells(scenarios.placed, "capture_payment", TWO),  # claimed, captured
    *cells(scenarios.placed, "finalize_order", ONE),
    *cells(scenarios.placed, "send_email", TWO),
    *cells(scenarios.placed, "track_order", TWO),
    *cells(scenarios.refused, "claim_undo", ONE),
    *cells(scenarios.refused, "cancel_fulfillment", ONE),
    *cells(scenarios.refused, "void_payment", ONE),
    *cells(scenarios.refused, "release_stock", ONE),
    *cells(scenarios.refused, "read_order", ()),
    *cells(scenarios.authenticated, "read_payment", ()),
    Cell(scenarios.expired, "capture_payment:effect:3"),  # claimed, not captured, given up
    *cells(scenarios.shipped_meanwhile, "resume_capture", ONE),
    *cells(scenarios.given_away, "reserve_stock", ONE),
    *cells(scenarios.given_away, "request_fulfillment", THREE),
    *cells(scenarios.given_away, "capture_payment", ONE),  # claimed
    *cells(scenarios.given_and_refused, "void_payment", ()),
    *cells(scenarios.given_and_cancelled, "release_stock", ONE),
    *cells(scenarios.given_meanwhile, "resume_capture", ONE),
    *cells(scenarios.parked, "park_order", ONE),
    *cells(scenarios.parked, "record_resolution", ONE),
    *cells(scenarios.unwritten, "give_up_notification", ONE),
    *cells(scenarios.unwritten, "post_alert", ONE),
    *cells(scenarios.cancelled, "claim_cancellation", ONE),
    Cell(scenarios.cancelled, "void_payment:effect:1"),  # refunded, not voided
    Cell(scenarios.cancelled, "void_payment:effect:2"),  # refunded, its id written
    *cells(scenarios.cancelled_short, "cancel_fulfillment", TWO),  # cancelled, what was short written down
    *cells(scenarios.cancelled_late, "mark_shipped", ONE),
    *cells(scenarios.cancelled_early, "claim_unreserved", ONE),
    *cells(scenarios.cancelled_without_a_run, "read_run", ()),
    *cells(scenarios.refunded, "claim_refund", ONE),
    *cells(scenarios.refunded, "make_refund", TWO),  # refunded, its id written
    *cells(scenarios.refunded, "return_stock", ONE),
    *cells(scenarios.refund_forestalled, "make_refund", TWO),  # the other refund written, withdrawn
    *cells(scheduled_workflows.restarted, "find_orders_without_run", ()),
    *cells(scheduled_workflows.restarted, "restart_order", ONE),
    *cells(scheduled_workflows.refund_restarted, "find_refunds_without_run", ()),
    *cells(scheduled_workflows.refund_restarted, "restart_refund", ONE),
    *cells(scheduled_workflows.told, "find_refunds", ()),
    *cells(scheduled_workflows.told, "find_stuck_refunds", ()),
    *cells(scheduled_workflows.told, "check_payments", ONE),
    *cells(scheduled_workflows.told, "find_orphans", ()),
    *cells(scheduled_workflows.told, "find_unconfirmed_orders", ()),
    *cells(scheduled_workflows.told, "find_payment_warnings", ()),
    *cells(scheduled_workflows.told, "check_shipments", ONE),
    *cells(scheduled_workflows.shipped_late, "cancel_stray_shipment", TWO),  # cancelled, said on the order
    Cell(scheduled_workflows.left_in_parcels, "check_shipments:effect:1"),  # followed
    *cells(scheduled_workflows.left_in_parcels, "notify_parcels", ()),
    *cells(scheduled_workflows.left_in_parcels, "refund_shortages", ()),
    *cells(scheduled_workflows.left_in_parcels, "find_recipient", ()),
    *cells(scheduled_workflows.left_in_parcels, "send_email", TWO),
    *cells(scheduled_workflows.left_in_parcels, "return_stock", ONE),
    *cells(scheduled_workflows.told, "find_parcel_problems", ()),
    *cells(scheduled_workflows.told, "unreported_problems", ()),
    *cells(scheduled_workflows.told, "mark_alerted", ONE),
    *cells(scheduled_workflows.refunded_orphan, "void_orphan", THREE),  # refunded, its id written, said on the order
    Cell(scheduled_workflows.voided_orphan, "void_orphan:effect:1"),  # voided, not refunded
    *cells(scheduled_workflows.voided_late, "note_event", ONE),
    *cells(scheduled_workflows.refunded_late, "follow_refunds", ONE),
    *cells(scheduled_workflows.released_late, "release_leftovers", ONE),
    *cells(scheduled_workflows.verified, "check_stock", ()),
    *cells(scheduled_workflows.verified, "check_schedules", ()),
    *cells(scheduled_workflows.verified, "find_verifiable", ()),
    *cells(scheduled_workflows.verified, "check_orders", ()),
    *cells(scheduled_workflows.low, "find_low_stock", ()),
    *cells(scheduled_workflows.low, "post_low_stock", THREE),  # leased, told, written down
    *cells(scheduled_workflows.recommended, "plan_index", ()),
    *cells(scheduled_workflows.recommended, "embed_batch", ONE),
    *cells(scheduled_workflows.recommended, "activate_index", ONE),
    *cells(scheduled_workflows.recommended, "choose_candidates", ()),
    *cells(scheduled_workflows.recommended, "rank_candidates", ()),
    # Charged at once: there is nothing to capture, and the order's own undo is a refund.
    Cell(scenarios.refused, "authorize_payment:effect:3", "automatic"),  # charged
    *cells(scenarios.refused, "void_payment", TWO, "automatic"),  # refunded, its id written
    Cell(scenarios.refused, "release_stock:begin", "automatic"),
    Cell(scenarios.placed, "capture_payment:effect:1", "automatic"),  # claimed
    Cell(scenarios.placed, "capture_payment:end", "automatic"),
    Cell(scenarios.given_away, "capture_payment:effect:1", "automatic"),  # claimed
    *cells(scenarios.given_and_refused, "void_payment", (), "automatic"),
    # Inside the one workflow task of all steps: the next worker begins with the first of them again.
    *cells(scenarios.placed, "reserve_stock", ONE, execution="local-first"),
    *cells(scenarios.placed, "authorize_payment", THREE, execution="local-first"),
    *cells(scenarios.placed, "request_fulfillment", THREE, execution="local-first"),
    *cells(scenarios.placed, "capture_payment", TWO, execution="local-first"),
    *cells(scenarios.placed, "finalize_order", ONE, execution="local-first"),
    *cells(scenarios.refused, "request_fulfillment", ONE, execution="local-first"),
    *cells(scenarios.given_away, "capture_payment", ONE, execution="local-first"),
]

# Of a step and of an undo: where their first effects have happened.
SAMPLED: Final = {AUTHORIZE.do.__name__, AUTHORIZE.undo.__name__}
SAMPLE: Final = {
    cell.point: cell for cell in TABLE if cell.point in {f"{activity}:effect:1" for activity in SAMPLED}
}.values()


@asynccontextmanager
async def a_deserted_shop(
    database_url: str, temporal: WorkflowEnvironment, *, has_model: bool = False, **changes: Any
) -> AsyncIterator[Shop]:
    """A shop without a worker; and without a language model, if nobody asks one: workers start faster."""
    async with serve() as sandbox, asyncpg.create_pool(database_url, min_size=1, max_size=2) as pool:
        changes |= {"http_timeout_seconds": 5, "reconcile_after_seconds": 0}
        changes |= {} if has_model else {"openai_api_key": SecretStr("")}
        settings = settings_for(f"{database_url}?role=orders_app", sandbox, **changes)
        shop = Shop(settings, temporal.client, temporal, sandbox, pool, task_queue=f"deserted-{new_order_id()}")
        yield shop
        await shop.end_all_runs()


def crashing(shop: Shop, point: str) -> Settings:
    return Settings.model_validate(shop.settings.model_dump() | {"crash_at": point})


@pytest.mark.parametrize("cell", sampled(TABLE, lambda cell: cell in SAMPLE), ids=name)
async def test_a_worker_dies_and_nothing_is_lost(
    cell: Cell, database_url: str, temporal: WorkflowEnvironment, tmp_path: Path
) -> None:
    """Whatever the worker had done when it was killed, orders and scheduled_workflows end as they would have, once."""
    order_id, log = new_order_id(), tmp_path / "crashing.log"
    asks_a_model = cell.scenario is scheduled_workflows.recommended
    async with (
        a_deserted_shop(
            database_url,
            temporal,
            has_model=asks_a_model,
            payment_capture=cell.capture,
            step_execution=cell.execution,
        ) as shop,
        asyncio.timeout(SECONDS),
    ):
        async with a_crashing_worker(shop.client, crashing(shop, cell.point), shop.task_queue, log) as process:
            order = asyncio.ensure_future(cell.scenario(shop, order_id))
            await until_dead(process, order)
            assert process.exitcode == -9, log.read_text()
            assert points_of(log)[-1] == cell.point
        async with open_worker(shop.settings, shop.client, task_queue=shop.task_queue) as worker, running(worker):
            await until_done(shop, order_id, order)
        for each in together_with(order_id):
            await assert_invariants(shop, each)
        assert await happened_twice(shop) == []
        kept = {row["id"] for row in await shop.pool.fetch("SELECT id FROM refunds")}
        assert kept == shop.world.stripe.account.refunds.keys(), "a refund that nobody will follow"


async def happened_twice(shop: Shop) -> list[object]:
    """What none of these orders does more than once, and this one did, though its books may balance.

    Alerts are not among it: Slack knows no idempotency keys.
    """
    books = shop.world.provider_records()
    effects = Counter[object](
        [
            *(("payment", payment["order"]) for payment in books["payments"]),
            *(("refund", refund.payment_intent) for refund in shop.world.stripe.account.refunds.values()),
            *(("shipment", shipment["orderId"]) for shipment in books["fulfillment"]),
            *(("notification", notification["order_id"], notification["kind"]) for notification in books["deliveries"]),
            *await shop.pool.fetch("SELECT order_id, from_status, to_status, why FROM order_events"),
        ]
    )
    return [effect for effect, times in effects.items() if times > 1]


async def until_dead(worker: BaseProcess, order: "asyncio.Future[None]") -> None:
    """See the worker to its end; raises what the order says if that ends first."""
    while worker.is_alive():
        if order.done():
            order.result()
            raise AssertionError("the order is done, and its worker lives")
        await asyncio.sleep(0.02)


async def until_done(shop: Shop, order_id: str, order: "asyncio.Future[None]") -> None:
    """See the order to its end; what the dead worker was doing is given up at once."""
    while not (await asyncio.wait([order], timeout=0.1))[0]:
        also = (
            cancel_order_id(order_id),
            refund_order_id(order_id, "r1"),
            refund_order_id(order_id, "shorted-1"),
            notify_shipment_id(order_id, "par_1"),
            scheduled_id(order_id),
        )
        for workflow_id in (*together_with(order_id), *also):
            with suppress(RPCError):  # that run has ended, or has not begun
                await give_up_lost_attempts(shop, workflow_id)
    await order


async def give_up_lost_attempts(shop: Shop, workflow_id: str) -> None:
    run = await shop.client.get_workflow_handle(workflow_id).describe()
    for attempt in run.raw_description.pending_activities:
        started = attempt.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        if started and attempt.last_worker_identity == IDENTITY:
            lost = shop.client.get_async_activity_handle(
                workflow_id=workflow_id, run_id=run.run_id, activity_id=attempt.activity_id
            )
            await lost.fail(LOST)
            await shop.pool.execute(
                "UPDATE stock_alerts SET leased_until = now() WHERE lease IS NOT NULL"
            )  # so has its lease


# ------------------------------------------------------------------------------------------------ the table is complete


def test_the_table_has_every_activity() -> None:
    """Whatever workflows can execute is in it."""
    assert {cell.point.partition(":")[0] for cell in TABLE} == executable()


@pytest.mark.prove
@pytest.mark.parametrize("capture", ["manual", "automatic"])
async def test_the_table_has_every_point_of_every_activity(
    database_url: str, temporal: WorkflowEnvironment, tmp_path: Path, capture: str
) -> None:
    """All points that undisturbed orders and scheduled workflows pass are in it."""
    table = {cell for cell in TABLE if (cell.capture, cell.execution) == (capture, "regular")}
    passed, log, nowhere = set[Cell](), tmp_path / "survivor.log", "read_order:effect:99"
    async with (
        a_deserted_shop(database_url, temporal, has_model=True, payment_capture=capture) as shop,
        a_crashing_worker(shop.client, crashing(shop, nowhere), shop.task_queue, log),
    ):
        for scenario in dict.fromkeys(cell.scenario for cell in TABLE if cell in table):
            before = len(points_of(log)) if log.exists() else 0
            await scenario(shop, new_order_id())
            passed |= {Cell(scenario, point, capture) for point in points_of(log)[before:]}
            await shop.clear()
    assert table <= passed
    assert {cell.point for cell in passed} <= {cell.point for cell in TABLE}
    if capture == "manual":
        assert {cell.point for cell in table} == {cell.point for cell in passed}


def executable() -> set[str]:
    """The activities that workflows name, by themselves or as steps."""
    found = {activity.__name__ for step in STEPS for activity in (step.do, step.undo)}
    for each in pkgutil.iter_modules(workflows.__path__):
        module = import_module(f"workflows.{each.name}")
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                method = getattr(getattr(module, node.value.id, None), node.attr, None)
                if hasattr(method, "__temporal_activity_definition"):
                    found.add(node.attr)
    return found


# -------------------------------------------------------------------------------------------------------- the setting


@pytest.mark.parametrize("crash_at", ["reserve_stock", "reserve_stock:", "reserve_stock:effect:0", "reserve:begin"])
async def test_a_point_that_does_not_exist_is_refused(
    crash_at: str, database_url: str, temporal: WorkflowEnvironment
) -> None:
    """At start, with a message that says which exist."""
    async with a_deserted_shop(database_url, temporal) as shop:
        with pytest.raises(CannotStart, match=r"CRASH_AT .* begin, effect:<n>, end .* reserve_stock"):
            async with open_worker(crashing(shop, crash_at), shop.client, task_queue=shop.task_queue):
                pass


@pytest.mark.parametrize("address", ["temporal.example:7233", "127.0.0.1.example:7233", "192.0.2.1:7233"])
async def test_no_worker_of_another_machines_temporal_crashes_on_purpose(address: str) -> None:
    """Orders of other people are there: CRASH_AT is refused before anything is asked."""
    elsewhere = await Client.connect(address, lazy=True)
    with pytest.raises(CannotStart, match=r"CRASH_AT .* TEMPORAL_ADDRESS"):
        async with open_worker(Settings(crash_at="reserve_stock:begin"), elsewhere):
            pass


def test_the_first_effect_needs_no_number() -> None:
    """Most activities have one only."""
    assert crash_point("reserve_stock:effect", {"reserve_stock"}) == "reserve_stock:effect:1"
