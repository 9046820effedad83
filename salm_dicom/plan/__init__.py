"""ProtectionPlan: every setting that decides what a protected image looks like, and its digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from salm_dicom import __version__
from salm_dicom.checks import (
    check_choice,
    check_count,
    check_length,
    check_momentum,
    check_range,
    check_share,
)
from salm_dicom.errors import PlanError
from salm_dicom.perturb import GRAINS, METHODS, Epsilon, Method, Settings
from salm_dicom.plan.together import check_eot, check_together

EXTENTS = ("slice", "volume")
SCHEDULES = ("round", "step", "once")
# Keys of the tables in `objectives`.
OBJECTIVES = ("classification", "multilabel", "segmentation")
PRECISIONS = ("float32", "bfloat16")
SURROGATES = ("one", "fresh")
# Where the sparse mask may lie, see `ProtectionPlan.mask`.
MASKS = ("gradient", "roi_band", "gradient & roi")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionPlan:
    """Settings of a protection; equal plans give equal bytes.

    Parameters
    ----------
    method
        A key of `METHODS`.
    epsilon
        Budget, as text that `Epsilon.parse` reads: `4/255`, `6HU`, `6 stored`.
    rho
        Share of foreground voxels of a sample (slice or volume) that may change.
    steps, step_size
        Gradient steps for each sample, and the size of one as a share of the budget.
    schedule
        When the mask is made, see `Salm`.
    objective
        What surrogates learn: a label for each series (`classification`, cross-entropy), any number
        of labels for each (`multilabel`, binary cross-entropy), or a mask of classes
        (`segmentation`, DiceCE).
    label_free
        There are no labels: clusters of series that look alike stand in their place.
    clusters
        How many, at least 2 (`label_free`).
    mask
        Where voxels may change. `gradient`: in all of the foreground; `roi_band`: only within
        `band_mm` of the edge of a class of the mask; `gradient & roi`: there and inside a class.
        The last two need masks. The number of voxels, `rho` of the foreground, stays the same.
    band_mm
        Reach of the band on either side of an edge, in mm within a slice, at least one voxel.
    extent
        `slice`: each slice is a sample. `volume`: the whole volume is one; series that are no
        regular volume are still protected slice by slice, with a warning.
    patches
        Networks see overlapping patches of `volume_size` of a volume, in place of all of it resized
        to that; `rho` is still of the whole volume (`extent` volume).
    between_slices
        Share of its gradient that a slice has from its neighbours (`extent` volume), see `Salm`.
    intensity_range
        Modality values that map to [0, 1]; None: -160..240 HU for CT, all that 8 bits can hold for
        8-bit images, otherwise the 0.5 to 99.5 percentiles of the series' foreground.
    momentum
        Share of the old gradient in the running mean that chooses voxels and signs.
    eot
        Keys of `EOT`: random transforms that the perturbation is optimised through.
    block
        Edge of the squares that share one mask and one sign: in voxels, or for `one_sided` in
        pixels of the image that networks are expected to see; for `hybrid` each of the two.
    grain
        Of the textures of `one_sided` and `hybrid`: `fine`, or `coarse` to outlive blur.
    zero_mean
        Make the changes of every slice add up to 0, and for methods with a gradient those of
        every region of it.
    region_mm
        Edge in mm of the squares, within a slice, that count as a region; at least 3 pixels of
        the surrogates' input. An image without spacing has voxels of 1 mm.
    slice_size, volume_size
        Size of the surrogates' input, and of the images that victims are expected to learn from.
    preprocessing
        Your own MONAI transforms, as JSON, see `preprocessing`: surrogates see images through them
        in place of the intensity range, which then says the budget alone.
    precision
        What networks multiply in for gradients: `float32`, or `bfloat16`, which is quicker where
        the processor has instructions for it and turns a few signs.
    surrogates
        What a fit trains. `one`: a network that goes on learning in every round, from images as
        protected so far. `fresh`: networks of three architectures, new ones in every round, which
        see each perturbation on an image of any label and so cannot learn anatomy, see
        `protector.fresh`; methods of `MINIMISING` only.
    spare_one
        Images of one label get noise in place of something to learn, see `perturb.spared`; the seed
        decides which label. For objective `classification` and methods of `MINIMISING`.
    rounds, batches, batch_size
        Of the fit: most rounds; with one surrogate, its batches in each and samples in a batch.
    swap
        Share of the fit's training inputs that show the perturbation of one sample on another
        sample, of any label, so that one surrogate learns less anatomy.
    seed
        Where all randomness starts.
    """

    method: str = "salm"
    epsilon: str = "4/255"
    rho: float = 0.2
    steps: int = 10
    step_size: float = 0.2
    schedule: str = "round"
    momentum: float = 0.9
    eot: tuple[str, ...] = ()
    block: int = 1
    grain: str = "fine"
    objective: str = "classification"
    label_free: bool = False
    clusters: int = 10
    mask: str = "gradient"
    band_mm: float = 5.0
    extent: str = "slice"
    patches: bool = False
    between_slices: float = 0.0
    intensity_range: tuple[float, float] | None = None
    zero_mean: bool = True
    region_mm: float = 10.0
    slice_size: tuple[int, int] = (128, 128)
    volume_size: tuple[int, int, int] = (16, 96, 96)
    preprocessing: str = ""
    precision: str = "float32"
    surrogates: str = "one"
    spare_one: bool = False
    rounds: int = 8
    batches: int = 10
    batch_size: int = 8
    swap: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, tuple(METHODS))
        check_choice("extent", self.extent, EXTENTS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("grain", self.grain, tuple(GRAINS))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("surrogates", self.surrogates, SURROGATES)
        Epsilon.parse(self.epsilon)
        check_share("rho", self.rho)
        check_share("step size", self.step_size)
        check_momentum(self.momentum)
        for name in ("swap", "between_slices"):
            if getattr(self, name) != 0:
                check_share(name, getattr(self, name))
        check_eot(self.eot)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("mask", self.mask, MASKS)
        for name in ("region_mm", "band_mm"):
            check_length(name, getattr(self, name))
        for name in ("clusters", "steps", "block", "rounds", "batches", "batch_size"):
            check_count(name, getattr(self, name))
        for name, dimensions in (("slice_size", 2), ("volume_size", 3)):
            size = getattr(self, name)
            if not isinstance(size, tuple) or len(size) != dimensions:
                raise PlanError(f"{name} is {size!r}; {dimensions} numbers are needed")
            for number in size:
                check_count(name, number)
        if self.intensity_range is not None:
            check_range(self.intensity_range)
        check_together(self)

    @property
    def needs_masks(self) -> bool:
        """Whether each series needs a mask, where `needs_surrogate` says that it needs a label."""
        return self.objective == "segmentation" and self.needs_surrogate

    @property
    def needs_surrogate(self) -> bool:
        """Whether the method depends on the label, and so needs a fit."""
        return self.build_method().needs_label

    @property
    def needs_labels(self) -> bool:
        """Whether each series needs a label or a mask."""
        return self.needs_surrogate and not self.label_free

    @property
    def is_fresh(self) -> bool:
        """Whether a fit trains new networks in every round, several together."""
        return self.surrogates == "fresh"

    def build_method(self, place: int | None = None, region: int | None = None) -> Method:
        """Return the method with this plan's settings.

        Parameters
        ----------
        place
            Of the sample's label among all, 0 for the one that is spared; None: in a fit, which
            spares none.
        region
            As `intensity.region_edge` returns it.
        """
        return METHODS[self.method](
            Settings(
                rho=self.rho,
                steps=self.steps,
                step_size=self.step_size,
                schedule=self.schedule,
                zero_mean=self.zero_mean,
                momentum=self.momentum,
                eot=self.eot,
                block=self.block,
                grain=self.grain,
                between=self.between_slices,
                place=place or 0,
                grid=self.grid,
                region=region,
                is_spared=self.spare_one and place == 0,
            )
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns that networks are expected to see."""
        return self.slice_size if self.extent == "slice" else self.volume_size[1:]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ProtectionPlan:
        """Return the plan with these settings; an unknown key is an error."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(raw) - known)
        if unknown:
            raise PlanError(f"unknown settings {unknown}; known are {sorted(known)}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        return cls(**values)

    def digest(self, surrogates: str = "") -> str:
        """Return SHA-256, hexadecimal, of the settings, this version and the surrogates' digest."""
        content = [__version__, self.to_dict(), surrogates]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
