"""Become another program that ends when the starting process ends, even if that was killed outright.

Run as a script, `python lifeline.py STARTER PROGRAM [ARGUMENT…]`, with the number of the starting process: doing this
between fork and exec in the launcher itself would run Python code in a forked copy of a threaded process.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # from linux/prctl.h; the setting survives exec

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):  # it ended before this could ask to hear of it
        sys.exit(128 + signal.SIGTERM)
    os.execv(sys.argv[2], sys.argv[2:])
