"""A verified series as a volume for NiiVue: what a page embeds of it, and what it says of that."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from salm_dicom.batch.sheet_pixels import Stack, notes_of_slices, presets_of, units_of
from salm_dicom.nifti.made import nifti1
from salm_dicom.report import Scene
from salm_dicom.volume import Floats

# Volumes with fewer voxels along an axis have no sides to look at.
_FEWEST = 2
# Slices from which the size of all is told.
_SAMPLED = 16
_MEGA = 1_000_000
Triple = tuple[int, int, int]


def why_no_scene(stack: Stack) -> str:
    """Return why a series cannot be shown as one volume; empty when it can."""
    if stack.volumes > 1:
        return f"the file holds {stack.volumes} volumes"
    if stack.first.irregular:
        return f"it is no regular volume ({stack.first.irregular})"
    if min(stack.before.shape) < _FEWEST:
        return "it is no more than one slice, row or column"
    if not stack.has_after.all():
        return "some slices have no protected counterpart"
    if abs(np.linalg.det(stack.first.affine[:3, :3])) < 1e-12:
        return "its slices have no place in space"
    return ""


def scene_of(stack: Stack, cap: int) -> Scene:
    """Return a stack as the volume that a page embeds.

    Where `cap` characters cannot hold it, every n-th column, row and slice is taken, finest axis
    first: values stay what they are, none is averaged.

    Parameters
    ----------
    stack
        One of which `why_no_scene` has nothing to say.
    """
    packing = _Packing(stack)
    steps, texts, whole_bytes = _packed(packing, cap)
    return Scene(
        source=texts[0],
        difference=texts[1],
        shape=packing.shape(steps),
        whole=packing.shape((1, 1, 1)),
        steps=steps,
        affine=tuple(map(tuple, packing.affine(steps).tolist())),
        units=units_of(stack),
        is_inverted=stack.first.photometric == "MONOCHROME1",
        presets=tuple(presets_of(stack)),
        least=float(np.abs(stack.slope).min()),
        largest=stack.largest,
        whole_bytes=whole_bytes,
    )


def notes_of_scene(stack: Stack, scene: Scene, cap: int) -> Iterator[str]:
    """Yield what a reader must know of the volume of a page."""
    if max(scene.steps) > 1:
        axes = zip(("columns", "rows", "slices"), scene.steps, strict=True)
        coarser = ", ".join(f"one of {step} {name}" for name, step in axes if step > 1)
        shape, whole = (" x ".join(map(str, sizes)) for sizes in (scene.shape, scene.whole))
        yield (
            f"Only {coarser} is in this page, {shape} of {whole} voxels: all would take about "
            f"{scene.whole_bytes / _MEGA:.3g} MB and the cap is {cap / _MEGA:g} MB (--max-mb). "
            "Each voxel shown has the value of the file, none is averaged. Numbers and charts are "
            "of all voxels"
        )
    else:
        yield "Every voxel of every slice is in this page"
    if not _Packing(stack).is_exact:
        yield "Its values are modality values in single precision (7 digits)"
    yield from notes_of_slices(stack)


class _Packing:
    """How a stack becomes two NIfTI files: of stored values where 16 bits and one mapping do."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        change = max(abs(int(c.min())) + abs(int(c.max())) for c, _ in stack.changes())
        ends = int(stack.before.min()) - change, int(stack.before.max()) + change
        bounds = np.iinfo(np.int16)
        fits = bounds.min <= ends[0] and ends[1] <= bounds.max
        self.is_exact = bool(
            fits
            and (stack.slope == stack.slope[0]).all()
            and (stack.intercept == stack.intercept[0]).all()
        )

    def shape(self, steps: Triple) -> Triple:
        """Return how many columns, rows and slices are taken."""
        slices, rows, columns = (
            ceil(n / step)
            for n, step in zip(self._stack.before.shape, reversed(steps), strict=True)
        )
        return columns, rows, slices

    def affine(self, steps: Triple) -> Floats:
        """Return (column, row, slice) of what is taken to RAS millimetres."""
        return np.asarray(self._stack.first.affine @ np.diag([*steps, 1]), dtype=np.float64)

    def whole_bytes(self) -> int:
        """Return about how many characters all voxels take, by some of the slices."""
        slices = len(self._stack.before)
        every = max(slices // _SAMPLED, 1)
        return sum(map(len, self.texts((1, 1, every)))) * slices // ceil(slices / every)

    def texts(self, steps: Triple) -> tuple[str, str]:
        """Return the source and the difference."""
        stack = self._stack
        columns, rows, slices = steps
        kept = range(0, len(stack.before), slices)
        shape = (len(kept), *stack.before[0, ::rows, ::columns].shape)
        kind = np.int16 if self.is_exact else np.float32
        source, difference = np.empty(shape, kind), np.empty(shape, kind)
        for place, index in enumerate(kept):
            before = stack.before[index, ::rows, ::columns].astype(np.int64)
            change = stack.after[index, ::rows, ::columns] - before
            slope, intercept = stack.slope[index], stack.intercept[index]
            source[place] = before if self.is_exact else slope * before + intercept
            difference[place] = change if self.is_exact else slope * change
        mapping = (
            (float(stack.slope[0]), float(stack.intercept[0])) if self.is_exact else (1.0, 0.0)
        )
        affine = self.affine(steps)
        return _text(source, affine, *mapping), _text(difference, affine, mapping[0], 0.0)


def _text(
    values: NDArray[np.int16 | np.float32], affine: Floats, slope: float, intercept: float
) -> str:
    made = nifti1(values.transpose(2, 1, 0), affine, slope=slope, intercept=intercept)
    return b64encode(made).decode("ascii")


def _packed(packing: _Packing, cap: int) -> tuple[Triple, tuple[str, str], int]:
    """Return the steps that `cap` characters allow, the texts, and about what all would take."""
    steps, whole_bytes = (1, 1, 1), packing.whole_bytes()
    if whole_bytes > cap:
        steps = _fewer(packing, steps, cap / whole_bytes)
    texts = packing.texts(steps)
    while (size := sum(map(len, texts))) > cap:
        before, steps = steps, _fewer(packing, steps, cap / size)
        if steps == before:
            break
        texts = packing.texts(steps)
    return steps, texts, whole_bytes


def _fewer(packing: _Packing, steps: Triple, share: float) -> Triple:
    """Return steps that take less than a share of the voxels; the coarsest where none do."""
    wanted = prod(packing.shape(steps)) * share
    while prod(packing.shape(steps)) >= wanted:
        coarser = _coarser(packing, steps)
        if coarser is None:
            break
        steps = coarser
    return steps


def _coarser(packing: _Packing, steps: Triple) -> Triple | None:
    """Return steps with the finest axis one coarser; None where no axis has voxels to spare."""
    spacing_mm = np.linalg.norm(packing.affine(steps)[:3, :3], axis=0).tolist()
    shape = packing.shape(steps)
    axes = [axis for axis in range(3) if shape[axis] > _FEWEST]
    if not axes:
        return None
    finest = min(axes, key=lambda axis: spacing_mm[axis])
    columns, rows, slices = (step + (axis == finest) for axis, step in enumerate(steps))
    return columns, rows, slices
