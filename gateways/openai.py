"""A language model behind OpenAI's API: embeddings of texts, and answers that follow a schema.

Nothing here knows the meaning of the texts. The gateway checks the form of an answer; activities/recommendations.py
checks its content.
"""

import math
import re
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Final, Protocol

import httpx
import openai
from pydantic import BaseModel, Field, ValidationError

from gateways.breaker import Breaker
from gateways.calls import watch_call
from gateways.http import CLIENT_ERRORS, NUMBER, bounded, header, retry_after
from orders.errors import OrderError, Permanent, Unavailable
from orders.recommendations import KEY_REFUSED, IndexTarget

SERVICE: Final = "openai"
REFUSED: Final = "openai_refused"
LIMITED: Final = "openai_limited"
UNAVAILABLE: Final = "openai_unavailable"
MAX_ANSWER: Final = 16 * 1024 * 1024  # bytes: a hundred embeddings of the largest model are about 8 MB as text
MAX_CODE: Final = 40  # characters of an error's code, such as `model_not_found`

NO_SUCH_MODEL: Final = 404  # HTTP status

# platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
REMAINING: Final = "x-ratelimit-remaining-"
RESET: Final = "x-ratelimit-reset-"
DURATION: Final = re.compile("".join(rf"(?:([0-9]+(?:[.][0-9]+)?){unit})?" for unit in ("d", "h", "m", "s", "ms")))
UNITS: Final = (86_400, 3600, 60, 1, 0.001)

NO_ANSWER: Final = {"length": "it is cut off", "content_filter": "it is withheld"}


class Unusable(Exception):
    """The answer of the model cannot be used. The argument says why, and quotes nothing of the answer."""


class Refused(Permanent):
    """OpenAI refuses the request itself, for example because its texts are too long, or too long together.

    `names_dimensions`: its message is about `dimensions`, which the endpoints of some models do not take.
    """

    def __init__(self, message: str, *, names_dimensions: bool) -> None:
        super().__init__(message, type=REFUSED)
        self.names_dimensions = names_dimensions


class _Vector(BaseModel):
    index: int = 0  # some services leave out what is 0
    embedding: Sequence[float]


class _Vectors(BaseModel):
    data: Sequence[_Vector]


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: Annotated[Sequence[_Choice], Field(min_length=1)]


class _Response(Protocol):
    """The SDK's raw response. The SDK's own parsing does not check what comes back."""

    @property
    def content(self) -> bytes: ...

    @property
    def status_code(self) -> int: ...


def openai_client(http: httpx.AsyncClient, key: str, base: str) -> openai.AsyncOpenAI | None:
    """OpenAI's SDK without retries, which are Temporal's task; None without a key."""
    if not key:
        return None
    # The SDK accepts a client of httpx, but its types name only the client of httpx2.
    return openai.AsyncOpenAI(api_key=key, base_url=base, http_client=http, max_retries=0)  # type: ignore[arg-type]


class LanguageModel:
    """Embeddings and completions.

    Raises, in all methods:
        Unavailable: an outage, a limit, a lost answer; of the type KEY_REFUSED while OpenAI refuses the key, and of the
            type MODEL_SUSPENDED after several outages in a row: see gateways.breaker.
        Permanent: OpenAI refuses the request itself, or there is no key.
    """

    def __init__(self, client: openai.AsyncOpenAI | None, *, model: str, max_tokens: int) -> None:
        """`model` and `max_tokens` are for completions; an embedding names its own model."""
        self._client = client
        self._model = model
        self._max_tokens = max_tokens
        self._embeddings, self._completions = Breaker(SERVICE), Breaker(SERVICE)
        self._without_dimensions: set[str] = set()  # the models whose endpoint does not take them

    @property
    def is_there(self) -> bool:
        """Whether there is an API key."""
        return self._client is not None

    async def embed(self, texts: Sequence[str], target: IndexTarget) -> list[list[float]]:
        """An embedding of length 1 for each text, in the order of the texts.

        Raises:
            Refused: OpenAI refuses the texts; fewer or shorter ones may be accepted.
            Permanent: also if the answer has another form.
        """
        content = await self._embed(texts, target)
        try:
            vectors = sorted(_Vectors.model_validate_json(content).data, key=lambda vector: vector.index)
        except ValidationError:
            raise _bad_vectors("they do not have the expected form") from None
        if [vector.index for vector in vectors] != list(range(len(texts))):
            raise _bad_vectors("they are not one for each text")
        return [_unit(vector.embedding, target.dimensions) for vector in vectors]

    async def _embed(self, texts: Sequence[str], target: IndexTarget) -> bytes:
        if target.model not in self._without_dimensions:
            try:
                return await self._embed_with(texts, target.model, target.dimensions)
            except Refused as refused:
                if not refused.names_dimensions:
                    raise
        content = await self._embed_with(texts, target.model, openai.omit)
        self._without_dimensions.add(target.model)
        return content

    async def _embed_with(self, texts: Sequence[str], model: str, dimensions: int | openai.Omit) -> bytes:
        create = self._needed.embeddings.with_raw_response.create
        with self._embeddings.watch(UNAVAILABLE):
            return await _ask(create(model=model, input=list(texts), dimensions=dimensions, encoding_format="float"))

    async def answer(self, instructions: str, data: str, schema: Mapping[str, object]) -> str:
        """The model's answer to `data`: JSON that should follow `schema`, which the caller checks.

        Raises:
            Unusable: there is no answer in what came back.
        """
        create = self._needed.chat.completions.with_raw_response.create
        with self._completions.watch(UNAVAILABLE):
            content = await _ask(
                create(
                    model=self._model,
                    messages=[{"role": "system", "content": instructions}, {"role": "user", "content": data}],
                    response_format={
                        "type": "json_schema",
                        "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)},
                    },
                    max_completion_tokens=self._max_tokens,
                    store=False,
                )
            )
        try:
            choice = _Completion.model_validate_json(content).choices[0]
        except ValidationError:
            raise Unusable("there is none") from None
        if problem := NO_ANSWER.get(choice.finish_reason or ""):
            raise Unusable(problem)
        if choice.message.refusal:
            raise Unusable("it is a refusal")
        return choice.message.content or ""

    @property
    def _needed(self) -> openai.AsyncOpenAI:
        if self._client is None:
            raise Permanent("openai: there is no key, OPENAI_API_KEY is empty", type="openai_key_missing")
        return self._client


