"""Bounds of a job: how often it may begin, how long it may take, how much memory it needs."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from salm_dicom.batch.vault import Vault
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.samples import VOXELS_AT_ONCE

# Measured by benchmarks/memory.py: bytes of a worker, of torch and a network in it, of several
# networks with what they see of a sample, of each voxel of a series, and of each that a method
# looks at together, without a network and with one.
_WORKER = 190 << 20
_NETWORK = 390 << 20
_SEVERAL = 220 << 20
_VOXEL, _VOXEL_WITH_NETWORK = 6, 8
_TOGETHER, _TOGETHER_WITH_NETWORK = 12, 88
_FRAME = re.compile(r'File "(?:.*/)?([^"/]+)", line (\d+) in (\S+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a job may take.

    Parameters
    ----------
    seconds
        Its process is ended after so long; 0: never.
    memory
        Bytes that its process is expected to need; 0: nothing worth counting.
    """

    seconds: float = 0.0
    memory: int = 0


NO_BOUNDS = Bounds()


class Bounded(Protocol):
    """A job with bounds."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def vault(self) -> Path: ...  # noqa: D102
    @property
    def bounds(self) -> Bounds: ...  # noqa: D102


def memory_of(voxels: int, slices: int, plan: ProtectionPlan) -> int:
    """Return how many bytes a process needs for a series of so many voxels (samples)."""
    one = voxels // max(slices, 1)
    if not plan.needs_surrogate:
        return _WORKER + voxels * _VOXEL + one * _TOGETHER
    together = voxels if plan.extent == "volume" else min(voxels, max(one, VOXELS_AT_ONCE))
    networks = _NETWORK + _SEVERAL * plan.is_fresh
    return _WORKER + networks + voxels * _VOXEL_WITH_NETWORK + together * _TOGETHER_WITH_NETWORK


@contextmanager
def in_time(job: Bounded) -> Iterator[None]:
    """End this process when the job takes too long, whatever it is at, and leave a mark of where.

    The mark is written by a thread that asks nothing of Python, so decoders cannot hold it up.
    """
    if not job.bounds.seconds:
        yield
        return
    mark = _mark(job)
    mark.parent.mkdir(mode=0o700, exist_ok=True)
    with mark.open("wb") as stream:
        faulthandler.dump_traceback_later(job.bounds.seconds, exit=True, file=stream)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            mark.unlink(missing_ok=True)


def was_late(job: Bounded) -> str | None:
    """Return where a process was that was ended because of this job; None if there was none.

    The mark goes: the next one to ask gets None.
    """
    if not job.bounds.seconds:
        return None
    mark = _mark(job)
    text = mark.read_text(errors="replace") if mark.exists() else ""
    mark.unlink(missing_ok=True)
    if not text:
        return None
    return "Timeout: " + " < ".join(
        f"{file}:{line} {where}" for file, line, where in _FRAME.findall(text)
    )


@contextmanager
def begun(job: Bounded) -> Iterator[int]:
    """Give how often a job began in this run and did not end; nobody else does it meanwhile."""
    path = _begun(job)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        times = os.fstat(descriptor).st_size
        os.write(descriptor, b".")
        yield times
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def times_begun(job: Bounded) -> int:
    """Return how often a job began in this run and did not end."""
    path = _begun(job)
    return path.stat().st_size if path.exists() else 0


def _begun(job: Bounded) -> Path:
    return Vault(job.vault).begun / sha256(job.source.encode()).hexdigest()


def _mark(job: Bounded) -> Path:
    begun = _begun(job)
    return begun.with_name(f"{begun.name}.late")
