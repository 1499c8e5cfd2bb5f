"""The lines of a result file: one header, and one line for each cell that was measured."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MAX_FOREIGN: Final = 0.2  # cores


class Line(BaseModel):
    model_config = ConfigDict(frozen=True)


class Header(Line):
    """What was measured on what. `skipped` are arms that could not run, with the reason."""

    kind: Literal["header"] = "header"
    when: str
    commit: str
    profile: str
    engine: str
    cores: int
    processor: str
    versions: Mapping[str, str]
    arms: Mapping[str, str]
    skipped: Mapping[str, str]
    seconds: float
    seed: int


class Latency(Line):
    """Milliseconds, over the orders of a cell."""

    p50: float
    p99: float


class Flushed(Line):
    """What a PostgreSQL server flushed and wrote, for each order."""

    fsyncs: float
    wal_bytes: float


class CellResult(Line):
    """One arm under one load in one round.

    `offered` are the orders per second of an open loop; None: a closed loop. `cpu` is in milliseconds for each order,
    by process. `foreign` are the cores that other programs used meanwhile.
    """

    kind: Literal["cell"] = "cell"
    arm: str
    round: int
    customers: int
    items: int
    offered: float | None
    seconds: float
    orders: int
    rate: float
    answer: Latency
    done: Latency
    cpu: Mapping[str, float]
    postgres: Mapping[str, Flushed]
    events: float | None
    workflow_tasks: float | None
    history_bytes: float | None
    foreign: float

    @property
    def is_flagged(self) -> bool:
        """Whether other programs disturbed it: it is shown, and enters no ratio."""
        return self.foreign > MAX_FOREIGN

    @property
    def cpu_total(self) -> float:
        """Of all servers and workers, without the client, which is the same for all."""
        return sum(value for name, value in self.cpu.items() if name != "client")


class HotResult(Line):
    """Reservations alone: `customers` at a time, over so many products. `cpu` is the worker's, in ms for each."""

    kind: Literal["hot"] = "hot"
    arm: str
    round: int
    customers: int
    products: int
    rate: float
    latency: Latency
    cpu: float
    foreign: float

    @property
    def is_flagged(self) -> bool:
        return self.foreign > MAX_FOREIGN


class ScaleResult(Line):
    """How long something takes, or how often it happens, in a shop of some size."""

    kind: Literal["scale"] = "scale"
    what: str
    size: str
    unit: str
    value: float
    note: str = ""


Result = CellResult | HotResult | ScaleResult
_LINE: Final[TypeAdapter[Header | Result]] = TypeAdapter(Annotated[Header | Result, Field(discriminator="kind")])


def write(path: Path, lines: Iterable[Line]) -> None:
    """Append lines of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{json.dumps(line.model_dump(mode='json'))}\n" for line in lines)


def read(path: Path) -> tuple[Header, list[Result]]:
    """The header and the results of a file. Raises ValueError if it has none."""
    lines = [_LINE.validate_json(line) for line in path.read_text().splitlines()]
    headers = [line for line in lines if isinstance(line, Header)]
    if not headers:
        raise ValueError(f"{path} has no header: it is not the result of a run")
    return headers[0], [line for line in lines if not isinstance(line, Header)]
