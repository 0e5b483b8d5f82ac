"""Becomes another program that the kernel ends when the one who started it dies, however it dies.

Run by path and imports only the standard library, so that it costs a few milliseconds:
`python -I -S launch.py SIGNAL PARENT_PID PROGRAM ARGUMENT...`. The death signal survives exec (prctl(2)), and
setting it here rather than between fork and exec keeps Python code out of a forked, threaded process.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    signal_number, parent_pid, *program = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the call above: then nobody would ever send the signal.
    if os.getppid() != int(parent_pid):
        sys.exit("the process that started this one is gone")
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
