"""What a process serves to Prometheus, as samples."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import httpx

SAMPLE: Final = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)
LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

# The labels of the SDK's own metrics, and those that it adds to ours in a workflow or an activity: all of them names.
OF_THE_SDK: Final = frozenset(
    {
        *("namespace", "task_queue", "workflow_type", "activity_type", "worker_type", "poller_type", "task_type"),
        *("operation", "status_code", "failure_reason", "eager", "le"),
    }
)


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float

    def has(self, name: str, labels: dict[str, str]) -> bool:
        """Whether it is of this metric, and has these labels among its own."""
        return self.name == name and labels.items() <= self.labels.items()


async def scrape(address: str) -> list[Sample]:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://{address}/metrics")).raise_for_status().text
    return [
        Sample(each["name"], dict(LABEL.findall(each["labels"] or "")), float(each["value"]))
        for each in SAMPLE.finditer(text)
    ]


def total(samples: Iterable[Sample], name: str, **labels: str) -> float | None:
    """The sum of a metric over all other labels; None: it has no such sample."""
    found = [sample.value for sample in samples if sample.has(name, labels)]
    return sum(found) if found else None
