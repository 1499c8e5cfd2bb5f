"""Become a program that dies with its supervisor: `python -IS launch.py PARENT DEATH_SIGNAL UID COMMAND...`.

It runs between the supervisor's fork and the program, where `preexec_fn` would be unsafe beside threads. COMMAND
begins with a path; UID `-` keeps the user. Where the system knows no parent-death signal (all but Linux) only an
orderly stop ends the program.
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
        # After the change of user, which would clear it. A parent that died before is noticed by its pid.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("the supervisor is gone")
    try:
        # Not execvp: its search imports, and the user may not be able to read this Python's library any more.
        os.execv(command[0], command)  # noqa: S606  (replacing this process is its purpose)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
