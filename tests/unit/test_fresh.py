"""Fresh surrogates: what they learn from, that they replace each other; the spared label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from salm_dicom.learning import reproducible
from salm_dicom.networks import KINDS, SEVERAL, NetworkSpec, Together
from salm_dicom.objectives import OBJECTIVES
from salm_dicom.perturb import METHODS as BUILDERS
from salm_dicom.perturb import Limits, Settings
from salm_dicom.perturb.salm import Salm
from salm_dicom.perturb.spared import Spared
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector, fresh, lesson, load, save, surrogate
from salm_dicom.protector.fit import Study, fit
from salm_dicom.protector.fresh import Laid, batch_size, chosen
from salm_dicom.protector.spool import Spool
from salm_dicom.protector.surrogate import Surrogate, spec_of
from tests.unit import test_protector, test_segmentation
from tests.unit.volumes import mask_on, phantom_volume

PLAN = ProtectionPlan(**test_protector.TINY | {"surrogates": "fresh"})
SIZE = (12, 12)


@pytest.fixture(autouse=True)
def _one_thread():
    with reproducible():
        yield


@pytest.fixture
def _little(monkeypatch):
    monkeypatch.setattr(lesson, "_BATCHES", 2)
    monkeypatch.setattr(lesson, "_MOST_BATCHES", 2)
    monkeypatch.setattr(lesson, "_TO_NORMALISE", 1)
    monkeypatch.setattr(fresh, "_BATCH", 4)
    monkeypatch.setattr(fresh, "_SMALLEST_BATCH", 4)


def weights(protector: Protector, extent: str = "slice") -> list[dict[str, torch.Tensor]]:
    """Return the weights of each member."""
    found = protector.surrogates[extent].network().network.members
    return [member.state_dict() for member in found]


# --- several networks


@pytest.mark.parametrize("objective", ["classification", "multilabel", "segmentation"])
@pytest.mark.parametrize("size", [(28, 28), (33, 20), (5, 24, 24)], ids=repr)
def test_several_networks_say_what_all_say_on_average(objective, size):
    spec = NetworkSpec(size=size, classes=3, objective=objective, members=SEVERAL)
    together = spec.build(0).eval()
    assert isinstance(together, Together)
    x = torch.rand((2, 1, *size), generator=torch.Generator().manual_seed(0))
    said = torch.stack([member(x) for member in together.members])
    places = size if objective == "segmentation" else ()
    assert said.shape == (SEVERAL, 2, spec.outputs, *places)
    each = said if objective == "multilabel" else said.log_softmax(2)
    torch.testing.assert_close(together(x), each.mean(0))
    kinds = [str(member) for member in together.members]
    assert len(set(kinds)) == KINDS
    assert kinds == kinds[:KINDS] * (SEVERAL // KINDS)


def test_several_networks_of_one_seed_are_unlike_each_other_and_the_same_every_time():
    spec = NetworkSpec(size=(28, 28), classes=2, members=SEVERAL)
    first, again, other = (spec.build(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "members.0.0.weight"
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first[f"members.{KINDS}.0.weight"])
    alone = spec.build_member(KINDS + 1, 7).state_dict()
    assert alone.keys() == spec.build_member(1, 7).state_dict().keys()


# --- what they learn


def test_a_perturbation_lies_on_images_of_any_label():
    """Each image and each perturbation is a constant of its own, so that both can be told."""
    count = 6
    images = torch.arange(count).reshape(-1, 1, 1, 1).expand(-1, 1, *SIZE) / 100
    changes = torch.arange(count).reshape(-1, 1, 1, 1).expand(-1, 1, *SIZE) / 10
    found, targets = Laid(images=images, changes=changes, targets=torch.arange(count))(
        torch.Generator().manual_seed(0), 1.0
    )
    assert found.shape == (64, 1, *SIZE)
    which = (found[:, 0, 0, 0] * 10 + 1e-4).long()
    assert torch.equal(which, targets)
    on = ((found[:, 0, 0, 0] - which / 10) * 100).round().long()
    pairs = {*zip(which.tolist(), on.tolist(), strict=True)}
    assert len(pairs) > 25  # of 36
    assert 0 < (which == on).float().mean() < 0.5


@pytest.mark.parametrize(
    ("targets", "counts"),
    [([0, 0, 1, 1], [2, 2]), ([2, 0, 0, 0, 0, 0, 1, 1], [5, 4, 5]), ([1, 1, 1], [3])],
)
def test_rarer_labels_are_shown_as_often(targets, counts):
    known = torch.tensor(targets)
    places = fresh.evenly(known)
    assert known[places].unique(return_counts=True)[1].tolist() == counts
    assert {*places.tolist()} == {*range(len(targets))}


def test_of_several_labels_and_masks_each_is_shown_once():
    for shape in ((4, 3), (4, 1, 5, 5)):
        assert fresh.evenly(torch.zeros(shape)).tolist() == [0, 1, 2, 3]


def test_what_is_laid_stays_an_image():
    one = Laid(images=torch.full((2, 1, 4, 4), 0.9), changes=torch.full((2, 1, 4, 4), 0.2),
               targets=torch.zeros(2).long())  # fmt: skip
    weak, strong = (one(torch.Generator(), strength)[0] for strength in (0.25, 4.0))
    assert float(weak.max()) == pytest.approx(0.95)
    assert float(strong.max()) == 1


def test_networks_see_what_happens_to_images_at_random():
    """Half resolution every third time: then neighbours of a chequered change are alike."""
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    chequered = ((rows + columns) % 2)[None, None] / 2.0
    plain = Laid(images=torch.zeros(1, 1, 8, 8), changes=chequered, targets=torch.zeros(1).long())
    rng = torch.Generator().manual_seed(0)
    often = [float(replace(plain, eot=("half",))(rng, 1.0)[0].std()) for _ in range(60)]
    assert {round(one, 2) for one in often} == {0.0, 0.25}
    assert 8 <= sum(one < 0.1 for one in often) <= 32
    assert {round(float(plain(rng, 1.0)[0].std()), 2) for _ in range(9)} == {0.25}


@pytest.mark.parametrize(("size", "count"), [((28, 28), 64), ((128, 128), 16), ((16, 96, 96), 8)])
def test_a_batch_is_smaller_for_large_inputs(size, count):
    assert batch_size(size) == count


@pytest.mark.parametrize(
    ("labels", "looks", "wanted"),
    [("aab", 24, 3), ("a" * 90 + "b" * 10, 24, 14), ("a" * 500, 1, 320), ("abcde" * 9, 400, 5)],
    ids=["all of few", "as many of each", "single slices", "one of each at least"],
)
def test_of_every_label_as_many_volumes_are_looked_at(monkeypatch, tmp_path, labels, looks, wanted):
    monkeypatch.setattr(Spool, "label", lambda spool, number: labels[number])
    names = [(f"{number}", looks) for number in range(len(labels))]
    spool = Spool(folder=tmp_path, samples=tuple(names), classes=(), unfit=())
    found = [chosen(spool, replace(PLAN, seed=seed), (28, 28)).samples for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert len(found[0]) == len({*found[0]}) == wanted
    if wanted < len(labels):
        assert found[0] != found[2]
    counts = [sum(labels[int(name)] == one for name, _ in found[0]) for one in sorted({*labels})]
    possible = [labels.count(one) for one in sorted({*labels})]
    assert all(a == b or max(counts) - a <= 1 for a, b in zip(counts, possible, strict=True))


class Lot:
    """Shows the same batch again and again, and remembers how strongly."""

    def __init__(self) -> None:
        self.strengths: list[float] = []

    def __call__(self, rng: torch.Generator, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        self.strengths.append(strength)
        return torch.zeros(2, 1), torch.zeros(2)


def lesson_with(monkeypatch, losses: Callable[[int, float], float]) -> tuple[list[float], int]:
    """Return the strengths that a network is shown whose loss, 1 at first, is as it is given."""
    lot, network = Lot(), torch.nn.Linear(1, 1)
    for name, value in {"_BATCHES": 60, "_MOST_BATCHES": 90, "_TO_NORMALISE": 1}.items():
        monkeypatch.setattr(lesson, name, value)
    monkeypatch.setattr(
        lesson, "step", lambda *_: losses(len(lot.strengths) - 1, lot.strengths[-1])
    )
    images = lesson.learn(network, OBJECTIVES["classification"], lot, torch.Generator())
    assert images == 2 * len(lot.strengths)
    assert not network.training
    return lot.strengths, len(lot.strengths)


def test_what_is_learned_at_once_gets_weaker_with_every_batch(monkeypatch):
    strengths, count = lesson_with(monkeypatch, lambda number, _: float(number == 0))
    assert count == 60
    assert strengths[:6] == [64] * 6  # until the running mean is below 0.3
    assert strengths[6] > strengths[7] > strengths[30]
    np.testing.assert_allclose(strengths[6:40], 64 * 0.9 ** np.arange(34.0))
    assert strengths[-1] == 1


def test_what_is_not_learned_stays_strong(monkeypatch):
    strengths, count = lesson_with(monkeypatch, lambda number, strength: 1.0)
    assert count == 90
    assert set(strengths) == {64}


def test_what_is_learned_only_while_strong_gets_no_weaker_than_that(monkeypatch):
    strengths, count = lesson_with(
        monkeypatch, lambda number, strength: float(number == 0 or strength < 8)
    )
    assert count == 90
    assert strengths == sorted(strengths, reverse=True)
    assert 4 < strengths[-1] < 8


def test_what_a_network_is_unsure_of_as_it_is_takes_all_batches(monkeypatch):
    strengths, count = lesson_with(monkeypatch, lambda number, _: 1.0 if number == 0 else 0.25)
    assert count == 90
    assert strengths[-1] == 1


def test_a_network_is_normalised_for_what_it_is_shown():
    """Running means of layers are of the weights that are there, not of those on the way."""

    def shown(rng: torch.Generator, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = 5 + strength * torch.randn((64, 1, 8, 8), generator=rng)
        return inputs, torch.zeros(64).long()

    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    lesson.normalise(network, shown, torch.Generator().manual_seed(0))
    inputs, _ = shown(torch.Generator().manual_seed(1), 1.0)
    with torch.no_grad():
        found = network.eval()(inputs)
    assert network[1].momentum == 0.1
    assert float(found.mean().abs()) < 0.02
    assert float(found.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.usefixtures("_little")
def test_new_networks_take_the_place_of_the_oldest(tmp_path):
    studies = test_protector.studies()
    one, two = (fit(studies, replace(PLAN, rounds=rounds), tmp_path) for rounds in (1, 2))
    untrained = spec_of(PLAN, "slice", 2).build(PLAN.seed)
    members = [member.state_dict() for member in untrained.members]
    for first, second in zip(weights(one)[:-KINDS], members[KINDS:], strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    for first, second in zip(weights(two)[:-KINDS], weights(one)[KINDS:], strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    new, old = (weights(two)[place].values() for place in (-KINDS, 0))
    assert any((a != b).any() for a, b in zip(new, old, strict=True))


@pytest.mark.usefixtures("_little")
@pytest.mark.parametrize("more", [{}, {"extent": "volume"}], ids=repr)
def test_a_fit_repeats_itself_survives_the_disk_and_protects(tmp_path, more):
    plan = replace(PLAN, **more)
    protectors = [fit(test_protector.studies(slices=8), plan, tmp_path) for _ in range(2)]
    assert protectors[0].digest == protectors[1].digest
    save(protectors[0], tmp_path / "protector")
    volume = phantom_volume(slices=8)
    found, again = (
        one.apply(volume, series_uid="1.2", label="chest").delta
        for one in (load(tmp_path / "protector"), protectors[1])
    )
    np.testing.assert_array_equal(found, again)
    assert found.any()
    looks, taught = 32, KINDS * 2 * 4  # all are chosen; two batches of four are not enough
    passes = protectors[0].report["slice_passes_per_image"]
    assert PLAN.steps == 2
    assert passes == pytest.approx(2 * ((SEVERAL + KINDS) * looks + taught) / looks)


@pytest.mark.parametrize("eot", [(), ("blur",)])
def test_all_networks_choose_the_voxels_and_each_has_its_turn_at_the_signs(eot):
    """With random transforms all are asked at every step."""
    plan = replace(PLAN, steps=1 + 2 * SEVERAL // KINDS, eot=eot)
    network = spec_of(plan, "slice", 2).build(3)
    found = Surrogate(spec=spec_of(plan, "slice", 2), weights=network.state_dict())
    together = found.network().network
    asked = []
    for place, member in enumerate(together.members):
        member.register_forward_hook(lambda *_, place=place: asked.append(place))
    protector = Protector(plan=plan, classes=("abdomen", "chest"), surrogates={"slice": found})
    assert protector.apply(phantom_volume(slices=1), series_uid="1", label="chest").delta.any()
    everyone = list(range(SEVERAL))
    assert asked == (plan.steps if eot else 3) * everyone
    assert len(asked) == found.spec.passes(plan.steps, in_turn=not eot)
    kinds = [len({str(one) for one in group.members}) for group in together.turns()]
    assert kinds == [KINDS] * (SEVERAL // KINDS)


@pytest.mark.usefixtures("_little")
def test_protectors_of_fewer_networks_are_still_read(tmp_path, monkeypatch):
    """Six were asked together at first."""
    with monkeypatch.context() as patch:
        patch.setattr(surrogate, "SEVERAL", 6)
        fitted = fit(test_protector.studies(), PLAN, tmp_path)
    assert len(weights(fitted)) == 6
    save(fitted, tmp_path / "protector")
    volume = phantom_volume(slices=3)
    found, expected = (
        one.apply(volume, series_uid="1.2", label="chest").delta
        for one in (load(tmp_path / "protector"), fitted)
    )
    np.testing.assert_array_equal(found, expected)
    assert found.any()


@pytest.mark.usefixtures("_little")
def test_masks_are_shown_by_fresh_networks_too(tmp_path):
    plan = replace(PLAN, objective="segmentation")
    protector = fit(test_segmentation.studies(), plan, tmp_path)
    volume = phantom_volume(slices=3)
    found = protector.apply(volume, series_uid="1.2", label=mask_on(volume))
    assert found.delta.any()
    assert 0 <= protector.report["slice_error_on_source"] <= 1


def test_they_learn_the_perturbation_and_no_anatomy(tmp_path, monkeypatch):
    """Phantoms with and without lungs: any other surrogate tells them apart at once."""
    monkeypatch.setattr(fresh, "_BATCH", 32)
    plan = replace(PLAN, rounds=4, steps=6, epsilon="16/255", batches=40, batch_size=32)
    studies = [
        Study(
            label="chest" if lungs else "abdomen",
            load=lambda lungs=lungs, seed=seed: phantom_volume(lungs=lungs, seed=seed, slices=16),
        )
        for seed in range(2)
        for lungs in (True, False)
    ]
    blind = fit(studies, plan, tmp_path).report
    seeing = fit(studies, replace(plan, surrogates="one"), tmp_path).report
    print(blind, seeing)
    assert blind["slice_error_on_protected"] < 0.1
    assert blind["slice_error_on_source"] > 0.25
    assert seeing["slice_error_on_source"] < 0.1


# --- the label that is spared


def settings(**more: object) -> Settings:
    return Settings(rho=0.2, steps=3, step_size=0.4, schedule="round", zero_mean=True, **more)


def called(method: object, seed: int = 0) -> np.ndarray:
    """Return what a method makes of four slices of noise, whose loss has its own slope."""
    rng = torch.Generator().manual_seed(5)
    x, slope = (torch.randn((4, 1, 40, 40), generator=rng) for _ in range(2))
    limits = Limits(budget=torch.full((4, 1, 1, 1), 6.0), low=-999, high=999)
    inside = torch.ones_like(x).bool()
    lots = torch.Generator().manual_seed(seed)
    return method(x, lambda at: (at * slope).sum(), inside, limits, lots).numpy()


def test_the_spared_label_gets_noise_on_the_voxels_that_the_method_would_change():
    salient, spared = (called(BUILDERS["salm"](settings(is_spared=one))) for one in (False, True))
    np.testing.assert_array_equal(spared != 0, salient != 0)
    strengths = [np.unique(np.abs(one[one != 0])) for one in spared]
    assert all(len(one) == 1 for one in strengths)
    many = [called(BUILDERS["salm"](settings(is_spared=True)), seed) for seed in range(6)]
    assert {*np.unique(np.abs(many))} == {0.0, 1.0, 2.0}  # of 6: up to a quarter, rounded up
    signs = np.sign(spared[spared != 0])
    assert abs(signs.mean()) < 0.15
    same = (np.sign(salient) == np.sign(spared))[spared != 0].mean()
    assert 0.4 < same < 0.6
    assert (called(BUILDERS["salm"](settings(is_spared=True)), seed=1) != spared).any()


def test_only_one_label_is_spared():
    plan = ProtectionPlan(spare_one=True)
    assert isinstance(plan.build_method(0), Spared)
    for other in (plan.build_method(1), plan.build_method(), ProtectionPlan().build_method(0)):
        assert isinstance(other, Salm)
        assert not isinstance(other, Spared)


@pytest.mark.usefixtures("_little")
@pytest.mark.parametrize(("seed", "spared"), [(0, "abdomen"), (1, "chest")])
def test_sparing_changes_one_label_alone_which_the_seed_decides(tmp_path, seed, spared):
    fitted = fit(test_protector.studies(), replace(PLAN, seed=seed), tmp_path)
    sparing = replace(fitted, plan=replace(PLAN, seed=seed, spare_one=True))
    assert fitted.classes == ("abdomen", "chest")
    for label in fitted.classes:
        volume = phantom_volume(slices=3, lungs=label == "chest")
        before, after = (
            one.apply(volume, series_uid="1.2", label=label).delta for one in (fitted, sparing)
        )
        assert np.array_equal(before, after) == (label != spared)
        assert after.any()
