"""The gateway to the language model: its requests, the answers it accepts, and its errors."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from config.settings import SANDBOX_OPENAI_KEY
from gateways.http import open_http
from gateways.openai import LanguageModel, Refused, Unusable, openai_client
from orders.errors import Permanent, Unavailable
from orders.recommendations import KEY_REFUSED, IndexTarget
from tests.support.activity_bench import ActivityBench

TARGET = IndexTarget(model="text-embedding-3-small", dimensions=8)
PROMPT = "the text that was sent"
SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


@pytest.fixture
async def model(bench: ActivityBench) -> AsyncIterator[LanguageModel]:
    """The sandbox's model, with a short time-out."""
    async with open_http(3) as http:
        client = openai_client(http, SANDBOX_OPENAI_KEY, f"{bench.sandbox.url}/openai/v1")
        yield LanguageModel(client, model="gpt-4o", max_tokens=100)


def vectors(*rows: Any) -> dict[str, Any]:
    """An answer with these embeddings."""
    return {"data": [{"index": index, "embedding": row} for index, row in enumerate(rows)]}


def completion(message: Any, finish_reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


async def test_texts_become_vectors_of_length_1(bench: ActivityBench, model: LanguageModel) -> None:
    """In the order of the texts, in one request, whatever length the model's vectors have."""
    assert len(await model.embed(["a lamp", "a pen"], TARGET)) == 2
    bench.fault("openai", "status", status=200, body=vectors([3e200, 4e200, 0, 0, 0, 0, 0, 0]))
    assert await model.embed(["a lamp"], TARGET) == [pytest.approx([0.6, 0.8, 0, 0, 0, 0, 0, 0])]

    first, _ = bench.calls("openai", "/embeddings")
    assert first["body"] == {
        "model": TARGET.model,
        "input": ["a lamp", "a pen"],
        "dimensions": 8,
        "encoding_format": "float",
    }


EIGHT = [1.0] * 8
BAD_VECTORS: dict[str, Any] = {
    "no JSON": "<html>down</html>",
    "another form": {"vectors": []},
    "none": vectors(),
    "one too many": vectors(EIGHT, EIGHT),
    "of another text": {"data": [{"index": 1, "embedding": EIGHT}]},
    "too short": vectors([1.0] * 7),
    "too long": vectors([1.0] * 9),
    "no direction": vectors([0.0] * 8),
    "infinite": '{"data": [{"index": 0, "embedding": [1e999, 0, 0, 0, 0, 0, 0, 0]}]}',
    "no number": vectors([None, *[0.0] * 7]),
}


@pytest.mark.parametrize("body", BAD_VECTORS.values(), ids=BAD_VECTORS)
async def test_bad_vectors_are_refused(bench: ActivityBench, model: LanguageModel, body: Any) -> None:
    """Another request would not help; the error quotes nothing."""
    bench.fault("openai", "status", status=200, body=body)
    with pytest.raises(Permanent) as refused:
        await model.embed([PROMPT], TARGET)

    assert refused.value.type == "embeddings_refused"
    assert PROMPT not in str(refused.value)


@pytest.mark.parametrize("first", [{"index": 0}, {}], ids=["numbered", "without its 0"])
async def test_vectors_in_another_order(bench: ActivityBench, model: LanguageModel, first: dict[str, int]) -> None:
    """Each belongs to the text of its index."""
    one, two = [1.0, *[0.0] * 7], [0.0, 1.0, *[0.0] * 6]
    body = {"data": [{"index": 1, "embedding": two}, first | {"embedding": one}]}
    bench.fault("openai", "status", status=200, body=body)
    assert await model.embed(["a lamp", "a pen"], TARGET) == [one, two]

    in_order = await model.embed(["a lamp", "a pen"], TARGET)
    bench.world.openai.reversed = True
    assert await model.embed(["a lamp", "a pen"], TARGET) == in_order


FIXED = "text-embedding-ada-002"


async def test_a_model_that_takes_no_dimensions(bench: ActivityBench, model: LanguageModel) -> None:
    """It is asked without them, next time at once; its vectors must have the length that the settings name."""
    for _ in range(2):
        (vector,) = await model.embed(["a lamp"], IndexTarget(model=FIXED, dimensions=1536))
        assert len(vector) == 1536
    assert ["dimensions" in call["body"] for call in bench.calls("openai")] == [True, False, False]

    with pytest.raises(Permanent, match="one has 1536 dimensions, and EMBEDDING_DIMENSIONS is 8"):
        await model.embed(["a lamp"], IndexTarget(model=FIXED, dimensions=8))


async def test_texts_that_are_refused_for_their_dimensions(bench: ActivityBench, model: LanguageModel) -> None:
    """A refusal that quotes them is a refusal without `dimensions` too, and the next request has them again."""
    bench.fault("openai", "status", status=422, body={"detail": "a desk of large dimensions"}, times=2)
    with pytest.raises(Refused):
        await model.embed(["a desk of large dimensions"], TARGET)

    await model.embed(["a lamp"], TARGET)
    assert ["dimensions" in call["body"] for call in bench.calls("openai")] == [True, False, True]


UNUSABLE: dict[str, tuple[Any, str]] = {
    "no JSON": ("<html>down</html>", "there is none"),
    "no choice": ({"choices": []}, "there is none"),
    "another form": ({"output": "x"}, "there is none"),
    "cut off": (completion({"content": "{"}, "length"), "it is cut off"),
    "withheld": (completion({"content": None}, "content_filter"), "it is withheld"),
    "a refusal": (completion({"content": None, "refusal": "I can't"}), "it is a refusal"),
}


@pytest.mark.parametrize(("body", "problem"), UNUSABLE.values(), ids=UNUSABLE)
async def test_answers_that_cannot_be_used(bench: ActivityBench, model: LanguageModel, body: Any, problem: str) -> None:
    """The problem is named in short, so that the caller can ask again."""
    bench.fault("openai", "status", status=200, body=body)
    with pytest.raises(Unusable) as unusable:
        await model.answer("Say it.", PROMPT, SCHEMA)

    assert str(unusable.value) == problem


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a refused key": ({"kind": "status", "status": 401}, Unavailable, KEY_REFUSED),
    "a key without the right": ({"kind": "status", "status": 403}, Unavailable, KEY_REFUSED),
    "a limit": ({"kind": "status", "status": 429}, Unavailable, "openai_limited"),
    "an outage": ({"kind": "status", "status": 500}, Unavailable, "openai_unavailable"),
    "a proxy's outage": ({"kind": "status", "status": 503, "body": "<html>"}, Unavailable, "openai_unavailable"),
    "a redirect": ({"kind": "status", "status": 302}, Unavailable, "openai_unavailable"),
    "a lost answer": ({"kind": "reset_after"}, Unavailable, "openai_unavailable"),
    "no answer": ({"kind": "hang_before"}, Unavailable, "openai_unavailable"),
    "a bad request": ({"kind": "status", "status": 400}, Permanent, "openai_refused"),
    "an unknown model": ({"kind": "status", "status": 404}, Permanent, "openai_refused"),
    "one too large": ({"kind": "status", "status": 413}, Permanent, "openai_refused"),
    "an unprocessable one": ({"kind": "status", "status": 422}, Permanent, "openai_refused"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("call", ["embed", "answer"])
async def test_errors_of_openai(bench: ActivityBench, model: LanguageModel, name: str, call: str) -> None:
    """One request, never repeated by the SDK; the error quotes neither the request nor the key."""
    fault, error, kind = ERRORS[name]
    quoting = {"error": {"code": PROMPT, "message": f"{PROMPT} {SANDBOX_OPENAI_KEY}", "type": "x", "param": None}}
    bench.fault("openai", **({"body": quoting} | fault))
    with pytest.raises(error) as raised:
        await (model.embed([PROMPT], TARGET) if call == "embed" else model.answer("Say it.", PROMPT, SCHEMA))

    assert getattr(raised.value, "type", None) == kind
    assert len(bench.calls("openai")) == 1
    for text in (str(raised.value), repr(raised.value), repr(raised.value.__cause__)):
        assert PROMPT not in text
        assert SANDBOX_OPENAI_KEY not in text


async def test_the_limits_retry_after_is_kept(bench: ActivityBench, model: LanguageModel) -> None:
    """Temporal waits as long as OpenAI asks; the error quotes OpenAI's code."""
    body = {"error": {"code": "insufficient_quota", "message": "x", "type": "x", "param": None}}
    bench.fault("openai", "status", status=429, headers={"Retry-After": "7"}, body=body)
    with pytest.raises(Unavailable, match="HTTP 429 insufficient_quota") as limited:
        await model.answer("Say it.", PROMPT, SCHEMA)

    assert limited.value.next_retry_delay is not None
    assert limited.value.next_retry_delay.total_seconds() == 7


WAITS: dict[str, tuple[dict[str, str], float | None]] = {
    "milliseconds": ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
    "seconds first": ({"retry-after": "7", "x-ratelimit-reset-requests": "1m"}, 7),
    "the longest": ({"x-ratelimit-reset-requests": "1s", "X-RateLimit-Reset-Tokens": "1m6.5s"}, 66.5),
    "the one that is used up": (
        {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-remaining-tokens": "90",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        0.12,
    ),
    "a number": ({"x-ratelimit-reset-tokens": "12"}, 12),
    "too long": ({"x-ratelimit-reset-tokens": "1d2h3m"}, 300),
    "none": ({"x-ratelimit-reset-tokens": "0"}, None),
    "nonsense": ({"retry-after-ms": "soon", "x-ratelimit-reset-tokens": "1.2.3s"}, None),
}


@pytest.mark.parametrize(("headers", "seconds"), WAITS.values(), ids=WAITS)
async def test_limits_in_other_forms(
    bench: ActivityBench, model: LanguageModel, headers: dict[str, str], seconds: float | None
) -> None:
    """All that OpenAI documents, and its SDK understands."""
    bench.fault("openai", "status", status=429, headers=headers)
    with pytest.raises(Unavailable) as limited:
        await model.answer("Say it.", PROMPT, SCHEMA)

    delay = limited.value.next_retry_delay
    assert (delay and delay.total_seconds()) == seconds


async def test_without_a_key_there_is_no_request(bench: ActivityBench) -> None:
    """No client is created, whatever else the environment has."""
    async with open_http(3) as http:
        client = openai_client(http, "", f"{bench.sandbox.url}/openai/v1")
        model = LanguageModel(client, model="gpt-4o", max_tokens=100)
        with pytest.raises(Permanent, match="OPENAI_API_KEY is empty"):
            await model.embed(["a"], TARGET)

    assert not model.is_there
    assert bench.calls("openai") == []
