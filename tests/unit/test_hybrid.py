"""The method `hybrid`: a texture for every label but one, salient voxels for that one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from salm_dicom.perturb import METHODS, Limits, Settings, perturb
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.protector.fit import Study, fit
from tests.unit.volumes import phantom_volume

SETTINGS = Settings(
    rho=0.2, steps=5, step_size=0.3, schedule="round", zero_mean=True, grid=(40, 40), region=10
)
LIMITS = Limits(budget=np.full((1, 1, 1, 1), 8.0, np.float32), low=-1000, high=1000)
PLAN = ProtectionPlan(
    method="hybrid", slice_size=(24, 24), rounds=1, batches=2, batch_size=2, steps=3
)


def found(name: str, place: int, loss: object) -> np.ndarray:
    x = np.zeros((2, 1, 40, 40), np.float32)
    method = METHODS[name](replace(SETTINGS, place=place))
    return perturb(method, x, loss, np.ones(x.shape, dtype=bool), LIMITS, seed=3)


def never(stored: Tensor) -> Tensor:
    raise AssertionError("a texture needs no gradient")


@pytest.mark.parametrize("place", [1, 2, 7])
def test_marked_labels_get_the_texture_of_one_sided_balanced_in_every_region(place):
    delta, texture = found("hybrid", place, never), found("one_sided", place, None)
    # they differ where one was trimmed for a region, the other for the slice
    assert (delta == texture).mean() > 0.97
    both = (delta != 0) & (texture != 0)
    np.testing.assert_array_equal(np.sign(delta)[both], np.sign(texture)[both])
    squares = delta.reshape(2, 4, 10, 4, 10).sum(axis=(2, 4))
    assert not squares.any()


def test_the_label_without_texture_is_shown_the_next_one_on_salient_voxels():
    weights = torch.randn((2, 1, 40, 40), generator=torch.Generator().manual_seed(0))

    def loss(stored: Tensor) -> Tensor:
        return (stored * weights).sum()

    delta = found("hybrid", 0, loss)
    np.testing.assert_array_equal(delta, found("targeted", 0, loss))
    assert float((torch.from_numpy(delta) * weights).sum()) < 0
    assert METHODS["hybrid"](SETTINGS).label_shift == 1


@pytest.mark.parametrize("classes", [2, 3])
def test_the_seed_decides_which_label_has_no_texture(tmp_path, classes):
    labels = [f"label {number}" for number in range(classes)]
    studies = [Study(label=one, load=lambda: phantom_volume(slices=2)) for one in labels]
    without = []
    for seed in range(classes):
        protector = fit(studies, replace(PLAN, seed=seed), tmp_path)
        assert set(protector.surrogates) == {"slice"}
        changes = {
            one: protector.apply(phantom_volume(slices=2), series_uid="1", label=one).delta != 0
            for one in labels
        }
        # textures lie on the same voxels whatever the label
        textured = Protector(
            plan=replace(protector.plan, method="one_sided"), classes=protector.classes
        )
        area = textured.apply(phantom_volume(slices=2), series_uid="1", label=labels[0]).delta != 0
        outside = {one: (changes[one] & ~area).sum() / changes[one].sum() for one in labels}
        without += [one for one in labels if outside[one] > 0.3]
    assert sorted(without) == labels


def test_the_surrogate_of_a_hybrid_sees_clean_images_only(tmp_path):
    studies = [Study(label=one, load=lambda: phantom_volume(slices=2)) for one in ("a", "b")]
    by_method = {
        name: fit(studies, replace(PLAN, method=name), tmp_path) for name in ("hybrid", "targeted")
    }
    hybrid, targeted = (one.surrogates["slice"].digest for one in by_method.values())
    assert hybrid == targeted
