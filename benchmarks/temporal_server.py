"""Temporal's server on PostgreSQL, which `make bench-server` builds: what production runs, in one process.

The development server keeps its data in SQLite. Compare what is durable in PostgreSQL with this one only.
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from deploy.local.postgres import NAME, Postgres
from deploy.local.process import HOST, ROOT, Child, Command, StackError, binary, free_ports, run, running
from deploy.local.temporal import DYNAMIC_CONFIG, NO_PROFILE
from orders.names import SEARCH_ATTRIBUTES

BUILT: Final = ROOT / ".temporal-server"
DATABASES: Final = {"temporal": "temporal", "visibility": "temporal_visibility"}
SERVICES: Final = ("frontend", "matching", "history", "worker")
SHARDS: Final = 4

CONFIG: Final = """
log: {{stdout: true, level: warn}}
persistence:
  defaultStore: default
  visibilityStore: visibility
  numHistoryShards: {shards}
  datastores:
    default: {{sql: {{{connection}, databaseName: temporal, maxConns: 20, maxIdleConns: 20}}}}
    visibility: {{sql: {{{connection}, databaseName: temporal_visibility, maxConns: 10, maxIdleConns: 10}}}}
global:
  membership: {{maxJoinDuration: 30s, broadcastAddress: "{host}"}}
services:
{services}
clusterMetadata:
  enableGlobalNamespace: false
  failoverVersionIncrement: 10
  masterClusterName: active
  currentClusterName: active
  clusterInformation:
    active: {{enabled: true, initialFailoverVersion: 1, rpcName: frontend, rpcAddress: "{host}:{frontend}"}}
dcRedirectionPolicy: {{policy: noop}}
dynamicConfigClient: {{filepath: "{dynamic}", pollInterval: 60s}}
"""


def find_postgres() -> Path:
    """The folder of the newest PostgreSQL of this machine: the one of the local stack lacks an extension.

    Raises:
        StackError: there is none.
    """
    on_path = shutil.which("postgres")
    found = [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), *([Path(on_path).resolve()] if on_path else [])]
    if not found:
        raise StackError("Temporal needs a PostgreSQL with btree_gin: on Debian, apt-get install postgresql")
    return max(found, key=str).parent


@dataclass(frozen=True)
class PostgresTemporal:
    """A server with its data in the PostgreSQL given, which it fills with its schema."""

    postgres: Postgres
    folder: Path
    port: int

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Child]:
        """Serve until the block ends, with the namespace and the search attributes. Raises StackError."""
        if not (BUILT / "server").exists():
            raise StackError("Temporal's server on PostgreSQL is not built. Run `make bench-server`, which needs Go.")
        self.folder.mkdir(parents=True)
        for schema, database in DATABASES.items():
            await self._create(schema, database)
        self._configure()
        command = Command(
            name="Temporal on PostgreSQL",
            argv=(str(BUILT / "server"), "--root", str(self.folder), "--config", ".", "--env", "bench", "start"),
            log=self.folder / "temporal.log",
            env=os.environ | {"TEMPORAL_VERSION_CHECK_DISABLED": "1"},
        )
        async with running(command) as child:
            await child.ready(self._has_namespace, within=90)
            attributes = (f"--name={name} --type={kind}".split() for name, kind in SEARCH_ATTRIBUTES.items())
            await self._operate("search-attribute", "create", *(flag for pair in attributes for flag in pair))
            yield child

    async def _create(self, schema: str, database: str) -> None:
        connection = await asyncpg.connect(self.postgres.url("postgres"))
        try:
            await connection.execute(f"CREATE DATABASE {database}")
        finally:
            await connection.close()
        versions = str(BUILT / "schema" / schema / "versioned")
        for verb in (("setup-schema", "-v", "0.0"), ("update-schema", "-d", versions)):
            where = ("--ep", HOST, "-p", str(self.postgres.port), "-u", NAME, "--pw", NAME, "--db", database)
            await run(
                Command(
                    name=f"Creating the schema {schema}",
                    argv=(str(BUILT / "sql"), "--plugin", "postgres12", *where, *verb),
                    log=self.folder / f"{schema}-{verb[0]}.log",
                )
            )

    def _configure(self) -> None:
        grpc = {"frontend": self.port}
        rest = iter(free_ports(2 * len(SERVICES)))
        services = "\n".join(
            f"  {name}: {{rpc: {{grpcPort: {grpc.get(name) or next(rest)}, membershipPort: {next(rest)}, "
            "bindOnLocalHost: true}}"
            for name in SERVICES
        )
        connection = (
            f'pluginName: postgres12, connectAddr: "{HOST}:{self.postgres.port}", connectProtocol: tcp, '
            f"user: {NAME}, password: {NAME}, maxConnLifetime: 1h"
        )
        dynamic = self.folder / "dynamic.yaml"
        pairs = (setting.split("=", 1) for setting in DYNAMIC_CONFIG)
        dynamic.write_text("".join(f"{name}:\n  - value: {value}\n" for name, value in pairs))
        text = CONFIG.format(
            shards=SHARDS,
            connection=connection,
            host=HOST,
            services=services,
            frontend=self.port,
            dynamic=dynamic,
        )
        (self.folder / "bench.yaml").write_text(text)

    async def _has_namespace(self) -> bool:
        try:
            await self._operate("namespace", "create", "--namespace=default")
        except StackError:
            return "already exists" in (self.folder / "operator-namespace.log").read_text()
        return True

    async def _operate(self, what: str, *arguments: str) -> None:
        await run(
            Command(
                name=f"temporal operator {what}",
                argv=(*(binary("temporal"), "operator", what), *arguments, *NO_PROFILE, f"--address={self.address}"),
                log=self.folder / f"operator-{what}.log",
            )
        )
