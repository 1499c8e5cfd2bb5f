"""Standard output and error that never fail a program: a closed pipe, a full disk, an encoding without our characters.

The work that a program has done does not depend on who reads about it, so no write raises. What could not be written to
standard output goes to standard error when the program ends.
"""

import codecs
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NOT_WRITTEN: Final = 6  # the exit status of a program that did its work, but could not write its result
MAX_LOST: Final = 1024 * 1024  # bytes of a result that are kept for standard error

SPELLED_OUT: Final = {"…": "...", "✓": "ok", "✗": "x", "→": "->", "─": "-", "│": "|", "├": "|", "└": "`"}
SPELL_OUT: Final = "spell_out"  # the name of the error handler


class _Unfailing(io.FileIO):
    """Writes to a file descriptor. After a write has failed, all that follows is `lost`."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.lost = bytearray()
        self._error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            if not self._error:
                while (written := super().write(data)) is None:  # another program has made the terminal non-blocking
                    select.select([], [self], [])
                return written
        except OSError as error:
            self._error = error
        self.lost += bytes(data)[: MAX_LOST - len(self.lost)]
        return len(memoryview(data))

    @property
    def reason(self) -> str | None:
        """Why a write failed; None if none did, or if the reader of a pipe has gone: it has what it wanted."""
        if self._error is None or self._error.errno == errno.EPIPE:
            return None
        return os.strerror(self._error.errno or 0)


class _Forgetful(_Unfailing):
    """Writes that fail are dropped, and the next one is tried again: a full disk does not end a log."""

    def write(self, data: "ReadableBuffer", /) -> int:
        self.lost.clear()
        self._error = None
        return super().write(data)


def open_streams() -> None:
    """Make the standard streams of this process unfailing. A stream that was closed before it began is empty."""
    codecs.register_error(SPELL_OUT, _spelled_out)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number: this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 (it lives as long as the process)
    sys.stdout = _text(_Unfailing(1), sys.stdout)
    sys.stderr = _text(_Forgetful(2), sys.stderr)


def flush_streams(status: int) -> int:
    """Write what is buffered. The exit status: `status`, or NOT_WRITTEN instead of 0 if the output was lost."""
    reason, lost = _flush(sys.stdout)
    if reason:
        sys.stderr.write(f"Standard output cannot be written: {reason}. Free some space, or write it elsewhere.\n")
        sys.stderr.write(lost and f"Not written:\n{lost}")
    _flush(sys.stderr)
    return status or (NOT_WRITTEN if reason else 0)


def _text(raw: io.RawIOBase, before: TextIO | None) -> TextIO:
    encoding = before.encoding if before else "utf-8"
    is_prompt = raw.isatty() or isinstance(raw, _Forgetful)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, SPELL_OUT, line_buffering=is_prompt)


def _flush(stream: TextIO) -> tuple[str | None, str]:
    """Why the stream could not be written, and what of it is lost."""
    try:
        stream.flush()
    except BrokenPipeError:
        return None, ""
    except OSError as error:
        return error.strerror, ""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return (raw.reason, raw.lost.decode(stream.encoding, "replace")) if isinstance(raw, _Unfailing) else (None, "")


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    spelled = (SPELLED_OUT.get(each) or each.encode("ascii", "backslashreplace").decode() for each in text)
    return "".join(spelled), error.end
