"""Memory settings of long-running programs."""

import ctypes
import sys

_TRIM_THRESHOLD = -1  # parameter numbers of glibc's malloc.h
_MMAP_MAX = -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, so that the next step's tensors lie on pages that are already there.

    By default glibc hands every large block back to the kernel, and each step pays for mapping and clearing its pages
    again. To be called once, at the start of a program; the price is memory held until its end. Gives True where the C
    library took the setting (glibc on Linux), else False, and then nothing has changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
