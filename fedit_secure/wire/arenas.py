"""Memory that is freed goes back to the system, for a process that moves large uploads."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # of glibc's mallopt
_M_MMAP_THRESHOLD = -3
_LARGE = 128 * 1024  # bytes of a block that is given back when it is freed


def give_back_freed_memory() -> None:
    """Let glibc keep one heap for all threads, and none of the large blocks.

    By default each of gRPC's threads keeps a heap of its own, in which the freed pieces
    of many uploads stay: memory would grow with the silos though nothing refers to it.
    Call it before other threads start. Does nothing where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
