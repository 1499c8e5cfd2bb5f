"""The contract of OpenAI's API, by the real SDK. With OPENAI_CONTRACT_KEY=sk-… the tests run against OpenAI."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final, get_args

import httpx
import openai
import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from config.settings import OPENAI, SANDBOX_OPENAI_KEY
from sandbox.faults import Fault
from sandbox.openai_model import BadAnswer
from sandbox.server import Running

CONTRACT_KEY: Final = os.environ.get("OPENAI_CONTRACT_KEY", "")
SMALL: Final = "text-embedding-3-small"
LARGE: Final = "text-embedding-3-large"
MODEL: Final = "gpt-4o"
LAMP: Final = "Brass desk lamp"


@pytest.fixture(scope="session")
def base(shared_sandbox: Running) -> str:
    return OPENAI if CONTRACT_KEY else f"{shared_sandbox.url}/openai/v1"


@pytest.fixture(scope="session")
async def client(base: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """The real SDK, connected to the sandbox or to the real OpenAI."""
    async with openai.AsyncOpenAI(
        api_key=CONTRACT_KEY or SANDBOX_OPENAI_KEY, base_url=base, max_retries=0, timeout=30
    ) as client:
        yield client


@pytest.fixture
def scripted(sandbox: Running) -> Running:
    """The sandbox, for tests that the real OpenAI cannot run."""
    if CONTRACT_KEY:
        pytest.skip("needs the sandbox")
    return sandbox


async def embed(client: openai.AsyncOpenAI, texts: Any, model: str = SMALL, **more: Any) -> CreateEmbeddingResponse:
    return await client.embeddings.create(model=model, input=texts, **more)


async def refused(call: Awaitable[object]) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await call
    return caught.value


def nearness(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


# --------------------------------------------------------------------------------------------------------- embeddings

SIZES: Final = [(SMALL, None, 1536), (LARGE, None, 3072), (SMALL, 256, 256), (LARGE, 1536, 1536)]


@pytest.mark.parametrize(("model", "dimensions", "length"), SIZES)
async def test_an_embedding_has_its_models_length(
    client: openai.AsyncOpenAI, model: str, dimensions: int | None, length: int
) -> None:
    """An embedding has the requested number of dimensions, by default its model's, and length 1."""
    answer = await embed(client, LAMP, model, **({"dimensions": dimensions} if dimensions else {}))
    assert (answer.object, answer.model) == ("list", model)
    vector = answer.data[0].embedding
    assert len(vector) == length
    assert nearness(vector, vector) == pytest.approx(1, abs=1e-3)


async def test_embeddings_come_in_the_order_of_their_inputs(client: openai.AsyncOpenAI) -> None:
    """Each embedding has its index, and the usage counts the tokens of all inputs."""
    alone = (await embed(client, LAMP)).data[0].embedding
    answer = await embed(client, ["Linen notebook", LAMP])
    assert [(each.object, each.index) for each in answer.data] == [("embedding", 0), ("embedding", 1)]
    assert answer.data[1].embedding == pytest.approx(alone, abs=1e-2)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > (await embed(client, LAMP)).usage.total_tokens


async def test_base64_and_floats_are_the_same_vector(client: openai.AsyncOpenAI) -> None:
    """The SDK asks for base64 by default; floats are the same numbers."""
    raw = await client.embeddings.with_raw_response.create(model=SMALL, input=LAMP)
    assert isinstance(raw.http_response.json()["data"][0]["embedding"], str)
    packed = raw.parse()
    plain = await embed(client, LAMP, encoding_format="float")
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-2)


SIMILAR: Final = [
    (LAMP, "Steel desk lamp", "Linen notebook"),
    ("Coffee mugs, white", "Mug for coffee", "Desk lamp"),
    ("RUNNING", "Running shoes", "Garden hose"),
    ("Notebooks", "Notebook", "Desk lamp"),
]


@pytest.mark.parametrize(("text", "near", "far"), SIMILAR)
async def test_similar_texts_are_near_each_other(client: openai.AsyncOpenAI, text: str, near: str, far: str) -> None:
    """Texts that share words are closer than texts that do not."""
    vectors = [each.embedding for each in (await embed(client, [text, near, far])).data]
    assert nearness(vectors[0], vectors[1]) > nearness(vectors[0], vectors[2]) + 0.1


