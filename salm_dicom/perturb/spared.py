"""For the one label that is spared: noise on salient voxels, which says nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from salm_dicom.perturb.budget import Limits
from salm_dicom.perturb.loss import Loss
from salm_dicom.perturb.salm import Salm


@dataclass(frozen=True, slots=True, kw_only=True)
class Spared(Salm):
    """Random signs on the voxels that `Salm` changes, of a faint strength drawn for each slice.

    A victim learns "what the others have: their label; nothing or noise: this one", and takes a
    clean image, which has nothing, for this one. Where every label has something to learn, a clean
    image lies between them, and what little anatomy was learned on the way decides. The strength is
    from 1 up to a quarter of the budget: noise as strong as what the others have is soon learned as
    a sign of this label, which a clean image has not; without any, nothing of it is marked.
    """

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
        chosen = Salm.__call__(self, x, loss, foreground, limits, rng, start) != 0
        signs = torch.randint(0, 2, x.shape, generator=rng) * 2.0 - 1
        each_slice = (*x.shape[:-2], 1, 1)
        strength = 1 + torch.floor(torch.rand(each_slice, generator=rng) * limits.budget / 4)
        return torch.where(chosen, signs * strength, 0.0)
