"""The input of a run is read back as it was sent, also through a payload codec."""

import dataclasses
import json
from collections.abc import Sequence

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import PayloadCodec
from temporalio.testing import WorkflowEnvironment

from gateways.run_inputs import read_input
from orders.errors import NoAnswer
from orders.names import PROCESS_ORDER
from orders.parsing import parse_order, read_json
from tests.support.shop import an_order, new_order_id

NOBODYS_QUEUE = "nobody-works-here"


class Reversed(PayloadCodec):
    """Temporal keeps what only this codec can read."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload(metadata={"encoding": b"reversed"}, data=each.SerializeToString()[::-1]) for each in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload.FromString(each.data[::-1]) for each in payloads]


@pytest.fixture
def client(temporal: WorkflowEnvironment) -> Client:
    """A client with a codec, as of a shop that keeps addresses from Temporal."""
    config = temporal.client.config()
    config["data_converter"] = dataclasses.replace(config["data_converter"], payload_codec=Reversed())
    return Client(**config)


@pytest.mark.parametrize("payload", [an_order(), {"no": "order"}, None])
async def test_an_input_is_read_back(client: Client, payload: object) -> None:
    """Through the codec; a payload that is no order has no hash."""
    order_id = new_order_id()
    arguments = [] if payload is None else [payload]
    handle = await client.start_workflow(PROCESS_ORDER, args=arguments, id=order_id, task_queue=NOBODYS_QUEUE)
    try:
        given = await read_input(client, handle)
    finally:
        await handle.terminate()

    wanted = parse_order(order_id, read_json(json.dumps(payload))) if payload == an_order() else None
    assert given
    assert (given.workflow, given.payload is None) == (PROCESS_ORDER, payload is None)
    assert given.order_of(order_id) == wanted


async def test_a_run_that_temporal_does_not_have(client: Client) -> None:
    """None, for the caller to decide what that means; a namespace that is absent is an outage."""
    assert await read_input(client, client.get_workflow_handle(new_order_id())) is None

    elsewhere = Client(**client.config() | {"namespace": "nowhere"})
    with pytest.raises(NoAnswer):
        await read_input(elsewhere, elsewhere.get_workflow_handle(new_order_id()))
