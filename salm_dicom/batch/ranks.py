"""Ranks: the processes that `torchrun` started, on one machine or many, do a fit together.

The first one is the driver; the others do parts of a noise phase when it asks for them, and so does
it. They talk over gloo. Any number of them makes the protector that one process makes.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from salm_dicom.batch.answers import Answer, answer_to
from salm_dicom.batch.engines import be_worker, keep_memory
from salm_dicom.errors import PlanError

T = TypeVar("T")
R = TypeVar("R")

# The others wait while the first one reads the export and trains the surrogate.
_PATIENCE = timedelta(days=30)
# Parts for each rank that are handed out together: what waits does not grow with the data.
_AT_ONCE = 64


def is_one_of_many() -> bool:
    """Return whether `torchrun` started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def use_own_gpu() -> None:
    """Let this process see the one GPU of its place on this machine; before torch is imported."""
    place = int(os.environ["LOCAL_RANK"])
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    mine = str(place) if seen is None else ",".join(seen.split(",")[place : place + 1])
    os.environ["CUDA_VISIBLE_DEVICES"] = mine


@dataclass(frozen=True, slots=True)
class Turn:
    """Parts of a piece of work, from which every rank takes the next one that nobody has."""

    name: str
    work: Callable[[Any], Any]
    parts: list[Any]


class Ranks:
    """All processes that `torchrun` started, as one of them sees them."""

    def __init__(self) -> None:
        from torch.distributed import init_process_group
        from torch.distributed.rendezvous import rendezvous

        self._store, self._rank, self._size = next(rendezvous("env://"))
        init_process_group(
            "gloo", store=self._store, rank=self._rank, world_size=self._size, timeout=_PATIENCE
        )
        self._turns = 0

    def each(self, work: Callable[[T], R], parts: Iterable[T]) -> Iterator[R]:
        """Yield what `work` makes of each part, in order, whoever did it; for the first rank.

        Raises
        ------
        PlanError
            A part needs a folder that a rank on another machine does not see.
        RuntimeError
            A rank is gone; `torchrun` ends the others.
        """
        todo = iter(parts)
        while some := list(islice(todo, _AT_ONCE * self._size)):
            self._turns += 1
            for answer in self._done(Turn(f"turn/{self._turns}", work, some)):
                yield answer.given()

    def serve(self) -> None:
        """Do what the first rank asks for, until it asks for no more."""
        while (turn := self._told(None)) is not None:
            self._do(turn)
        self._leave()

    def end(self) -> None:
        """Let the others go; for the first rank."""
        self._told(None)
        self._leave()

    def _leave(self) -> None:
        """Wait until no thread of gloo holds a tensor.

        One that drops its tensor while the interpreter ends is ended by it, and aborts the process.
        """
        from torch.distributed import destroy_process_group

        destroy_process_group()

    def _done(self, turn: Turn) -> list[Answer]:
        self._told(turn)
        found = {index: answer for one in self._do(turn) for index, answer in one.items()}
        return [pickle.loads(found[index]) for index in range(len(turn.parts))]

    def _told(self, turn: Turn | None) -> Turn | None:
        """Return what the first rank tells all."""
        from torch.distributed import broadcast_object_list

        said = [turn]
        broadcast_object_list(said, src=0)
        return said[0]

    def _do(self, turn: Turn) -> list[dict[int, bytes]]:
        """Do parts while there are any; return what each rank gave, on the first one."""
        from torch.distributed import gather_object

        mine = {}
        while (index := self._store.add(turn.name, 1) - 1) < len(turn.parts):
            mine[index] = answer_to(partial(_seen, turn.work, turn.parts[index]))
        all_of_it: list[Any] = [None] * self._size
        gather_object(mine, None if self._rank else all_of_it, dst=0)
        return all_of_it


def _seen(work: Callable[[Any], Any], part: Any) -> Any:
    """Do a part where `places`, which it needs, are seen."""
    if not all(place.exists() for place in getattr(part, "places", ())):
        raise PlanError(
            "a process of torchrun does not see the folder of the protector; it must lie under the "
            "same path on every machine"
        )
    return work(part)


@contextmanager
def leading() -> Iterator[Ranks]:
    """Be the first rank: give what hands out parts, and let the others go at the end."""
    keep_memory()
    found = Ranks()
    try:
        yield found
    except Exception:
        found.end()
        raise
    # one that is interrupted ends, and with it the others, which may be at something
    found.end()


def serve() -> None:
    """Be another rank, until the first one is done."""
    be_worker()
    Ranks().serve()


def is_first() -> bool:
    """Return whether this process is the driver of those that `torchrun` started."""
    return os.environ["RANK"] == "0"