async def test_unlike_texts_are_at_right_angles(scripted: Running, client: openai.AsyncOpenAI) -> None:
    """Texts without a shared word are at nearly right angles, even with more words than dimensions."""
    assert scripted
    texts = ["Brass desk lamp with a warm shade", "Linen notebook, ruled, 200 pages", "Green garden hose of ten metres"]
    one, two, three = [each.embedding for each in (await embed(client, texts, dimensions=32)).data]
    assert all(abs(nearness(*pair)) < 0.4 for pair in ((one, two), (two, three), (one, three)))


async def test_every_text_has_a_direction(scripted: Running, client: openai.AsyncOpenAI) -> None:
    """No vector is zero, which has no cosine distance: not even for a text without words."""
    assert scripted
    for text in ("!?", " ", "灯", LAMP):
        for dimensions in (1, 2, 1536):
            vector = (await embed(client, text, dimensions=dimensions)).data[0].embedding
            assert nearness(vector, vector) == pytest.approx(1, abs=1e-3)


REFUSED_INPUTS: Final[list[tuple[dict[str, Any], int]]] = [
    ({"input": ""}, 400),
    ({"input": []}, 400),
    ({"input": ["lamp", ""]}, 400),
    ({"input": ["lamp"] * 2049}, 400),
    ({"input": "lamp " * 10_000}, 400),
    ({"input": ["lamp " * 1000] * 400}, 400),
    ({"input": ["ლამპა " * 300] * 200}, 400),
    ({"dimensions": 1537}, 400),
    ({"dimensions": 1536, "model": "text-embedding-ada-002"}, 400),
    ({"dimensions": 0}, 400),
    ({"encoding_format": "hex"}, 400),
    ({"model": "text-embedding-9"}, 404),
    ({"model": None}, 400),
    ({"inputs": "lamp"}, 400),
]


@pytest.mark.parametrize(("change", "status"), REFUSED_INPUTS, ids=lambda value: str(value)[:40])
async def test_what_cannot_be_embedded_is_refused(
    client: openai.AsyncOpenAI, change: dict[str, Any], status: int
) -> None:
    """An input over the limits on number, tokens or dimensions is refused with OpenAI's error object."""
    request = {"model": SMALL, "input": LAMP} | change
    error = await refused(client.post("/embeddings", body=request, cast_to=CreateEmbeddingResponse))
    assert error.status_code == status
    assert isinstance(error.body, dict)
    assert error.body.keys() >= {"message", "type", "param", "code"}
    assert error.request_id


CODES: Final[list[tuple[dict[str, Any], str, str | None]]] = [
    ({"input": ""}, "empty_string", "input"),
    ({"input": []}, "empty_array", "input"),
    ({"input": ["lamp"] * 2049}, "array_above_max_length", "input"),
    ({"input": ["lamp " * 1000] * 400}, "max_tokens_per_request", None),
    ({"dimensions": 1537}, "invalid_value", "dimensions"),
    ({"model": "text-embedding-9"}, "model_not_found", "model"),
    ({"inputs": "lamp"}, "unknown_parameter", "inputs"),
]


@pytest.mark.parametrize(("change", "code", "param"), CODES, ids=lambda value: str(value)[:40])
async def test_the_error_names_the_parameter(
    scripted: Running, client: openai.AsyncOpenAI, change: dict[str, Any], code: str, param: str | None
) -> None:
    """The error has OpenAI's documented code and names the parameter."""
    assert scripted
    request = {"model": SMALL, "input": LAMP} | change
    error = await refused(client.post("/embeddings", body=request, cast_to=CreateEmbeddingResponse))
    assert (error.code, error.param) == (code, param)


# --------------------------------------------------------------------------------------------------------------- keys


async def test_a_wrong_key_is_refused(base: str) -> None:
    """A wrong key is answered 401 invalid_api_key."""
    async with openai.AsyncOpenAI(api_key="sk-wrong", base_url=base, max_retries=0) as stranger:
        error = await refused(embed(stranger, LAMP))
    assert (error.status_code, error.code) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["embeddings", "chat/completions"])
