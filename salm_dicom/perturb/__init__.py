"""Methods: arrays in, arrays out. METHODS lists them; `perturb` runs one within the budget.

Importing this needs no torch; a method that does brings it along when it is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from salm_dicom.perturb.budget import Epsilon, Limits, quota, to_integers
from salm_dicom.perturb.one_sided import GRAINS, OneSided
from salm_dicom.perturb.random import Random, Uniform

if TYPE_CHECKING:
    from salm_dicom.perturb.loss import Loss
    from salm_dicom.perturb.salm import Salm

__all__ = [
    "ATTACKED",
    "BY_LABEL",
    "EOT",
    "GRAINS",
    "METHODS",
    "MINIMISING",
    "WITHOUT_BLOCKS",
    "WITHOUT_TORCH",
    "Epsilon",
    "Limits",
    "Method",
    "OneSided",
    "Random",
    "Settings",
    "Uniform",
    "perturb",
    "quota",
    "to_integers",
]

# Methods that can do without torch, by name, for who decides before one is built.
WITHOUT_TORCH = ("one_sided", "random", "uniform")
# Methods that make something of their own for each label, and know no masks.
BY_LABEL = ("one_sided", "hybrid", "patches", "texture", "autoregressive")
# Methods of which one label can be spared, and whose surrogates may be fresh ones.
MINIMISING = ("salm", "dense", "random_mask", "low_gradient")
# Methods whose surrogate is trained against an attack, and the share of the budget it may use.
ATTACKED = {"stable": 0.5}
# Methods that do not look at `block`.
WITHOUT_BLOCKS = ("patches", "autoregressive", "random", "uniform")
# Keys of `robust.TRANSFORMS`.
EOT = ("shift", "flip", "blur", "half")


class Method(Protocol):
    """How a perturbation is found.

    A method returns its wish in stored units; it may be out of budget. The framework
    (`perturb`) rounds it and enforces budget, foreground, sparsity and range, for every method.
    Everything random comes from `rng`; the same inputs give the same result.
    """

    needs_gradient: ClassVar[bool]
    needs_label: ClassVar[bool]
    # Whether it gets tensors and a `torch.Generator`; else arrays and numpy's.
    uses_torch: ClassVar[bool]
    # Draws are the same for all samples of a label: `rng` is seeded by it.
    class_wise: ClassVar[bool]

    @property
    def label_shift(self) -> int:
        """0 if `loss` is of the sample's label, 1 if of the next class, by a clean surrogate."""

    @property
    def rho(self) -> float:
        """Largest share of foreground voxels of a sample that may change."""

    @property
    def region(self) -> int | None:
        """Edge in voxels of the squares whose changes add up to 0, None for whole slices."""

    def __call__(
        self,
        x: Any,
        loss: Any,
        foreground: Any,
        limits: Any,
        rng: Any,
        start: Any = None,
    ) -> Any:
        """Return the shadow of a perturbation.

        Parameters
        ----------
        x
            Stored values, shape (samples, 1, [slices,] rows, columns); float32 for methods that
            need a gradient, integers as they are for others.
        loss
            Sum over samples of the surrogate's loss at stored values; methods that need no
            gradient never call it.
        foreground
            True where a change is allowed, shape of x.
        limits
            Budget and range.
        rng
            The only source of randomness.
        start
            Shadow of an earlier round, or None.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a plan says about its method; each method takes what it knows.

    Parameters
    ----------
    grain
        A key of `GRAINS`.
    place
        Of the sample's label among all of the protector's.
    between
        Share of its gradient that a slice of a volume has from its neighbours.
    grid
        Rows and columns of the images that networks are expected to see.
    region
        Edge in voxels of the squares in which rising and falling changes cancel; None: slices.
    is_spared
        The sample's label gets noise in place of what the method finds, see `Spared`.
    """

    rho: float
    steps: int
    step_size: float
    schedule: str
    zero_mean: bool
    momentum: float = 0.9
    eot: tuple[str, ...] = ()
    block: int = 1
    grain: str = "fine"
    place: int = 0
    between: float = 0.0
    grid: tuple[int, int] | None = None
    region: int | None = None
    is_spared: bool = False


def _salm(s: Settings, **changes: Any) -> Salm:
    from salm_dicom.perturb.salm import Salm
    from salm_dicom.perturb.spared import Spared

    known: dict[str, Any] = {
        "rho": s.rho,
        "steps": s.steps,
        "step_size": s.step_size,
        "momentum": s.momentum,
        "schedule": s.schedule,
        "balanced": s.zero_mean,
        "region": s.region,
        "eot": s.eot,
        "block": s.block,
        "between": s.between,
    }
    return (Spared if s.is_spared else Salm)(**known | changes)


def _one_sided(s: Settings) -> OneSided:
    return OneSided(rho=s.rho, place=s.place, cell=s.block, grain=s.grain, grid=s.grid)


def _hybrid(s: Settings) -> Method:
    from salm_dicom.perturb.hybrid import Hybrid

    return Hybrid(texture=_one_sided(s), salient=_salm(s, label_shift=1))


def _patches(s: Settings) -> Method:
    from salm_dicom.perturb.patterns import Patches

    return Patches()


def _texture(s: Settings) -> Method:
    from salm_dicom.perturb.patterns import Texture

    return Texture(rho=s.rho, cell=s.block)


def _autoregressive(s: Settings) -> Method:
    from salm_dicom.perturb.patterns import Autoregressive

    return Autoregressive()


METHODS: dict[str, Callable[[Settings], Method]] = {
    "one_sided": _one_sided,
    "hybrid": _hybrid,
    "salm": _salm,
    "dense": lambda s: _salm(s, rho=1.0),
    "stable": lambda s: _salm(s, rho=1.0, noise=ATTACKED["stable"]),
    "random_mask": lambda s: _salm(s, mask="random"),
    "low_gradient": lambda s: _salm(s, mask="low_gradient"),
    "targeted": lambda s: _salm(s, label_shift=1),
    "patches": _patches,
    "texture": _texture,
    "autoregressive": _autoregressive,
    "random": lambda s: Random(rho=s.rho),
    "uniform": lambda s: Uniform(),
}


def perturb(
    method: Method,
    x: NDArray[Any],
    loss: Loss | None,
    foreground: NDArray[np.bool_],
    limits: Limits[NDArray[Any]],
    seed: int,
    *,
    zero_mean: bool = True,
) -> NDArray[np.signedinteger[Any]]:
    """Return the integer perturbation that a method finds, within budget and mask whatever it did.

    Parameters
    ----------
    x, loss, foreground, limits
        As for a `Method`; arrays whatever the method uses, on the CPU.
    seed
        Of all that the method draws, 0 to 2**32 - 1.

    Returns
    -------
    NDArray
        Integer stored units, shape of x; see `budget.to_integers` for what holds.
    """
    if method.uses_torch:
        from salm_dicom.perturb.tensors import called

        shadow = called(method, x, loss, foreground, limits, seed)
    else:
        shadow = method(x, loss, foreground, limits, np.random.default_rng(seed))
    return to_integers(
        shadow, x, foreground, limits, rho=method.rho, zero_mean=zero_mean, region=method.region
    )
