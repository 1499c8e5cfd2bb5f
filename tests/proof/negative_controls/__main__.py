"""Seed bugs on purpose and check that each is caught by its tests: `make negative-controls`."""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.local.process import ROOT
from deploy.local.stack import until_signaled
from tests.proof.negative_controls.bugs import BUGS, Bug
from tests.proof.negative_controls.trial import Verdict, copy_project, run_tests, try_bug

AT_ONCE = 2


def main(
    only: Annotated[list[str] | None, typer.Option(help="The bug of this name alone; may be repeated.")] = None,
    *,
    listed: Annotated[bool, typer.Option("--list", help="List the bugs, and the patches that do not fit.")] = False,
) -> None:
    """Exit status 1 if a bug is missed or a patch does not fit, or if a test fails without a bug."""
    unknown = sorted(set(only or ()) - {bug.name for bug in BUGS})
    if unknown:
        raise typer.BadParameter(f"no bug is called {', '.join(unknown)}; there are: {', '.join(b.name for b in BUGS)}")
    bugs = [bug for bug in BUGS if not only or bug.name in only]
    console = Console(soft_wrap=True)
    if listed:
        misfits = [misfit for bug in bugs for misfit in list_bug(bug, console)]
        sys.exit(1 if misfits else 0)
    sys.exit(asyncio.run(until_signaled(run_controls(bugs, console), interrupted=130)))


def list_bug(bug: Bug, console: Console) -> list[str]:
    """Print a bug, and the patches that do not fit today's code, which are returned."""
    misfits = [misfit for patch in bug.patches if (misfit := patch.misfit(ROOT))]
    console.print(f"{'✗' if misfits else ' '} {bug.name}: {bug.description}", markup=False)
    for misfit in misfits:
        console.print(f"    {misfit}", style="red", markup=False)
    return misfits


async def run_controls(bugs: Sequence[Bug], console: Console) -> int:
    """The exit status. First the tests without any bug, then every bug by itself."""
    with tempfile.TemporaryDirectory(prefix="controls-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres, which does not run as root, passes through
        tests = sorted({test for bug in bugs for test in bug.caught_by})
        source = copy_project(folder / "source")  # one state of the project for all, whatever is edited meanwhile
        results = await run_tests(copy_project(folder / "clean", source), tests)
        if not results or any(each.failed or each.broken for each in results):
            bad = [each.test for each in results if each.failed or each.broken] or ["no test ran"]
            console.print(f"✗ without any bug: {', '.join(bad)}", style="red", markup=False)
            return 1
        console.print(f"✓ without any bug: {len(results)} cases pass")
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(bug: Bug) -> Verdict:
            async with turn:
                verdict = await try_bug(bug, folder, source)
            show(verdict, console)
            return verdict

        verdicts = await asyncio.gather(*map(one, bugs))
    caught = sum(verdict.is_caught for verdict in verdicts)
    console.print(f"{caught} of {len(verdicts)} bugs are caught")
    return 0 if caught == len(verdicts) else 1


def show(verdict: Verdict, console: Console) -> None:
    """One line."""
    mark, style = ("✓", "green") if verdict.is_caught else ("✗ missed:", "red")
    by = ", ".join(verdict.missed or (each.rpartition("/")[2] for each in verdict.caught_by))
    line = f"{mark} {verdict.bug.name}: {verdict.bug.description}; {by} ({verdict.seconds:.0f} s)"
    console.print(line, style=style, markup=False)


if __name__ == "__main__":
    typer.run(main)
