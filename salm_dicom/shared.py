"""Shared memory: arrays that a process and its forked copies both write to, in large pages."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a page table of one level maps; where it is more, `settle` does nothing.
BLOCK = 1 << 21
# asm-generic/mman-common.h; the second from Linux 6.1 on: others refuse it and no harm is done.
_MAP_FIXED, _MADV_COLLAPSE = 0x10, 25
_FAILED = ctypes.c_void_p(-1).value


def shared(shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros in memory that a fork does not copy; it is given back with the array.

    It begins where a large page can.

    Raises
    ------
    MemoryError
        There is no room for it.
    """
    count = prod(shape)
    size = max(count * kind.itemsize, 1)
    length = -(-size // BLOCK) * BLOCK
    memory = (ctypes.c_char * size).from_address(_mapped(length))
    given_back = weakref.finalize(memory, _system().munmap, ctypes.addressof(memory), length)
    given_back.atexit = False  # who still sees the array then still may
    return np.frombuffer(memoryview(memory), kind, count).reshape(shape)


def settle(part: NDArray[Any]) -> None:
    """Give a part of such an array its memory, in large pages where the kernel can do that.

    Page by page it takes several times as long, and as long again in every copy. Who settles the
    part in which a large page begins has the whole page settled; what is written to it stays.
    """
    start, stop = part.ctypes.data, part.ctypes.data + part.nbytes
    for block in range(-(-start // BLOCK) * BLOCK, stop, BLOCK):
        ctypes.c_char.from_address(block).value  # noqa: B018 - the kernel wants one page there
        _system().madvise(block, BLOCK, _MADV_COLLAPSE)


def _mapped(length: int) -> int:
    """Return where so many bytes, whole blocks, lie from now on."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    room: int = _system().mmap(None, length + BLOCK, 0, private, -1, 0)
    if room == _FAILED:
        raise MemoryError(f"no room for {length} bytes of shared memory")
    start = -(-room // BLOCK) * BLOCK
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_FIXED
    found = _system().mmap(start, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    for rest, size in ((room, start - room), (start + length, room + BLOCK - start)):
        if size:
            _system().munmap(rest, size)
    if found == _FAILED:
        _system().munmap(start, length)
        raise MemoryError(f"no room for {length} bytes of shared memory")
    return start


@cache
def _system() -> ctypes.CDLL:
    """Return the C library with the types of what is called here."""
    found, size = ctypes.CDLL(None), ctypes.c_size_t
    found.mmap.restype = ctypes.c_void_p
    found.mmap.argtypes = [ctypes.c_void_p, size, *[ctypes.c_int] * 3, ctypes.c_long]
    found.munmap.argtypes = [ctypes.c_void_p, size]
    found.madvise.argtypes = [ctypes.c_void_p, size, ctypes.c_int]
    return found
