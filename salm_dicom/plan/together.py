"""What settings of a plan do not go together, and what is said about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from salm_dicom.checks import check_choice
from salm_dicom.errors import PlanError
from salm_dicom.perturb import ATTACKED, BY_LABEL, EOT, MINIMISING, WITHOUT_BLOCKS
from salm_dicom.preprocessing import check_preprocessing

if TYPE_CHECKING:
    from salm_dicom.plan import ProtectionPlan

# Transforms of `EOT` that move an image, but not the mask that it is to show.
_MOVING = ("shift", "flip")


def check_together(plan: ProtectionPlan) -> None:
    """Raise `PlanError` where settings that are lawful by themselves do not go together."""
    if plan.label_free and plan.objective != "classification":
        raise PlanError(
            f"label_free gives each series one label; objective {plan.objective} needs others. "
            "Use classification"
        )
    if plan.label_free and plan.clusters < 2:
        raise PlanError(f"clusters is {plan.clusters}; at least 2 are needed")
    if (plan.patches or plan.between_slices) and plan.extent != "volume":
        raise PlanError("patches and between_slices need extent volume, or must be left out")
    _check_fresh(plan)
    _check_gradient(plan)
    _check_masks(plan)
    if plan.preprocessing:
        _check_preprocessing(plan)


def _check_fresh(plan: ProtectionPlan) -> None:
    """Refuse fresh surrogates and a spared label where they mean nothing."""
    for name, asked in (
        ("surrogates fresh", plan.is_fresh), ("spare_one", plan.spare_one)
    ):  # fmt: skip
        if asked and plan.method not in MINIMISING:
            raise PlanError(
                f"{name} goes with methods {', '.join(MINIMISING)}; method {plan.method} does "
                "not minimise the loss of a label"
            )
    if plan.spare_one and plan.objective != "classification":
        raise PlanError(
            f"spare_one needs one label for each series, and objective {plan.objective} has "
            "none; leave it out, or use objective classification"
        )


def _check_gradient(plan: ProtectionPlan) -> None:
    """Refuse what methods do not look at, so that nobody counts on it."""
    if plan.eot and not plan.build_method().needs_gradient:
        raise PlanError(
            f"eot goes with methods that follow a gradient; method {plan.method} follows none. "
            "Leave it out, or use salm"
        )
    if plan.block > 1 and plan.method in WITHOUT_BLOCKS:
        raise PlanError(
            f"block is {plan.block}, and method {plan.method} knows no squares; leave it out"
        )


def _check_preprocessing(plan: ProtectionPlan) -> None:
    """Refuse what does not go together with the user's own transforms."""
    check_preprocessing(plan.preprocessing)
    if plan.objective == "segmentation":
        raise PlanError(
            "preprocessing moves images and not their masks; leave it out with objective "
            "segmentation"
        )
    if plan.method in ATTACKED or not plan.build_method().needs_gradient:
        raise PlanError(
            f"method {plan.method} does not look through preprocessing; leave it out, or use salm"
        )


def _check_masks(plan: ProtectionPlan) -> None:
    """Refuse what does not go together with masks, or without them."""
    method = plan.build_method()
    if plan.mask != "gradient" and not (plan.needs_masks and method.needs_gradient):
        raise PlanError(
            f"mask {plan.mask!r} needs masks: give objective segmentation, and a method that "
            "follows a gradient (salm)"
        )
    if plan.objective != "classification" and plan.method in BY_LABEL:
        what = "masks" if plan.objective == "segmentation" else "series of several labels"
        raise PlanError(
            f"method {plan.method} makes a pattern for each label and knows no {what}; use a "
            f"method that follows a gradient (salm) with objective {plan.objective}"
        )
    moving = sorted({*plan.eot} & {*_MOVING})
    if plan.needs_masks and moving:
        raise PlanError(f"eot {moving[0]} moves the image and not its mask; leave it out")


def check_eot(value: object) -> None:
    """Raise `PlanError` where a value is no tuple of keys of `EOT`."""
    if not isinstance(value, tuple):
        raise PlanError(f"eot is {value!r}; a list of {', '.join(EOT)} is needed, or none")
    for name in value:
        check_choice("eot", name, EOT)
