"""Ends a child process when its parent ends, even if the parent is killed: the child would otherwise go on and keep its GPU.
Linux only; elsewhere nothing happens."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2  # linux/prctl.h


def end_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends. Called in the new process, before it becomes another program.

    SIGTERM ends a program at once until the program handles it. Python raises an exception for SIGINT, which may get lost in a
    callback while modules are imported.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent has already ended, and no signal will come
            os._exit(1)


def end_undrained() -> None:
    """Ask for SIGINT, which does not drain, instead of the signal of end_with(). Called once SIGINT is handled."""
    if sys.platform == "linux" and death_signal():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def death_signal() -> int:
    """Return the signal that comes when the parent ends; 0 for none."""
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value
