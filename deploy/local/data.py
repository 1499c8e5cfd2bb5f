"""The folder with the data of a local stack: locked while a stack uses it, and deleted by `make clean`."""

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.process import ROOT, StackError

DATA_DIR = ROOT / ".local"
LITTLE = 16 * 1024 * 1024  # bytes; Postgres needs as much for a piece of its log


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from the folder, which is made if absent. Raises StackError if a stack uses it already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StackError(f"The data folder {folder} cannot be used: {error.strerror}.") from None
    try:
        _take(lock, folder)
        yield
    finally:
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        user = os.read(lock, 20).decode()
        advice = f"Stop that first: Ctrl-C where it runs, or kill {user}."
        raise StackError(f"{folder} is in use by another stack, process {user}. {advice}") from None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())


def space_problem(folder: Path, problem: str) -> str:
    """What to do if the disk of the folder is full, or was when the problem arose; empty if not."""
    place = next(each for each in (folder, *folder.parents) if each.exists())
    if shutil.disk_usage(place).free >= LITTLE and os.strerror(errno.ENOSPC) not in problem:
        return ""
    return f"\nThe disk of {place} is full: free some space, then start the stack again."


def clean(folder: Path = DATA_DIR) -> int:
    """Delete the folder, unless a stack uses it."""
    try:
        if folder.exists():
            with locked(folder):
                shutil.rmtree(folder)
    except (StackError, OSError) as error:
        sys.stderr.write(f"make clean: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(clean())
