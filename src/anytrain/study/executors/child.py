"""Becomes a command, bound to its parent and to its cores. Run as a file, by another process.

    python child.py PARENT CORES COMMAND…

The kernel sends the command SIGTERM when the thread that started it dies, so that a training
saves a checkpoint and stops, whatever killed the study. Imports nothing of ours: it starts fast.
"""

import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
NOT_STARTED = 127  # as a shell says it


def main(argv: Sequence[str]) -> int:
    """Replace this process by the command; returns only where that is not possible."""
    parent, cores, *command = argv
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if os.getppid() != int(parent):
        return 128 + signal.SIGTERM  # it died before it could be watched
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
    return NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
