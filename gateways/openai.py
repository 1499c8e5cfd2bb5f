"""A language model behind OpenAI's API: embeddings of texts, and answers that follow a schema.

Nothing here knows the meaning of the texts. The gateway checks the form of an answer; activities/recommendations.py
checks its content.
"""

import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Annotated, Final, Protocol

import httpx
import openai
from pydantic import BaseModel, Field, ValidationError

from gateways.http import CLIENT_ERRORS, retry_after
from orders.errors import OrderError, Permanent, Unavailable
from orders.recommendations import KEY_REFUSED, IndexTarget

REFUSED: Final = "openai_refused"
MAX_ANSWER: Final = 16 * 1024 * 1024  # bytes: a hundred embeddings of the largest model are about 8 MB as text
MAX_CODE: Final = 40  # characters of an error's code, such as `model_not_found`

NO_SUCH_MODEL: Final = 404  # HTTP status

NO_ANSWER: Final = {"length": "it is cut off", "content_filter": "it is withheld"}


class Unusable(Exception):
    """The answer of the model cannot be used. The argument says why, and quotes nothing of the answer."""


class _Vector(BaseModel):
    index: int
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


def openai_client(http: httpx.AsyncClient, key: str, base: str) -> openai.AsyncOpenAI | None:
    """OpenAI's SDK without retries, which are Temporal's task; None without a key."""
    if not key:
        return None
    # The SDK accepts a client of httpx, but its types name only the client of httpx2.
    return openai.AsyncOpenAI(api_key=key, base_url=base, http_client=http, max_retries=0)  # type: ignore[arg-type]


class LanguageModel:
    """Embeddings and completions.

    Raises, in all methods:
        Unavailable: an outage, a limit, a lost answer; of the type KEY_REFUSED while OpenAI refuses the key.
        Permanent: OpenAI refuses the request itself, or there is no key.
    """

    def __init__(self, client: openai.AsyncOpenAI | None, *, model: str, max_tokens: int) -> None:
        """`model` and `max_tokens` are for completions; an embedding names its own model."""
        self._client = client
        self._model = model
        self._max_tokens = max_tokens

    @property
    def is_there(self) -> bool:
        """Whether there is an API key."""
        return self._client is not None

    async def embed(self, texts: Sequence[str], target: IndexTarget) -> list[list[float]]:
        """An embedding of length 1 for each text, in the order of the texts.

        Raises:
            Permanent: also if the answer has another form.
        """
        content = await _ask(
            self._needed.embeddings.with_raw_response.create(
                model=target.model, input=list(texts), dimensions=target.dimensions, encoding_format="float"
            )
        )
        try:
            vectors = _Vectors.model_validate_json(content).data
        except ValidationError:
            raise _bad_vectors("they do not have the expected form") from None
        if [vector.index for vector in vectors] != list(range(len(texts))):
            raise _bad_vectors("they are not one for each text, in order")
        return [_unit(vector.embedding, target.dimensions) for vector in vectors]

    async def answer(self, instructions: str, data: str, schema: Mapping[str, object]) -> str:
        """The model's answer to `data`: JSON that should follow `schema`, which the caller checks.

        Raises:
            Unusable: there is no answer in what came back.
        """
        content = await _ask(
            self._needed.chat.completions.with_raw_response.create(
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
    try:
        return (await request).content
    except openai.OpenAIError as error:
        raise translate(error) from None


def translate(error: openai.OpenAIError) -> OrderError:
    """The error as Unavailable or Permanent, without OpenAI's message, which may quote the request and the key."""
    if not isinstance(error, openai.APIStatusError):
        return Unavailable(f"openai: {type(error).__name__}", type="openai_unavailable")
    text = f"openai: HTTP {error.status_code} {_code(error)}".strip()
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return Unavailable(text, type=KEY_REFUSED)
    if error.status_code in CLIENT_ERRORS | {NO_SUCH_MODEL}:
        return Permanent(text, type=REFUSED)
    return Unavailable(text, type="openai_unavailable", retry_after=retry_after(error.response.headers))


def _code(error: openai.APIStatusError) -> str:
    code = error.code or ""
    return code if code.isidentifier() and len(code) <= MAX_CODE else ""


def _unit(vector: Sequence[float], dimensions: int) -> list[float]:
    length = math.hypot(*vector)
    if len(vector) != dimensions or not 0 < length < math.inf:
        raise _bad_vectors(f"one does not have {dimensions} dimensions, or is zero")
    return [each / length for each in vector]


def _bad_vectors(problem: str) -> Permanent:
    return Permanent(f"openai: the embeddings cannot be used: {problem}", type="embeddings_refused")
