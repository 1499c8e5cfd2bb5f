"""The state of the sandbox, kept in one SQLite file through a stop or a kill."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter

APPLICATION_ID: Final = 0x5A4DB0C5  # in the file header: distinguishes our files from other databases
_PREPARE: Final = f"""
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA application_id = {APPLICATION_ID};
    CREATE TABLE IF NOT EXISTS entries (dict TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (dict, key));
"""
_KEEP: Final = "INSERT INTO entries VALUES (?, ?, ?) ON CONFLICT (dict, key) DO UPDATE SET value = excluded.value"

T = TypeVar("T")


class StateError(Exception):
    """The state file cannot be used. The message names it and says why."""


class PersistentDict(dict[str, T]):
    """A dictionary that tracks which keys may differ from the file: those that were set, deleted or looked up.

    A look-up with `[]` counts because values are changed in place. To only read, use `get` or iterate.
    """

    def __init__(self, kind: Any) -> None:  # noqa: ANN401  any type that pydantic can read and write
        super().__init__()
        self._kind = kind
        self._touched: dict[str, None] = {}
        self._replaces = True

    def __getitem__(self, key: str) -> T:
        self.touch(key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: T) -> None:
        self.touch(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.touch(key)
        super().__delitem__(key)

    def clear(self) -> None:
        self._replaces = True
        super().clear()

    def touch(self, key: str) -> None:
        self._touched[key] = None

    def touched(self) -> list[T]:
        """Return the values that may have changed since the last write."""
        return [value for key in self._touched if (value := self.get(key)) is not None]

    def fill(self, rows: Iterable[tuple[str, str]]) -> None:
        """Load the rows of the file. Raises ValueError."""
        adapter = _adapter(self._kind)
        self.update({key: adapter.validate_json(value) for key, value in rows})
        self._replaces = False

    def write(self, database: sqlite3.Connection, name: str) -> None:
        """Update the rows of this dictionary in the file."""
        if self._replaces:
            database.execute("DELETE FROM entries WHERE dict = ?", (name,))
        for key in self._touched:
            if key in self:
                value = _adapter(self._kind).dump_json(super().__getitem__(key))
                database.execute(_KEEP, (name, key, value.decode()))
            else:
                database.execute("DELETE FROM entries WHERE (dict, key) = (?, ?)", (name, key))

    def written(self) -> None:
        self._touched.clear()
        self._replaces = False


class Store:
    """The file behind the dictionaries. Only one sandbox can use it at a time.

    Raises:
        StateError: the file belongs to another program, is damaged, in use or unreachable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._usable():
            self._database = sqlite3.connect(path, timeout=1)
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            if self._is_foreign():
                raise ValueError("it is a database of another program")
            self._database.executescript(_PREPARE)

    def restore(self, dicts: Mapping[str, PersistentDict[Any]]) -> None:
        """Load the file into empty dictionaries. Raises StateError."""
        with self._usable():
            for name, each in dicts.items():
                rows = "SELECT key, value FROM entries WHERE dict = ? ORDER BY rowid"
                each.fill(self._database.execute(rows, (name,)))

    def save(self, dicts: Mapping[str, PersistentDict[Any]]) -> None:
        """Write all changes in one transaction."""
        with self._database:
            for name, each in dicts.items():
                each.write(self._database, name)

    def close(self) -> None:
        self._database.close()

    def _is_foreign(self) -> bool:
        (application_id,) = self._database.execute("PRAGMA application_id").fetchone()
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return bool(tables and application_id != APPLICATION_ID)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise StateError(
                f"The sandbox cannot use {self._path}: {reason}. Move the file away to start with an empty state."
            ) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401  see PersistentDict
    return TypeAdapter(kind)
