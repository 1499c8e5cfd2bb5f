"""A worker whose code is wrong in the way that its argument names: a build that must not be released."""

import sys
from typing import Any, Final

from temporalio import workflow

from app.process import launch
from app.wiring import worker_program
from workflows.process_order import ProcessOrder


def crash() -> None:
    """The code fails in the first workflow task of each order."""

    def begin(*_: object) -> None:
        raise KeyError("a bug of this build")

    setattr(ProcessOrder, "_begin_saga", begin)  # noqa: B010 (a bug of a test)


def diverge() -> None:
    """New orders go well; those that another build has begun cannot be replayed, and the other way round."""
    reserve: Any = ProcessOrder._reserve  # noqa: SLF001 (the same)

    async def sleep_first(*arguments: object) -> object:
        await workflow.sleep(0.01)
        return await reserve(*arguments)

    setattr(ProcessOrder, "_reserve", sleep_first)  # noqa: B010 (the same)


BUGS: Final = {each.__name__: each for each in (crash, diverge)}

if __name__ == "__main__":
    BUGS[sys.argv[1]]()
    launch("bad_build.py", worker_program)
