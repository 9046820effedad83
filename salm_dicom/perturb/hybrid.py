"""A texture for every label but one; for that one, salient voxels that show another label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from salm_dicom.perturb.budget import Limits
from salm_dicom.perturb.loss import Loss
from salm_dicom.perturb.one_sided import OneSided
from salm_dicom.perturb.salm import Salm


@dataclass(frozen=True, slots=True, kw_only=True)
class Hybrid:
    """`OneSided`, whose label without texture gets the most salient voxels in place of noise.

    Class-wise where it must carry over to any network: every label but one has a texture, and a
    clean image, which has none, is taken for the one without. Sample-wise where a gradient can
    help: images of that label change on their most salient voxels, towards the next label on a
    surrogate that saw clean images only. A trial of this project, for comparison: measured, it
    protects no better than `OneSided`.

    Parameters
    ----------
    texture
        Its `place` says which label the sample has; 0 is the one without texture.
    salient
        For the label without texture.
    """

    texture: OneSided
    salient: Salm

    needs_gradient: ClassVar[bool] = True
    needs_label: ClassVar[bool] = True
    uses_torch: ClassVar[bool] = True
    class_wise: ClassVar[bool] = False
    label_shift: ClassVar[int] = 1

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
        if self.texture.place == 0:
            return self.salient(x, loss, foreground, limits, rng, start)
        arrays = limits.with_budget(limits.budget.numpy(force=True))
        # a texture draws nothing
        shadow = self.texture(
            x.numpy(force=True), None, foreground.numpy(force=True), arrays, np.random.default_rng()
        )
        return torch.from_numpy(shadow.astype(np.float32)).to(x.device)
