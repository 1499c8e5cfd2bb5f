"""Every terminal: narrow, any encoding, a closed pipe, a full disk, Ctrl-C. No result is lost, no status changes."""

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from temporalio.client import WorkflowExecutionStatus

from app.cli.command import Exit
from deploy.local.process import ROOT
from orders.errors import Permanent
from tests.integration.cli.conftest import Said
from tests.support.sample import one_in
from tests.support.scenarios import until_marked, until_stuck
from tests.support.shop import Shop, an_order, eventually, new_order_id

MUST_AUTHENTICATE = "pm_card_authenticationRequired"
FULL = Path("/dev/full")
DECLINED = "pm_card_chargeDeclined"
PAGES = "http://127.0.0.1:8233/namespaces/default/workflows"
STYLE = re.compile(r"\x1b\[[0-9;]*m")
TIME = re.compile(r"\d\d:\d\d:\d\d")
TIME_WITH_ZONE = re.compile(r"\d\d:\d\d:\d\d ([A-Z]{3,5}|[+-]\d\d(\d\d)?)\b")


class Terminal(NamedTuple):
    """The environment of an operator's shell on the tests' shop."""

    environment: dict[str, str]

    @asynccontextmanager
    async def started(
        self, *arguments: str, out: int = asyncio.subprocess.PIPE, **changes: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "starter.py"), *arguments),
            env={"PATH": os.environ["PATH"], **self.environment, **changes},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def said(
        self, *arguments: str, encoding: str = "utf-8", out: int = asyncio.subprocess.PIPE, **changes: str
    ) -> Said:
        async with self.started(*arguments, out=out, **changes) as process:
            written, errors = await process.communicate()
        return Said(process.returncode or 0, (written or b"").decode(encoding), errors.decode(encoding))

    async def shown(self, columns: int, *arguments: str) -> list[str]:
        """The lines on a terminal of that width, before the terminal itself wraps them."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in self.environment.items() if name != "COLUMNS"}
        try:
            async with Terminal(environment).started(*arguments, out=theirs, TERM="xterm", NO_COLOR="1") as process:
                os.close(theirs)
                return STYLE.sub("", (await asyncio.to_thread(_read_all, ours)).decode()).splitlines()
        finally:
            os.close(ours)
            await process.wait()


def _read_all(descriptor: int) -> bytes:
    """What is written to a terminal until its last writer ends, which is an error for a reader."""
    read = b""
    try:
        while part := os.read(descriptor, 65536):
            read += part
    except OSError:
        pass
    return read


@pytest.fixture
def terminal(shop: Shop, environment: dict[str, str]) -> Terminal:
    return Terminal({**environment, "DATABASE_URL": shop.settings.database_url.get_secret_value()})


def a_file(folder: Path, payload: object) -> str:
    file = folder / "order.json"
    file.write_text(json.dumps(payload))
    return str(file)


async def a_parked_order(shop: Shop) -> str:
    shop.hooks.fail("void_payment", Permanent("the bank is closed", type="refund_failed"))
    order_id = new_order_id()
    run = await shop.start(an_order(paymentMethodId=DECLINED), order_id)
    await until_stuck(run)
    await until_marked(run, "void_payment")
    return order_id


# -------------------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.prove
@pytest.mark.parametrize("as_json", [False, True])
async def test_ctrl_c_says_how_to_look_again(shop: Shop, terminal: Terminal, tmp_path: Path, *, as_json: bool) -> None:
    """The id is there before the wait, and again with the command after Ctrl-C; the order goes on."""
    order_id = new_order_id()
    file = a_file(tmp_path, an_order(paymentMethodId=MUST_AUTHENTICATE))
    again = f"To look at it again: .venv/bin/python starter.py status {order_id}"
    arguments = ["process-order", file, "--order-id", order_id, *(["--json"] if as_json else [])]

    async def is_kept() -> bool:
        return await shop.status(order_id) is not None

    async with terminal.started(*arguments) as process:
        assert process.stderr is not None
        assert (await process.stderr.readline()).decode() == f"Waiting for {order_id}. {again}\n"
        await eventually(is_kept, "the order is under way")
        process.send_signal(signal.SIGINT)
        out, errors = await process.communicate()

    problem = f"No longer waiting for {order_id}; what was started goes on. {again}"
    assert (process.returncode, errors.decode()) == (Exit.INTERRUPTED, f"{problem}\n")
    assert (json.loads(out)["error"] if as_json else out) == (problem if as_json else b"")
    run = shop.client.get_workflow_handle(order_id)
    assert (await run.describe()).status is WorkflowExecutionStatus.RUNNING
    await run.terminate()


@pytest.mark.prove
@pytest.mark.parametrize(
    ("command", "again"),
    [
        (("cancel-order", "{order}"), ".venv/bin/python starter.py status {order}"),
        (("check-inventory",), f"{PAGES}/check-and-alert-inventory:"),
        (("recommend", "cus_1"), f"{PAGES}/product-recommendations:"),
        (("verify",), f"{PAGES}/verify-orders:"),
        (("index-products",), f"{PAGES}/index-products:all"),
    ],
)
async def test_every_command_that_waits_says_how_to_look_again(
    shop: Shop, terminal: Terminal, command: tuple[str, ...], again: str
) -> None:
    """Before it waits: an order's command names the order, any other the run's page."""
    order_id = new_order_id()
    await shop.place(order_id=order_id)
    said = await terminal.said(*(word.format(order=order_id) for word in command))
    assert said.status == 0, said
    (line,) = said.err.splitlines()
    assert f". To look at it again: {again.format(order=order_id)}" in line


# ------------------------------------------------------------------------------------------------------------- encoding


@pytest.mark.prove
@pytest.mark.parametrize("encoding", one_in(3, ["ascii", "latin-1", "utf-16"]))
async def test_any_output_encoding(shop: Shop, terminal: Terminal, encoding: str) -> None:
    """What the encoding has not is spelled out or escaped, and the exit status is as ever."""
    await shop.pool.execute(
        "WITH low AS (UPDATE inventory SET quantity = 1 WHERE product_id = '1') "
        "UPDATE products SET name = 'Tasse 茶…' WHERE id = '1'"
    )
    spelled = {"ascii": r"Tasse \u8336...", "latin-1": r"Tasse \u8336..."}
    said = await terminal.said("check-inventory", encoding=encoding, PYTHONIOENCODING=encoding)
    assert (said.status, spelled.get(encoding, "Tasse 茶…") in said.out) == (0, True), said

    said = await terminal.said("verify", encoding=encoding, PYTHONIOENCODING=encoding)
    assert (said.status, "0 violations" in said.out) == (0, True), said
    assert ("✓" if encoding.startswith("utf") else "ok ") in said.out
    said = await terminal.said("process-order", "…", encoding=encoding, PYTHONIOENCODING=encoding)
    assert (said.status, "No such file" in said.err) == (2, True), said
    assert (await terminal.said("--help", encoding=encoding, PYTHONIOENCODING=encoding)).status == 0


async def test_the_c_locale(terminal: Terminal) -> None:
    """Python neither coerces it nor guesses UTF-8."""
    said = await terminal.said("verify", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (said.status, "0 violations" in said.out) == (0, True), said


# ---------------------------------------------------------------------------------------------- pipes, full disks


PIPED = {
    "list --runs": Exit.DONE,
    "verify --json": Exit.DONE,
    "stuck": Exit.NEEDS_OPERATOR,
    "cancel-order unknown-order --json": Exit.NO,
    "schedules list": Exit.DONE,
    "--help": Exit.DONE,
    "list --limit none": Exit.BAD_INPUT,
}


@pytest.mark.prove
async def test_a_closed_pipe_changes_nothing(shop: Shop, terminal: Terminal) -> None:
    """`starter.py … | head -1`: the exit status is that of the work, and there is no complaint."""
    await a_parked_order(shop)
    read, write = os.pipe()
    os.close(read)
    try:
        for command, status in PIPED.items():
            said = await terminal.said(*command.split(), out=write)
            assert said.status == status, (command, said)
            assert not re.search("Traceback|Broken|OSError|Exception", said.err), said.err
    finally:
        os.close(write)


@pytest.mark.prove
async def test_a_full_disk_loses_no_result(shop: Shop, terminal: Terminal, tmp_path: Path) -> None:
    """The result goes to standard error, with what to do; a refusal keeps its own exit status."""
    order_id = new_order_id()
    with FULL.open("wb") as full:  # noqa: ASYNC230 (a device)
        file = a_file(tmp_path, an_order())
        placed = await terminal.said("process-order", file, "--order-id", order_id, "--json", out=full.fileno())
        assert placed.status == Exit.NOT_WRITTEN, placed
        waiting, problem, header, result = placed.err.split("\n", 3)
        assert waiting.startswith(f"Waiting for {order_id}")
        assert (
            problem
            == "Standard output cannot be written: No space left on device. Free some space, or write it elsewhere."
        )
        assert header == "Not written:"
        assert json.loads(result)["success"]
        assert await shop.status(order_id) == "processing"

        unknown = await terminal.said("cancel-order", "unknown-order", out=full.fileno())
        assert unknown.status == Exit.NO, unknown
        assert (await terminal.said("--help", out=full.fileno())).status == Exit.NOT_WRITTEN


@pytest.mark.prove
async def test_closed_streams_change_nothing(terminal: Terminal) -> None:
    """`starter.py … <&- >&- 2>&-`: files and sockets that the program opens do not take their place."""
    for closed, status in ((">&- 2>&-", 0), ("<&- >&- 2>&-", 0), ("2>/dev/full", 0), ("<&-", 0)):
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, str(ROOT / "starter.py"), "verify"),
            env={"PATH": os.environ["PATH"], **terminal.environment},
        )
        assert await process.wait() == status, closed
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$@" <&-', "sh", sys.executable, str(ROOT / "starter.py"), "process-order", "-"),
        env={"PATH": os.environ["PATH"], **terminal.environment},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (Exit.BAD_INPUT, "input: must be JSON, but is empty\n")


# --------------------------------------------------------------------------------------------------------------- width


@pytest.mark.prove
async def test_no_id_and_no_link_is_cut(shop: Shop, terminal: Terminal) -> None:
    """Each is whole on one line, and so is a command to paste; all other text keeps to the width; times have a zone."""
    order_id = await a_parked_order(shop)
    await terminal.said("schedules", "apply")
    await shop.pool.execute("UPDATE inventory SET quantity = 1")
    link, resolve = f"{PAGES}/{order_id}", f".venv/bin/python starter.py resolve {order_id} --step void_payment --retry"
    wanted = {
        "list": [order_id],
        "list --runs": [order_id, link],
        f"status {order_id}": [order_id, link, resolve],
        "stuck": [order_id, link, resolve],
        "schedules list": [f"{PAGES.removesuffix('workflows')}schedules/verify-orders"],
        "verify": [],
        "exit-codes": [],
    }
    for command, whole in wanted.items():
        for columns in (60, 80):
            lines = await terminal.shown(columns, *command.split())
            copied = [
                line for line in lines if "http://127.0.0.1:8233/" in line or ".venv/bin/python starter.py" in line
            ]
            assert all(len(line.rstrip()) <= columns for line in lines if line not in copied), (command, lines)
            assert all(TIME_WITH_ZONE.search(line) for line in lines if TIME.search(line)), (command, lines)
            assert all(any(text in line for line in lines) for text in whole), (command, lines)


# ------------------------------------------------------------------------------------------------------- Windows files


async def test_files_with_windows_line_ends(terminal: Terminal, tmp_path: Path) -> None:
    """An order from a Windows editor is placed; an id from such a file is that of the order."""
    order_id = new_order_id()
    file = tmp_path / "order.json"
    file.write_bytes(json.dumps(an_order(), indent=2).replace("\n", "\r\n").encode("utf-16"))
    said = await terminal.said("process-order", str(file), "--order-id", f"{order_id}\r")
    assert said.status == 0, said
    assert (await terminal.said("status", f"{order_id}\r\n")).out.startswith(f"{order_id} is processing")
