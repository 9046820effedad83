"""Target: what a surrogate is to say of a volume, a label, several labels or a mask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from salm_dicom.errors import BadValue, GeometryError, NoChange, NoLabel
from salm_dicom.foreground import near_edges
from salm_dicom.grid import spacing_mm
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.samples import samples
from salm_dicom.volume import Booleans, Integers, Volume

# Stands in place of labels for a series that has none of them.
NONE = "-"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """The class of each voxel of a volume, or that it has none.

    Parameters
    ----------
    names
        Of the classes, each once.
    values
        Shape of the stored values; 0: no class, k: the k-th of `names`.
    sha256
        Of the files it was made from; empty: `digest` looks at names and values.
    """

    names: tuple[str, ...]
    values: Integers
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype.kind not in "iu":
            raise BadValue(
                f"a mask is {self.values.dtype} of {self.values.ndim} dimensions; integers of "
                "shape (slices, rows, columns) are needed"
            )
        if len({*self.names}) < len(self.names) or "" in self.names:
            raise BadValue("the classes of a mask need different names")
        if int(self.values.min()) < 0 or int(self.values.max()) > len(self.names):
            raise BadValue(f"a mask has values outside 0..{len(self.names)}, its classes")

    @classmethod
    def of(cls, regions: Mapping[str, Booleans], shape: tuple[int, ...], sha256: str = "") -> Mask:
        """Return the mask in which each region, shape of the volume, is a class.

        Raises
        ------
        NoLabel
            Two regions share a voxel.
        """
        names = tuple(sorted(regions))
        values = np.zeros(shape, dtype=np.min_scalar_type(len(names)))
        for number, name in enumerate(names, start=1):
            shared = int(np.count_nonzero(values[regions[name]]))
            if shared:
                raise NoLabel(
                    f"its masks contradict each other: {shared} voxels are of two classes; a voxel "
                    "needs one"
                )
            values[regions[name]] = number
        return cls(names=names, values=values, sha256=sha256)

    @property
    def digest(self) -> str:
        """SHA-256 that tells masks apart."""
        if self.sha256:
            return self.sha256
        about = json.dumps([self.names, self.values.shape]).encode()
        return hashlib.sha256(about + self.values.astype("<u4").tobytes()).hexdigest()

    @property
    def occurring(self) -> frozenset[str]:
        """Names of the classes that a voxel has."""
        return frozenset(self.names[number - 1] for number in np.unique(self.values) if number)

    def taken(self, which: slice) -> Mask:
        """Return some slices."""
        return replace(self, values=self.values[which])

    def numbered(self, classes: Sequence[str]) -> Integers:
        """Return the mask by other numbers: 0, and from 1 the place of each class in `classes`.

        Raises
        ------
        NoLabel
            A class that occurs is not among them.
        """
        unknown = self.occurring.difference(classes)
        if unknown:
            raise NoLabel(
                f"{len(unknown)} classes of the mask are none of the {len(classes)} that the "
                "protector knows"
            )
        places = [1 + classes.index(name) if name in classes else 0 for name in self.names]
        return np.array([0, *places], dtype=np.min_scalar_type(len(classes)))[self.values]


def names_of(label: str, objective: str) -> frozenset[str]:
    """Return the labels that a text names: itself, or for `multilabel` those between semicolons.

    `-` alone says that no label holds.

    Raises
    ------
    NoLabel
        A name between semicolons is empty.
    """
    if objective != "multilabel":
        return frozenset({label})
    names = frozenset() if label.strip() == NONE else frozenset(map(str.strip, label.split(";")))
    if "" in names or NONE in names:
        raise NoLabel(
            "several labels are written with semicolons between them, as in `effusion;mass`, and "
            f"none at all as `{NONE}`; one of these names is empty"
        )
    return names


def labelled(label: str, classes: Sequence[str], objective: str) -> NDArray[np.int64]:
    """Return the target of a label: its place, (), or for `multilabel` 0 or 1 for each class.

    Raises
    ------
    NoLabel
        It is none of the classes.
    """
    names = names_of(label, objective)
    if not names <= {*classes}:
        raise NoLabel(f"the label is not one of the {len(classes)} the protector knows")
    if objective == "multilabel":
        return np.array([int(one in names) for one in classes])
    return np.array(classes.index(label))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """What a surrogate is to say of one volume.

    Parameters
    ----------
    key
        Tells the targets of one protector apart.
    label
        What `labelled` returns; unused of a mask.
    values
        The mask, numbered by the protector's classes; None: there are labels.
    """

    key: str
    label: NDArray[np.int64] = field(default_factory=lambda: np.array(0))
    values: Integers | None = None

    @property
    def place(self) -> int:
        """Place of the label among all; 0 where there is not one."""
        return 0 if self.label.ndim else int(self.label)

    @classmethod
    def of(cls, mask: Mask, volume: Volume, classes: Sequence[str]) -> Target:
        """Return a mask as the target of its volume.

        Raises
        ------
        GeometryError, NoLabel
            It has another shape, or unknown classes.
        """
        check_shape(mask, volume)
        return cls(key=mask.digest, values=mask.numbered(classes))

    def wanted(self, part: slice, extent: str, shift: int, outputs: int) -> NDArray[np.int64]:
        """Return the target of each sample, see `objectives.Objective`.

        Parameters
        ----------
        part
            Slices of the volume; each is a sample, or all are one (`extent`).
        shift, outputs
            The next of so many that is shown instead, see `Method.label_shift`.
        """
        if self.values is None:
            count = part.stop - part.start if extent == "slice" else 1
            # of several labels each one shows the contrary
            shifted = (self.label + shift) % (2 if self.label.ndim else outputs)
            return np.repeat(shifted[None], count, axis=0)
        return samples((self.values[part].astype(np.int64) + shift) % outputs, extent)

    def allowed(self, plan: ProtectionPlan, volume: Volume) -> Booleans | None:
        """Return where a plan lets voxels change, shape of the volume; None: wherever anatomy is.

        Raises
        ------
        NoChange
            The mask is empty, and the plan wants to stay near it.
        """
        if plan.mask == "gradient" or self.values is None:
            return None
        if not self.values.any():
            raise NoChange(f"the mask is empty, and mask {plan.mask!r} stays near its classes")
        return near(plan, self.values, volume)


def near(plan: ProtectionPlan, values: Integers, volume: Volume) -> Booleans:
    """Return True where `plan.mask` lets voxels change, for a mask that marks something."""
    found = near_edges(values, spacing_mm(volume.affine), plan.band_mm)
    return found | (values > 0) if plan.mask == "gradient & roi" else found


def check_shape(mask: Mask, volume: Volume) -> None:
    """Raise when a mask has not the shape of its volume."""
    if mask.values.shape != volume.pixels.values.shape:
        raise GeometryError(
            f"the mask has {mask.values.shape} slices, rows and columns, its volume "
            f"{volume.pixels.values.shape}; both need the same"
        )
