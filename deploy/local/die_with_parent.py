"""Become a program that dies with its supervisor: `python -IS die_with_parent.py PARENT DEATH_SIGNAL UID COMMAND...`.

A process of its own does this because `preexec_fn` is unsafe in a supervisor with threads. COMMAND begins with a path;
UID `-` keeps the user. Only Linux has a parent-death signal: elsewhere the program outlives a killed supervisor.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, death_signal: int, uid: str, command: list[str]) -> None:
    if uid != "-":
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        # After the change of user, which would clear it. The check below finds a parent that died before this call.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("the supervisor is gone")
    try:
        # Not execvp: its search imports modules, which the new user may not be allowed to read.
        os.execv(command[0], command)  # noqa: S606  (replacing this process is its purpose)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
