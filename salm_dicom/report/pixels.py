"""Embedded: stored values of source and protected, packed into text so that a page can hold them.

A slice is two zlib streams in base64: the source, and the change that leads to the protected one.
Both are unsigned integers above a minimum of their own. The source is written as differences to
the left neighbour (modulo the word), its bytes sorted by significance: noise compresses about
twice as well so. Nothing is rounded; what does not fit into the cap is left out and counted.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from salm_dicom.errors import BadValue
from salm_dicom.volume import Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """How integers are packed: little-endian, so many bytes, above a minimum."""

    least: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Slices of one series as text.

    Parameters
    ----------
    rows, columns
        Of an embedded slice.
    step
        Every how many rows and columns are embedded; 1 is all.
    slices
        Slices of the series, embedded or not.
    kept
        Index of each embedded slice, ascending.
    source, change
        How the integers of the two are packed.
    blocks
        For each embedded slice the source and the change, base64.
    whole_bytes
        About how much text all slices and voxels would take.
    """

    rows: int
    columns: int
    step: int
    slices: int
    kept: tuple[int, ...]
    source: Word
    change: Word
    blocks: tuple[tuple[str, str], ...]
    whole_bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether every voxel of every slice is embedded."""
        return self.step == 1 and len(self.kept) == self.slices


def embed(source: Integers, protected: Integers, *, cap: int, first: int = 0) -> Embedded:
    """Return as many slices as `cap` characters can hold, evenly chosen, and slice `first`.

    Where `first` alone does not fit, every n-th row and column is taken of every slice: values
    stay what they are, none is averaged.

    Parameters
    ----------
    source, protected
        Stored values, (slices, rows, columns).
    cap
        Most characters of all slices together.
    first
        Index of the slice that is embedded whatever happens, for instance the worst one.
    """
    words = _word(source), _word_of_changes(source, protected)

    def block(index: int, step: int) -> tuple[str, str]:
        before = source[index, ::step, ::step].astype(np.int64)
        after = protected[index, ::step, ::step].astype(np.int64)
        return _packed_source(before, words[0]), _packed(after - before, words[1])

    step = 1
    whole = one = block(first, step)
    while _size(one) > cap and step < max(source.shape[1:]):
        step += 1
        one = block(first, step)
    kept, every = {first: one}, 1
    for index in range(len(source)):
        if index % every or index in kept:
            continue
        kept[index] = block(index, step)
        while sum(map(_size, kept.values())) > cap and len(kept) > 1:
            every *= 2
            kept = {i: b for i, b in kept.items() if i == first or _stays(i, every, len(source))}
    rows, columns = source[first, ::step, ::step].shape
    return Embedded(
        rows=rows,
        columns=columns,
        step=step,
        slices=len(source),
        kept=tuple(sorted(kept)),
        source=words[0],
        change=words[1],
        blocks=tuple(kept[index] for index in sorted(kept)),
        whole_bytes=_size(whole) * len(source),
    )


def _stays(index: int, every: int, slices: int) -> bool:
    """Return whether a slice is among every n-th; none is, once n is beyond the last."""
    return index % every == 0 and every < 2 * slices


def _size(block: tuple[str, str]) -> int:
    return len(block[0]) + len(block[1])


def _word(values: Integers) -> Word:
    return _wide_enough(int(values.min()), int(values.max()))


def _word_of_changes(source: Integers, protected: Integers) -> Word:
    ends = [
        (int(change.min()), int(change.max()))
        for before, after in zip(source, protected, strict=True)
        for change in [after.astype(np.int64) - before]
    ]
    return _wide_enough(min(low for low, _ in ends), max(high for _, high in ends))


def _wide_enough(low: int, high: int) -> Word:
    for size in (1, 2, 4):
        if high - low < 1 << (8 * size):
            return Word(least=low, size=size)
    raise BadValue("stored values or changes need more than 32 bits; they cannot be shown exactly")


def _packed_source(values: NDArray[np.int64], word: Word) -> str:
    above = values - word.least
    above[:, 1:] = np.diff(above, axis=1) % (1 << (8 * word.size))
    return _packed(above + word.least, word)


def _packed(values: NDArray[np.int64], word: Word) -> str:
    words = (values - word.least).astype(f"<u{word.size}")
    planes = words.reshape(-1, 1).view(np.uint8).T  # all lowest bytes first
    return b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)).decode("ascii")
