"""Answers: what a job in another process gave, or what it raised, as bytes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job gave, or the error that it raised."""

    value: Any = None
    failed: BaseException | None = None

    def given(self) -> Any:
        """Return what the job gave, or raise what it raised."""
        if self.failed is not None:
            raise self.failed
        return self.value


def answer_to(job: Callable[[], Any]) -> bytes:
    """Do a job and return the pickled `Answer`, whatever it gives or raises."""
    try:
        answer = Answer(job())
    except BaseException as error:  # as a pool of processes does
        answer = Answer(failed=error)
    try:
        return pickle.dumps(answer)
    except Exception as unsendable:
        named = RuntimeError(f"an unforeseen {type(answer.failed or unsendable).__name__}")
        return pickle.dumps(Answer(failed=named))
