"""A process that ends with the one that started it, also where that is killed: nobody else would end it, and it would hold on to
its GPU. Linux only; elsewhere nothing happens."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2  # linux/prctl.h


def end_with(parent: int) -> None:
    """In the new process, before it becomes another program: SIGTERM comes when its parent ends.

    Until a program handles SIGTERM that ends it at once. Of SIGINT Python makes an exception, and one that comes while modules
    are imported may get lost in a callback.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has died meanwhile, and no signal will come
            os._exit(1)


def end_undrained() -> None:
    """Where end_with() was called, and SIGINT is handled now: SIGINT comes instead, which does not drain."""
    if sys.platform == "linux" and death_signal():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def death_signal() -> int:
    """What comes when the parent ends; 0 for nothing."""
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value
