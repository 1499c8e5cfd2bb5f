"""Run a whole shop while faults are injected, then check that nothing was lost: `make chaos SEED=… ORDERS=…`."""

import asyncio
import os
import secrets
import sys
from typing import Annotated

import typer
from rich.console import Console

from deploy.local.data import DATA_DIR
from deploy.local.process import StackError
from deploy.local.stack import until_signaled
from tests.proof.chaos.plan import Execution, Plan, draw_plan
from tests.proof.chaos.report import show
from tests.proof.chaos.run import CUSTOMERS, run_chaos


def main(  # noqa: PLR0913 (options)
    seed: Annotated[int | None, typer.Option(help="Decides who orders what and which fault happens when.")] = None,
    orders: Annotated[int, typer.Option(min=1, help="How many orders.")] = 150,
    *,
    orders_per_fault: Annotated[int, typer.Option(min=1, help="One fault for so many orders.")] = 3,
    execution: Annotated[Execution, typer.Option(help="How steps are executed.")] = "regular",
    customers: Annotated[int, typer.Option(min=1, help="How many order at a time.")] = CUSTOMERS,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on standard output.")] = False,
) -> None:
    """Exit status 1 if anything was lost, 2 if the stack does not start."""
    plan = draw_plan(secrets.randbelow(1_000_000) if seed is None else seed, orders, orders_per_fault, execution)
    status = asyncio.run(until_signaled(chaos(plan, customers, as_json=as_json), interrupted=130))
    sys.stdout.flush()
    os._exit(status)  # the interpreter's own exit may abort in the SDK's threads (see worker.py)


async def chaos(plan: Plan, customers: int, *, as_json: bool) -> int:
    console = Console(stderr=as_json)
    evidence = DATA_DIR / f"chaos-{plan.fingerprint}-{os.getpid()}"
    try:
        report = await run_chaos(plan, console, evidence, customers)
    except StackError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    if as_json:
        sys.stdout.write(f"{report.model_dump_json(indent=2)}\n")
    else:
        show(report, console)
    return 0 if report.passed else 1


if __name__ == "__main__":
    typer.run(main)
