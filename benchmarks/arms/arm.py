"""What every arm of the comparison is: a program that works, and a client that places one order."""

import importlib.util
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from temporalio.client import Client

from config.settings import Settings

Payload = dict[str, Any]

# Places the order of that id. It calls the function at the first answer, which tells the customer that the order is
# placed, and returns when all work of the order is done, its notifications too.
Place = Callable[[str, Payload, Callable[[], None]], Awaitable[None]]


@dataclass(frozen=True)
class Entrance:
    """Where a client reaches the workers of an arm: a task queue, or the URL of a worker that serves HTTP."""

    client: Client
    http: httpx.AsyncClient
    task_queue: str
    url: str


@dataclass(frozen=True)
class Server:
    """A server that an arm has for itself: the process, where its workers reach it, and where its clients do."""

    pid: int
    worker_url: str
    client_url: str


@dataclass(frozen=True)
class Post:
    """Where a worker works: the same, from its side. `engine_url` is the arm's own server, or else a PostgreSQL."""

    task_queue: str
    port: int
    engine_url: str


Rules = Literal["product", "naive", "none"]
Worker = Callable[[Settings, Post], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Arm:
    """One way to place orders.

    Attributes:
        title: what it is, for a reader of the table.
        engine: what makes it durable.
        worker: the program of its worker.
        client: makes the function that places an order.
        settings: environment variables of its worker.
        package: the Python package without which it is skipped.
        server: runs its own server on a folder, if it has one.
        lacks: says why it cannot run for another reason; empty: it can.
        cart: whether the number of items matters to it.
        rules: which invariants its orders must obey.
    """

    name: str
    title: str
    engine: Literal["temporal", "dbos", "restate", "none"]
    worker: Worker
    client: Callable[[Entrance], Place]
    settings: Mapping[str, str] = field(default_factory=dict)
    package: str = ""
    server: Callable[[Path], AbstractAsyncContextManager[Server]] | None = None
    lacks: Callable[[], str] = str
    cart: bool = True
    rules: Rules = "product"


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
