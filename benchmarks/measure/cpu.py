"""CPU time of processes and of the whole machine, from /proc. A process counts with all its descendants."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

TICKS: Final = os.sysconf("SC_CLK_TCK")  # per second

# Fields of /proc/PID/stat after the name, which may hold spaces: its parent, and its times with those of children that
# it has waited for.
PARENT, TIMES = 1, slice(11, 15)

# Fields of the first line of /proc/stat: what is neither idle nor waiting for a disk. `steal` is what other machines
# on the same hardware took.
BUSY: Final = (0, 1, 2, 5, 6, 7)


class Reading(NamedTuple):
    """CPU seconds: of each named group of processes, of all that descend from this one, and of the machine."""

    groups: Mapping[str, float]
    ours: float
    machine: float


def read_cpu(groups: Mapping[str, Iterable[int]]) -> Reading:
    """The CPU seconds so far. `groups` are process ids by name; what descends from them is in their group."""
    times, children = _processes()
    return Reading(
        groups={name: sum(sum(_tree(pid, times, children)) for pid in pids) for name, pids in groups.items()},
        ours=sum(_tree(os.getpid(), times, children)),
        machine=machine_seconds(Path("/proc/stat").read_text()),
    )


def machine_seconds(stat: str) -> float:
    """The busy seconds of all cores, by the text of /proc/stat."""
    values = [int(value) for value in stat.splitlines()[0].split()[1:]]
    return sum(values[field] for field in BUSY) / TICKS


def process_times(stat: str) -> tuple[int, float]:
    """The parent of a process and its CPU seconds, by the text of its /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[PARENT]), sum(int(value) for value in fields[TIMES]) / TICKS


def _processes() -> tuple[dict[int, float], dict[int, list[int]]]:
    times: dict[int, float] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent, seconds = process_times((folder / "stat").read_text())
        except OSError:
            continue  # it has ended
        times[int(folder.name)] = seconds
        children[parent].append(int(folder.name))
    return times, children


def _tree(pid: int, times: Mapping[int, float], children: Mapping[int, list[int]]) -> Iterator[float]:
    yield times.get(pid, 0.0)
    for child in children.get(pid, ()):
        yield from _tree(child, times, children)