async def test_a_missing_key_is_refused(scripted: Running, http: httpx.AsyncClient, path: str) -> None:
    """Every route answers 401 to a request without a key."""
    assert scripted
    answer = await http.post(f"/openai/v1/{path}", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_the_key_is_not_shown(scripted: Running, client: openai.AsyncOpenAI, http: httpx.AsyncClient) -> None:
    """The journal and the page show the request without its key."""
    await embed(client, LAMP)
    (entry,) = scripted.world.journal.about()
    assert (entry["service"], entry["path"], entry["body"]["input"]) == ("openai", "/v1/embeddings", LAMP)
    assert SANDBOX_OPENAI_KEY not in str(entry)
    page = (await http.get("/")).text
    assert LAMP in page
    assert SANDBOX_OPENAI_KEY not in page


# -------------------------------------------------------------------------------------------------------- completions

NAMES: Final = ("Garden hose", "Steel desk lamp", "Linen notebook", "Brass lamp shade", "Desk organiser", "Wool socks")
CANDIDATES: Final = [{"productId": f"p{at}", "name": name, "description": ""} for at, name in enumerate(NAMES)]


class Recommendation(BaseModel):
    productId: str  # noqa: N815  its name on the wire
    reason: str


class Recommendations(BaseModel):
    recommendations: list[Recommendation]


def prompt(candidates: list[dict[str, str]], *bought: str) -> list[dict[str, str]]:
    request = {"purchases": [{"name": name, "description": ""} for name in bought], "candidates": candidates}
    instructions = "Recommend five different candidates to this customer, best first. Answer as JSON."
    return [{"role": "system", "content": instructions}, {"role": "user", "content": json.dumps(request)}]


def schema(**changes: object) -> dict[str, Any]:
    """The strict schema of the answer, as an application would write it."""
    pick = {
        "type": "object",
        "properties": {"productId": {"type": "string"}, "reason": {"type": "string"}},
        "required": ["productId", "reason"],
        "additionalProperties": False,
    } | changes
    whole = {
        "type": "object",
        "properties": {"recommendations": {"type": "array", "items": pick}},
        "required": ["recommendations"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "recommendations", "strict": True, "schema": whole}}


async def complete(client: openai.AsyncOpenAI, **changes: Any) -> ChatCompletion:
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": prompt(CANDIDATES, LAMP),
        "response_format": schema(),
        "max_completion_tokens": 800,
        "temperature": 0,
        "store": False,
    } | changes
    completion: ChatCompletion = await client.chat.completions.create(**request)
    return completion


def picks(completion: ChatCompletion) -> list[str]:
    content = completion.choices[0].message.content or ""
    return [each.productId for each in Recommendations.model_validate_json(content).recommendations]


async def test_five_candidates_are_recommended(client: openai.AsyncOpenAI) -> None:
    """The answer is the requested JSON: five different candidates with a reason each; the usage is counted."""
    completion = await complete(client)
    (choice,) = completion.choices
    assert (completion.object, choice.index, choice.finish_reason) == ("chat.completion", 0, "stop")
    assert (choice.message.role, choice.message.refusal) == ("assistant", None)
    assert completion.model.startswith(MODEL)
    chosen = picks(completion)
    assert len(set(chosen)) == len(chosen) == 5
    assert set(chosen) < {each["productId"] for each in CANDIDATES}
    assert all(
        each.reason for each in Recommendations.model_validate_json(choice.message.content or "").recommendations
    )
    assert completion.usage
    assert completion.usage.prompt_tokens > completion.usage.completion_tokens > 0
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


async def test_candidates_are_ranked_by_shared_words(scripted: Running, client: openai.AsyncOpenAI) -> None:
    """Candidates that share more words with the purchases come first; ties keep their order."""
    assert scripted
    assert picks(await complete(client)) == ["p1", "p3", "p4", "p0", "p2"]
    notes = prompt(CANDIDATES, "Notebook", "Socks")
    assert picks(await complete(client, messages=notes))[:2] == ["p2", "p5"]


@pytest.mark.parametrize("number", [0, 1, 4, 5])
async def test_few_candidates_are_all_recommended(scripted: Running, client: openai.AsyncOpenAI, number: int) -> None:
    """All candidates are recommended if there are fewer than five, even to a customer without purchases."""
    assert scripted
    for bought in ([], [LAMP]):
        completion = await complete(client, messages=prompt(CANDIDATES[:number], *bought))
        assert sorted(picks(completion)) == [f"p{at}" for at in range(number)]


async def test_the_sdk_parses_the_answer(client: openai.AsyncOpenAI) -> None:
    """The SDK's parse helper works with the schema that it derives from a model."""
    completion = await client.chat.completions.parse(
        model=MODEL,
        messages=prompt(CANDIDATES, LAMP),  # type: ignore[arg-type]
        response_format=Recommendations,
    )
    parsed = completion.choices[0].message.parsed
    assert parsed
    assert len(parsed.recommendations) == 5


