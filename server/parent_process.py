"""A process that ends with the one that started it, also where that is killed: nobody else would end it, and it would hold on to
its GPU. Linux only; elsewhere nothing happens."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2  # linux/prctl.h


def end_with(parent: int) -> None:
    """Ask for SIGTERM when the parent ends. Called in the new process, before it becomes another program.

    Until a program handles SIGTERM that ends it at once. Of SIGINT Python makes an exception, and one that comes while modules
    are imported may get lost in a callback.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has died meanwhile, and no signal will come
            os._exit(1)


def end_undrained() -> None:
    """Ask for SIGINT, which does not drain, in place of the signal of end_with(). Called when SIGINT is handled."""
    if sys.platform == "linux" and death_signal():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def death_signal() -> int:
    """The signal that comes when the parent ends; 0 for none."""
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value
