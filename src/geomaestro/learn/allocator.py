"""Memory settings of long-running programs."""

import ctypes
import mmap
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameter numbers of glibc's malloc.h
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, so that the next step's tensors lie on pages that are already there.

    By default glibc hands every large block back to the kernel, and each step pays for mapping and clearing its pages
    again. The memory kept lies on huge pages where the kernel allows it. To be called once, at the start of a program;
    the price is memory held until its end. Gives True where the C library took the setting (glibc on Linux), else
    False, and then nothing has changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        kept = bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, _NEVER))
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    if kept and hasattr(mmap, "MADV_HUGEPAGE"):
        _ask_for_huge_pages(libc, os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2)
    return kept


def _ask_for_huge_pages(libc: ctypes.CDLL, size: int) -> None:
    """Extend the heap by `size` bytes of addresses, which cost no memory until used, and ask for huge pages there.

    Measured: a step of a model of 255 million parameters takes 1.2 times as long on small pages.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(size)
    if not start:  # a limit on addresses: small pages it is
        return
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.madvise(first, size - mmap.PAGESIZE, mmap.MADV_HUGEPAGE)
    libc.free(start)
