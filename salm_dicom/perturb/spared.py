"""For the one label that is spared: noise on salient voxels, which says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from salm_dicom.perturb.budget import Limits
from salm_dicom.perturb.loss import Loss
from salm_dicom.perturb.salm import Salm


@dataclass(frozen=True, slots=True, kw_only=True)
class Spared:
    """Random signs on the voxels that a method changes, of a strength drawn for each slice.

    A victim learns "what the others have: their label; nothing or noise: this one", and takes a
    clean image, which has nothing, for this one. Where every label has something to learn, a clean
    image lies between them, and what little anatomy was learned on the way decides. The strength is
    from 1 up to the budget: hardly anything is part of it, and noise is no sign of a label.

    Parameters
    ----------
    salient
        Says which voxels.
    """

    salient: Salm

    needs_gradient: ClassVar[bool] = True
    needs_label: ClassVar[bool] = True
    uses_torch: ClassVar[bool] = True
    class_wise: ClassVar[bool] = False
    label_shift: ClassVar[int] = 0

    @property
    def rho(self) -> float:
        """Largest share of foreground voxels of a sample that may change."""
        return self.salient.rho

    @property
    def region(self) -> int | None:
        """Edge in voxels of the squares whose changes add up to 0; None: whole slices."""
        return self.salient.region

    def __call__(
        self,
        x: Tensor,
        loss: Loss,
        foreground: Tensor,
        limits: Limits[Tensor],
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the float shadow of the perturbation, stored units, shape of x."""
        chosen = self.salient(x, loss, foreground, limits, rng, start) != 0
        signs = torch.randint(0, 2, x.shape, generator=rng) * 2.0 - 1
        each_slice = (*x.shape[:-2], 1, 1)
        strength = 1 + torch.floor(torch.rand(each_slice, generator=rng) * limits.budget)
        return torch.where(chosen, signs * strength, 0.0)
