"""The benchmark of fresh networks: what an image may change by, and that anatomy tells nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks import fresh
from benchmarks.ideas import BUDGET, RHO, SIDE
from salm_dicom.audit import Images
from salm_dicom.learning import reproducible

LABELS = torch.tensor([0, 1] * 4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with reproducible():
        yield


@pytest.fixture
def images() -> Images:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(20, 230, (8, 1, SIDE, SIDE), generator=rng).float() / 255
    return Images(pixels=pixels, labels=LABELS)


@pytest.fixture
def networks() -> fresh.Together:
    torch.manual_seed(0)
    return fresh.Together([kind() for kind in fresh.KINDS]).eval().requires_grad_(False)


def loss(network: fresh.Together, seen: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(network(seen), LABELS, reduction="none")


def test_changes_keep_budget_and_share_and_lower_the_loss(images, networks):
    inside = torch.zeros_like(images.pixels, dtype=torch.bool)
    inside[..., 4:24, 4:24] = True
    change = fresh.changes(networks, images.pixels, LABELS, inside)
    assert float(change.abs().max()) <= BUDGET / 255 + 1e-6
    assert not change[~inside].any()
    assert (change != 0).flatten(1).sum(1).tolist() == [int(RHO * 400)] * 8
    before, after = loss(networks, images.pixels), loss(networks, images.pixels + change)
    assert bool((after < before).all())


@pytest.mark.parametrize("blind", [True, False])
def test_a_blind_network_is_not_told_a_label_by_the_image(blind):
    # images that are nothing but their label, and changes that are none
    x = LABELS.float().reshape(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)
    rng = torch.Generator().manual_seed(0)
    seen, labels = fresh.drawn(x, torch.zeros_like(x[:6]), LABELS[:6], rng, blind=blind)
    told = float((seen[:, 0, 0, 0] == labels).float().mean())
    assert (told == 1) != blind
    assert not blind or 0.3 < told < 0.7


def test_a_label_that_goes_without_keeps_its_images(images, networks, monkeypatch):
    monkeypatch.setattr(fresh, "fitted", lambda *_: networks)
    inside = np.ones(images.pixels.shape, bool)
    found = {one: fresh.fresh(images, inside, 0, without=one) for one in (None, 1)}
    assert not found[1][LABELS == 1].any()
    np.testing.assert_array_equal(found[1][LABELS == 0], found[None][LABELS == 0])
    assert found[None].any(axis=(1, 2, 3)).all()


def test_a_fit_begins_with_untrained_networks_and_keeps_the_last_ones(images, monkeypatch):
    data = type("Data", (), {"early": images})
    monkeypatch.setattr(fresh, "load", lambda: data)
    monkeypatch.setattr(fresh.ideas, "foreground", lambda some: np.ones(some.pixels.shape, bool))
    monkeypatch.setattr(fresh, "BATCHES", 2)
    fitted = partial(fresh.fitted.__wrapped__, 0, blind=True)
    kinds = [type(one) for one in fitted(rounds=0).networks]
    assert len(fitted(rounds=0).networks) == len(fresh.KINDS)
    after = fitted(rounds=3)
    assert [type(one) for one in after.networks] == kinds * 2
    weights = [one.state_dict() for one in (after, fitted(rounds=3))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