async def _ask(request: Awaitable[_Response]) -> bytes:
    with watch_call(SERVICE) as call:
        try:
            response = await request
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIStatusError):
                call.answered(error.status_code)
            raise translate(error) from None
        call.answered(response.status_code)
        return response.content


def translate(error: openai.OpenAIError) -> OrderError:
    """The error as Unavailable or Permanent, without OpenAI's message, which may quote the request and the key."""
    if not isinstance(error, openai.APIStatusError):
        return Unavailable(f"openai: {type(error).__name__}", type=UNAVAILABLE)
    text = f"openai: HTTP {error.status_code} {_code(error)}".strip()
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return Unavailable(text, type=KEY_REFUSED)
    if error.status_code in CLIENT_ERRORS:
        return Refused(text, names_dimensions="dimensions" in error.response.text)
    if error.status_code == NO_SUCH_MODEL:
        return Permanent(text, type=REFUSED)
    kind = LIMITED if isinstance(error, openai.RateLimitError) else UNAVAILABLE
    return Unavailable(text, type=kind, retry_after=_wait(error.response.headers))


def _wait(headers: Mapping[str, str]) -> timedelta | None:
    """How long OpenAI asks us to wait, in any of its forms; the last one names when each limit is as new."""
    milliseconds = header(headers, "retry-after-ms")
    if NUMBER.fullmatch(milliseconds):
        return bounded(float(milliseconds) / 1000)
    return retry_after(headers) or bounded(_seconds_to_reset(headers))


def _seconds_to_reset(headers: Mapping[str, str]) -> float:
    """Until the limits that are used up are as new; until all are, if none of them says that it is."""
    limits = {
        name.lower().removeprefix(RESET): value for name, value in headers.items() if name.lower().startswith(RESET)
    }
    used_up = {limit: value for limit, value in limits.items() if header(headers, f"{REMAINING}{limit}") == "0"}
    return max(map(_duration, (used_up or limits).values()), default=0)


def _duration(text: str) -> float:
    """In seconds, of a text such as `1s`, `6m0s` or `8.64s`; 0 if it is none."""
    if NUMBER.fullmatch(text):
        return float(text)
    found = DURATION.fullmatch(text)
    return (
        sum(float(value) * unit for value, unit in zip(found.groups(default="0"), UNITS, strict=True)) if found else 0
    )


def _code(error: openai.APIStatusError) -> str:
    code = error.code or ""
    return code if code.isidentifier() and len(code) <= MAX_CODE else ""


def _unit(vector: Sequence[float], dimensions: int) -> list[float]:
    length = math.hypot(*vector)
    if len(vector) != dimensions or not 0 < length < math.inf:
        raise _bad_vectors(f"one has {len(vector)} dimensions, and EMBEDDING_DIMENSIONS is {dimensions}, or it is zero")
    return [each / length for each in vector]


def _bad_vectors(problem: str) -> Permanent:
    return Permanent(f"openai: the embeddings cannot be used: {problem}", type="embeddings_refused")