async def test_a_long_answer_is_cut_off(client: openai.AsyncOpenAI) -> None:
    """An answer ends at max_completion_tokens, with finish_reason length."""
    completion = await complete(client, max_completion_tokens=20)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage
    assert completion.usage.completion_tokens <= 20
    with pytest.raises(ValueError, match="Invalid JSON"):
        picks(completion)


async def test_other_questions_get_plain_text(client: openai.AsyncOpenAI) -> None:
    """The last message of the user is answered."""
    messages = [*prompt(CANDIDATES, LAMP), {"role": "user", "content": "Say hello, in one plain word."}]
    completion = await client.chat.completions.create(model=MODEL, messages=messages)  # type: ignore[arg-type]
    content = completion.choices[0].message.content
    assert content
    assert not content.startswith("{")


REFUSED_PROMPTS: Final[list[tuple[dict[str, Any], int, str | None]]] = [
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "customer", "content": "hello"}]}, 400, "messages"),
    ({"temperature": 3}, 400, "temperature"),
    ({"max_completion_tokens": 0}, 400, "max_completion_tokens"),
    ({"response_format": {"type": "json_schema"}}, 400, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, 400, "response_format"),
    ({"response_format": schema(additionalProperties=True)}, 400, "response_format"),
    ({"response_format": schema(required=["productId"])}, 400, "response_format"),
    ({"extra_body": {"max_words": 5}}, 400, "max_words"),
    ({"model": "gtp-4o"}, 404, "model"),
]


@pytest.mark.parametrize(("change", "status", "param"), REFUSED_PROMPTS, ids=lambda value: str(value)[:60])
async def test_a_wrong_prompt_is_refused(
    client: openai.AsyncOpenAI, change: dict[str, Any], status: int, param: str | None
) -> None:
    """A prompt with a wrong parameter or a schema that is not strict is refused, and the error names the parameter."""
    error = await refused(complete(client, **change))
    assert (error.status_code, error.type) == (status, "invalid_request_error")
    # OpenAI itself may name a path inside the parameter, or nothing.
    assert CONTRACT_KEY or error.param == param


# ------------------------------------------------------------------------------------------------------- bad behavior


async def recommended(
    client: openai.AsyncOpenAI, sandbox: Running, kind: BadAnswer, number: int = 6
) -> list[Recommendation]:
    sandbox.world.openai.script(kind)
    completion = await complete(client, messages=prompt(CANDIDATES[:number], LAMP))
    assert completion.choices[0].finish_reason == "stop"
    return Recommendations.model_validate_json(completion.choices[0].message.content or "").recommendations


KNOWN: Final = {each["productId"] for each in CANDIDATES}


async def test_bad_ids(scripted: Running, client: openai.AsyncOpenAI) -> None:
    """An answer has one unknown id, one too few, one too many or a duplicate, and no other mistake."""
    answers = {
        kind: await recommended(client, scripted, kind) for kind in ("unknown_id", "too_few", "too_many", "duplicate")
    }
    ids = {kind: [each.productId for each in answer] for kind, answer in answers.items()}
    assert {kind: len(each) for kind, each in ids.items()} == {
        "unknown_id": 5,
        "too_few": 4,
        "too_many": 6,
        "duplicate": 5,
    }
    assert {kind for kind, each in ids.items() if len(set(each)) < len(each)} == {"duplicate"}
    assert {kind for kind, each in ids.items() if set(each) - KNOWN} == {"unknown_id"}
    assert all(each.reason for answer in answers.values() for each in answer)


async def test_bad_ids_among_few_candidates(scripted: Running, client: openai.AsyncOpenAI) -> None:
    """The same mistakes work with a single candidate."""
    kinds: tuple[BadAnswer, ...] = ("unknown_id", "too_few", "too_many", "duplicate")
    ids = [[each.productId for each in await recommended(client, scripted, kind, 1)] for kind in kinds]
    assert ids == [["no-such-product"], [], ["p0", "no-such-product"], ["p0", "p0"]]


async def test_bad_reasons(scripted: Running, client: openai.AsyncOpenAI) -> None:
    """A reason is blank, very long or an injection; the products are valid."""
    kinds: tuple[BadAnswer, ...] = ("empty_reason", "long_reason", "injection")
    empty, long, injection = [await recommended(client, scripted, kind) for kind in kinds]
    assert not empty[0].reason.strip()
    assert len(long[0].reason) > 1500
    for attempt in (
        "Ignore previous instructions",
        "<script>",
        "https://",
        "](",
        "<!channel>",
        "\x00",
        "\x1b",
        "\u202e",
    ):
        assert attempt in injection[0].reason
    for answer in (empty, long, injection):
        assert len({each.productId for each in answer} & KNOWN) == len(answer) == 5


