"""Run a whole shop in a storm, then check that nothing was lost: `make chaos SEED=… ORDERS=…`."""

import asyncio
import os
import secrets
import sys
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos.plan import draw_plan
from tests.chaos.report import show
from tests.chaos.run import CUSTOMERS, run_chaos


def main(
    seed: Annotated[int | None, typer.Option(help="Decides who orders what and what strikes when.")] = None,
    orders: Annotated[int, typer.Option(min=1, help="How many.")] = 150,
    *,
    orders_per_blow: Annotated[int, typer.Option(min=1, help="How rarely something strikes.")] = 3,
    customers: Annotated[int, typer.Option(min=1, help="How many at a time.")] = CUSTOMERS,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on standard output.")] = False,
) -> None:
    """Exit status 1 if anything was lost."""
    console = Console(stderr=as_json)
    plan = draw_plan(secrets.randbelow(1_000_000) if seed is None else seed, orders, orders_per_blow)
    report = asyncio.run(run_chaos(plan, console, customers))
    if as_json:
        sys.stdout.write(f"{report.model_dump_json(indent=2)}\n")
    else:
        show(report, console)
    sys.stdout.flush()
    os._exit(0 if report.passed else 1)  # the interpreter's own exit may abort in the SDK's threads (see worker.py)


if __name__ == "__main__":
    typer.run(main)
