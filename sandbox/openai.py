"""OpenAI's embeddings and chat completions over HTTP, with its API keys, formats, limits and errors."""

import base64
import math
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import JSONResponse, Response

from sandbox.call import Call, Handler, Refused, Routes, plain
from sandbox.openai_model import BadAnswer, Reply, embedding, reply

# The only key that is accepted: a real one that was sent here by mistake is refused.
KEY: Final = "sk-sandbox"

# The limits of one request for embeddings (platform.openai.com/docs/api-reference/embeddings/create).
MAX_INPUTS: Final = 2048
MAX_TOKENS: Final = 8192
MAX_TOKENS_TOGETHER: Final = 300_000
MAX_DIMENSIONS: Final = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
WITHOUT_DIMENSIONS: Final = {"text-embedding-ada-002"}  # they do not take the parameter

# OpenAI's rule of thumb for English. Its tokenizers need a download.
CHARACTERS_PER_TOKEN: Final = 4

# -------------------------------------------------------------------------------------------------------- parameters


# Runs of ASCII, and runs of anything else.
_PARTS: Final = re.compile(r"[\x00-\x7f]+|[^\x00-\x7f]+")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Params(BaseModel):
    """Parameters that are unknown, missing or out of range are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS), BeforeValidator(_listed)]


class CreateEmbeddings(Params):
    model: str
    input: Texts
    dimensions: int | None = Field(default=None, ge=1)
    encoding_format: Literal["float", "base64"] = "float"


class Message(Params):
    role: Literal["developer", "system", "user", "assistant"]
    content: str


class JsonSchema(Params):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    json_schema: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _strict_schemas_leave_nothing_open(self) -> Self:
        for each in _objects(self.json_schema) if self.strict else ():
            if each.get("additionalProperties") is not False:
                raise PydanticCustomError("invalid_schema", "'additionalProperties' must be false in every object.")
            if set(each.get("required", ())) != set(each.get("properties", ())):
                raise PydanticCustomError("invalid_schema", "'required' must name every property of every object.")
        return self


class ResponseFormat(Params):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class CreateCompletion(Params):
    model: str
    messages: tuple[Message, ...] = Field(min_length=1)
    response_format: ResponseFormat | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    store: bool | None = None
    stream: Literal[False] = False

    @property
    def question(self) -> str:
        """The last message of the user."""
        return next((each.content for each in reversed(self.messages) if each.role == "user"), "")


# Pydantic's error types -> OpenAI's error codes.
CODES: Final[dict[str, str]] = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "string_too_short": "empty_string",
    "too_short": "empty_array",
    "too_long": "array_above_max_length",
}


def _objects(schema: object) -> Iterator[dict[str, Any]]:
    """Yield every object that a JSON schema describes, at any depth."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from _objects(each)


# --------------------------------------------------------------------------------------------------------- operations


@dataclass
class OpenAi:
    """Both endpoints, and the scripted bad answers: the next completions return them, oldest first.

    Embeddings come in the order of their inputs, unless they are `reversed`: each has its index.
    """

    bad_answers: deque[BadAnswer] = field(default_factory=deque)
    reversed: bool = False

    def script(self, kind: BadAnswer, times: int = 1) -> None:
        self.bad_answers.extend([kind] * times)

    def embed(self, params: CreateEmbeddings) -> Response:
        if params.model not in MAX_DIMENSIONS:
            raise _unknown_model(params.model)
        limit = MAX_DIMENSIONS[params.model]
        if params.dimensions and params.model in WITHOUT_DIMENSIONS:
            raise _refusal(400, None, "This model does not support specifying dimensions.")
        dimensions = params.dimensions or limit
        if dimensions > limit:
            raise _refusal(400, "invalid_value", f"'dimensions' must be at most {limit}.", "dimensions")
        tokens = _count_inputs(params.input)
        vectors = (_encoded(text, dimensions, params.encoding_format) for text in params.input)
        data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)]
        if self.reversed:
            data.reverse()
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": params.model, "usage": usage})

    def complete(self, params: CreateCompletion) -> Response:
        # Chat models change too often for a list of their names.
        if not params.model.startswith("gpt-"):
            raise _unknown_model(params.model)
        bad = self.bad_answers.popleft() if self.bad_answers else None
        answer = reply(params.question, bad)
        return JSONResponse(_completion(params, answer and _capped(answer, params.max_completion_tokens)))


def _count_inputs(texts: Sequence[str]) -> int:
    tokens = [_tokens(each) for each in texts]
    if max(tokens) > MAX_TOKENS:
        message = f"An input has at most {MAX_TOKENS} tokens; one has {max(tokens)}."
        raise _refusal(400, "context_length_exceeded", message, "input")
    if sum(tokens) > MAX_TOKENS_TOGETHER:
        message = f"All inputs have at most {MAX_TOKENS_TOGETHER} tokens; these have {sum(tokens)}."
        raise _refusal(400, "max_tokens_per_request", message, kind="max_tokens_per_request")
    return sum(tokens)


def _tokens(text: str) -> int:
    """Of ASCII by the rule; of other scripts as many as a tokenizer of bytes can make: one for each byte."""
    return sum(
        math.ceil(len(part) / CHARACTERS_PER_TOKEN) if part.isascii() else len(part.encode())
        for part in _PARTS.findall(text)
    )


def _encoded(text: str, dimensions: int, encoding: str) -> str | list[float]:
    vector = embedding(text, dimensions)
    return base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector.tolist()


def _capped(answer: Reply, tokens: int | None) -> Reply:
    if tokens is None or _tokens(answer.content or "") <= tokens:
        return answer
    return replace(answer, content=(answer.content or "")[: tokens * CHARACTERS_PER_TOKEN], finish_reason="length")


def _completion(params: CreateCompletion, answer: Reply | None) -> dict[str, Any]:
    prompt = sum(_tokens(each.content) for each in params.messages)
    answered = _tokens((answer.content or answer.refusal or "") if answer else "")
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": params.model,
        "choices": [_choice(answer)] if answer else [],
        "usage": {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered},
    }


def _choice(answer: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.content, "refusal": answer.refusal}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}


# --------------------------------------------------------------------------------------------------------------- HTTP

P = TypeVar("P", bound=Params)


def _operation(model: type[P], act: Callable[[OpenAi, P], Response]) -> Handler[OpenAi]:
    def effect(openai: OpenAi, call: Call) -> Response:
        if call.bearer != KEY:
            raise _refusal(401, "invalid_api_key", f"Incorrect API key provided. The sandbox accepts {KEY} only.")
        return act(openai, _parse(model, call))

    return plain(effect)


def _parse(model: type[P], call: Call) -> P:
    try:
        return model.model_validate_json(call.content)
    except ValidationError as problem:
        first = problem.errors()[0]
        path = ".".join(map(str, first["loc"])) or "body"
        param = str(first["loc"][0]) if first["loc"] else None
        raise _refusal(400, CODES.get(first["type"], "invalid_value"), f"{path}: {first['msg']}", param) from None


def _unknown_model(model: str) -> Refused:
    return _refusal(404, "model_not_found", f"There is no model {model}, or it is not yours to use.", "model")


def _refusal(
    status: int, code: str | None, message: str, param: str | None = None, *, kind: str = "invalid_request_error"
) -> Refused:
    return Refused(status, code, message, type=kind, param=param)


ROUTES: Final[Routes[OpenAi]] = (
    ("POST", "/v1/embeddings", _operation(CreateEmbeddings, OpenAi.embed)),
    ("POST", "/v1/chat/completions", _operation(CreateCompletion, OpenAi.complete)),
)
