"""Headless Chromium, driven over its DevTools pipe: no driver has to be installed, only the browser."""

import asyncio
import base64
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from deploy.local.process import StackError

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
MAX_MESSAGE: Final = 64 * 2**20  # bytes; a picture is one message
PATIENCE: Final = 30  # seconds for one answer
POLL_SECONDS: Final = 0.2
OPTIONS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)

# DevTools reads its commands from file descriptor 3 and answers to 4.
_START: Final = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def browser() -> str:
    """Chromium by any of its names; CHROMIUM names another.

    Raises:
        StackError: there is none.
    """
    found = os.environ.get("CHROMIUM") or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise StackError("Chromium is missing: install it, or name it with CHROMIUM=/path/to/it.")
    return found


class Tab:
    """One tab of the browser. `events`: all that it has said."""

    def __init__(self, reader: asyncio.StreamReader, commands: int) -> None:
        self._reader = reader
        self._commands = commands
        self._numbers = count(1)
        self._session: dict[str, str] = {}
        self._loads = 0
        self.events: list[dict[str, Any]] = []

    async def open(self) -> None:
        """Open a new tab, and leave the one before it."""
        self._session, self._loads = {}, 0
        self.events.clear()
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        await self.call("Page.enable")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol, and return its result."""
        number = next(self._numbers)
        message = json.dumps({"id": number, "method": method, "params": params, **self._session})
        await asyncio.to_thread(os.write, self._commands, message.encode() + b"\0")
        answer = await self._receive(lambda each: each.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    async def go(self, url: str) -> None:
        """Open an address, and wait until the page is loaded."""
        await self.call("Page.navigate", url=url)
        await self.loaded()

    async def loaded(self) -> None:
        """Wait for the next page after the last one that was waited for."""
        while (loads := sum(each.get("method") == "Page.loadEventFired" for each in self.events)) == self._loads:
            await self._receive(lambda _: True)
        self._loads = loads

    async def look(self, script: str) -> Any:
        """Run JavaScript in the page, and return its value."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait_for(self, script: str) -> None:
        """Run JavaScript in the page again and again, until its value is true."""
        async with asyncio.timeout(PATIENCE):
            while not await self.look(script):
                await asyncio.sleep(POLL_SECONDS)

    async def resize(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    async def prefer(self, scheme: str) -> None:
        """Prefer the color scheme `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def take(self, image: Path) -> None:
        """Take a picture of what the window shows."""
        image.parent.mkdir(parents=True, exist_ok=True)
        picture = await self.call("Page.captureScreenshot")
        image.write_bytes(base64.b64decode(picture["data"]))

    async def _receive(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            while True:
                message: dict[str, Any] = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                self.events.append(message)
                if wanted(message):
                    return message


@asynccontextmanager
async def open_tab() -> AsyncIterator[Tab]:
    """Run Chromium with one tab until the block ends.

    Raises:
        StackError: there is no Chromium.
    """
    path = browser()
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _START, str(theirs_in), str(theirs_out)),
            *(path, *OPTIONS, f"--user-data-dir={profile}"),
            pass_fds=(theirs_in, theirs_out),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        reader = asyncio.StreamReader(limit=MAX_MESSAGE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb")
        )
        try:
            tab = Tab(reader, ours_out)
            await tab.open()
            yield tab
        finally:
            transport.close()
            os.close(ours_out)
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