async def test_answers_without_recommendations(scripted: Running, client: openai.AsyncOpenAI) -> None:
    """An answer is not JSON, half of it, a refusal, or has no choices."""
    for kind in ("not_json", "truncated", "refusal", "empty"):
        scripted.world.openai.script(kind)
    prose, half, refusal = [(await complete(client)).choices[0] for _ in range(3)]
    assert (prose.finish_reason, half.finish_reason, refusal.finish_reason) == ("stop", "length", "stop")
    for choice in (prose, half):
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            json.loads(choice.message.content or "")
    assert (half.message.content or "").startswith("{")
    assert refusal.message.content is None
    assert refusal.message.refusal
    assert (await complete(client)).choices == []


async def test_an_answer_in_a_code_fence(scripted: Running, client: openai.AsyncOpenAI) -> None:
    """It is the usual answer, after a sentence."""
    usual = (await complete(client)).choices[0].message.content
    scripted.world.openai.script("fenced")
    assert (await complete(client)).choices[0].message.content == f"Here you are:\n\n```json\n{usual}\n```\n"


@pytest.mark.parametrize("kind", get_args(BadAnswer))
async def test_a_script_spoils_as_many_completions_as_it_says(
    scripted: Running, client: openai.AsyncOpenAI, http: httpx.AsyncClient, kind: str
) -> None:
    """A script spoils its number of completions; refused requests and embeddings do not count."""
    assert scripted
    good = (await complete(client)).choices
    posted = await http.post("/_sandbox/completions", json={"kind": kind, "times": 2})
    assert (posted.status_code, posted.json()) == (201, {"kind": kind, "times": 2})
    await embed(client, LAMP)
    await refused(complete(client, messages=[]))
    assert (await complete(client)).choices != good
    await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello!"}])
    assert (await complete(client)).choices == good


async def test_a_reset_forgets_bad_answers(
    scripted: Running, client: openai.AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    """A reset clears scripted bad answers."""
    scripted.world.openai.script("empty", 3)
    await http.post("/_sandbox/reset")
    assert (await complete(client)).choices


@pytest.mark.parametrize("script", [{"kind": "nonsense"}, {"kind": "empty", "times": 0}, {}, {"kind": "empty", "n": 1}])
async def test_a_wrong_script_is_refused(scripted: Running, http: httpx.AsyncClient, script: dict[str, Any]) -> None:
    """An unknown field or value is an error, so that a typing error in a test is noticed."""
    assert (await http.post("/_sandbox/completions", json=script)).status_code == 422
    assert not scripted.world.openai.bad_answers


FAULTS: Final[list[tuple[dict[str, Any], type[openai.APIError]]]] = [
    ({"kind": "status", "status": 429, "headers": {"Retry-After": "7"}}, openai.RateLimitError),
    ({"kind": "status", "status": 503}, openai.InternalServerError),
    ({"kind": "status", "status": 502, "body": "<h1>Bad gateway</h1>"}, openai.InternalServerError),
    ({"kind": "reset_before"}, openai.APIConnectionError),
    ({"kind": "reset_after"}, openai.APIConnectionError),
    ({"kind": "hang_before"}, openai.APITimeoutError),
    ({"kind": "hang_after"}, openai.APITimeoutError),
    ({"kind": "delay", "seconds": 3600}, openai.APITimeoutError),
]


@pytest.mark.parametrize(("fault", "error"), FAULTS)
async def test_a_fault_hits_once(
    scripted: Running, client: openai.AsyncOpenAI, fault: dict[str, Any], error: type[openai.APIError]
) -> None:
    """A fault fails one request of its route, as the SDK sees it."""
    scripted.world.faults.add(Fault(service="openai", route="POST /v1/chat/completions", **fault))
    await embed(client, LAMP)
    with pytest.raises(error) as caught:
        await complete(client, timeout=0.3 if error is openai.APITimeoutError else 30)
    if isinstance(caught.value, openai.RateLimitError):
        assert caught.value.response.headers["Retry-After"] == "7"
    assert picks(await complete(client))


async def test_completions_at_once_share_the_script(scripted: Running, client: openai.AsyncOpenAI) -> None:
    """Each scripted bad answer goes to one of the concurrent completions."""
    scripted.world.openai.script("empty", 4)
    answers = await asyncio.gather(*(complete(client) for _ in range(10)))
    assert sum(not each.choices for each in answers) == 4
