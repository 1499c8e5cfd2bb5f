"""How an operator decides about a parked undo: the update `resolve`, one handler for all sagas of a run."""

from typing import Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from temporalio import workflow
from temporalio.exceptions import ApplicationError

RESOLVE: Final = "resolve"
# No control characters, which cannot be stored everywhere, and none that turn the direction of the text after them.
PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f]*$"


class Resolution(BaseModel):
    """An operator's decision about a parked undo: try again, leave it undone, or settled by hand."""

    model_config = ConfigDict(frozen=True)

    step: str
    action: Literal["retry", "skip", "resolved"]
    reason: str = Field(min_length=1, max_length=500, pattern=PRINTABLE)
    by: str = Field(default="operator", min_length=1, max_length=100, pattern=PRINTABLE)


class Resolvable(Protocol):
    """What the handler needs of a saga."""

    parked: dict[str, str]

    @property
    def names(self) -> frozenset[str]:
        """What operators call the undos of this saga."""

    def is_resolvable(self, name: str) -> bool:
        """Whether an operator may decide about this undo now."""

    def check_resolution(self, resolution: Resolution) -> None:
        """Refuse a resolution that makes no sense now. Raises ApplicationError."""

    async def resolve(self, resolution: Resolution) -> str:
        """Do what the operator decided."""


class ResolveHandler:
    """The handler of the update `resolve`. It gives each resolution to the saga whose undo is parked."""

    def __init__(self) -> None:
        self._sagas: list[Resolvable] = []

    @classmethod
    def of_this_run(cls) -> "ResolveHandler":
        """The handler that the sagas of this run share.

        Raises:
            ValueError: the workflow has another handler of that name.
        """
        handler = workflow.get_update_handler(RESOLVE)
        if handler is None:
            new = cls()
            workflow.set_update_handler(RESOLVE, new.resolve, validator=new.check)
            return new
        owner = getattr(handler, "__self__", None)
        if isinstance(owner, ResolveHandler):
            return owner
        raise ValueError(f"the workflow has an update handler `{RESOLVE}` already, and a saga needs that name")

    def join(self, saga: Resolvable) -> None:
        """Route resolutions to this saga until it leaves.

        Raises:
            ValueError: an unfinished saga of this run has an undo of the same name.
        """
        for other in self._sagas:
            if both := sorted(other.names & saga.names):
                raise ValueError(f"another unfinished saga of this run has {', '.join(both)} too: operators name them")
        self._sagas.append(saga)

    def leave(self, saga: Resolvable) -> None:
        """The saga is finished: its names are free again."""
        if saga in self._sagas:
            self._sagas.remove(saga)

    # Arguments of any number and type reach `_parse`, so that an operator's mistake gets an answer that names it.

    async def resolve(self, *arguments: object) -> str:
        resolution = _parse(arguments)
        return await self._saga_of(resolution.step).resolve(resolution)

    def check(self, *arguments: object) -> None:
        resolution = _parse(arguments)
        self._saga_of(resolution.step).check_resolution(resolution)

    def _saga_of(self, step: str) -> Resolvable:
        for saga in self._sagas:
            if saga.is_resolvable(step):
                return saga
        parked = ", ".join(name for saga in self._sagas for name in saga.parked) or "nothing"
        raise ApplicationError(f"{step} is not parked; parked is: {parked}", type="not_parked")


def _parse(arguments: tuple[object, ...]) -> Resolution:
    if len(arguments) != 1:
        wanted = "one object with step, action and reason"
        raise ApplicationError(f"{RESOLVE} takes {wanted}, not {len(arguments)} arguments", type="invalid_resolution")
    try:
        return Resolution.model_validate(arguments[0])
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc'])) or RESOLVE}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise ApplicationError("; ".join(problems), type="invalid_resolution") from None
