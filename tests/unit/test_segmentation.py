"""Objective segmentation: masks as labels, where the mask modes let voxels change, and the laws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from salm_dicom.cli.fit import command as fit_command
from salm_dicom.cli.protect import command as protect_command
from salm_dicom.errors import BadValue, GeometryError, NoChange, NoLabel
from salm_dicom.foreground import foreground, near_edges
from salm_dicom.grid import align, covers
from salm_dicom.intensity import region_edge
from salm_dicom.learning import augmented
from salm_dicom.networks import NetworkSpec
from salm_dicom.objectives import (
    OBJECTIVES,
    dice,
    dice_and_cross_entropy,
    network_target,
    overlaps,
)
from salm_dicom.perturb import Limits, perturb
from salm_dicom.perturb.salm import Salm
from salm_dicom.plan import MASKS, ProtectionPlan
from salm_dicom.plan import OBJECTIVES as NAMES
from salm_dicom.protector import Mask, Protected, Protector, load, save
from salm_dicom.protector.fit import Study, fit
from salm_dicom.volume import Part, Volume
from tests.unit.volumes import CLASSES, mask_on, phantom_volume, untrained_protector

SEGMENTATION = {"objective": "segmentation", "steps": 3}
TINY = SEGMENTATION | {
    "slice_size": (32, 32), "volume_size": (8, 32, 32), "rounds": 2, "batches": 2, "batch_size": 2,
}  # fmt: skip
METHODS = ["salm", "dense", "random_mask", "low_gradient", "targeted"]


def apply(protector: Protector, volume: Volume, uid: str = "1.2.3") -> Protected:
    return protector.apply(volume, series_uid=uid, label=mask_on(volume))


def studies(count: int = 2, slices: int = 3) -> list[Study]:
    return [
        Study(
            load=lambda seed=seed: phantom_volume(slices=slices, seed=seed),
            mask=lambda seed=seed: mask_on(phantom_volume(slices=slices, seed=seed)),
        )
        for seed in range(count)
    ]


# --- masks


def test_a_mask_numbers_its_classes_and_tells_itself_from_others():
    volume = phantom_volume(slices=3)
    mask = mask_on(volume)
    assert mask.names == CLASSES
    assert mask.occurring == {*CLASSES}
    assert set(np.unique(mask.values)) == {0, 1, 2}
    turned = mask.numbered(("chest", "head", "abdomen"))
    np.testing.assert_array_equal(turned == 3, mask.values == 1)
    np.testing.assert_array_equal(turned == 1, mask.values == 2)
    moved = replace(mask, values=np.roll(mask.values, 1, axis=1))
    named = replace(mask, names=("abdomen", "head"))
    assert len({mask.digest, moved.digest, named.digest, replace(mask, sha256="7").digest}) == 4
    assert mask.digest == mask_on(volume).digest


def test_regions_that_share_a_voxel_contradict_each_other():
    one, other = np.zeros((2, 8, 8), bool), np.zeros((2, 8, 8), bool)
    one[0, 2:5], other[0, 4:6] = True, True
    with pytest.raises(NoLabel, match="8 voxels are of two classes"):
        Mask.of({"a": one, "b": other}, one.shape)


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("a",), np.full((1, 4, 4), 2)),
        (("a",), np.full((1, 4, 4), -1)),
        (("a", "a"), np.zeros((1, 4, 4), int)),
        (("",), np.zeros((1, 4, 4), int)),
        (("a",), np.zeros((4, 4), int)),
        (("a",), np.zeros((1, 4, 4))),
    ],
)
def test_a_mask_that_makes_no_sense_is_refused(names, values):
    with pytest.raises(BadValue):
        Mask(names=names, values=values)


@pytest.mark.parametrize("label", [None, "chest"])
def test_a_protector_for_segmentation_needs_a_mask(label):
    with pytest.raises(NoLabel, match="needs a mask"):
        untrained_protector(**SEGMENTATION).apply(phantom_volume(), series_uid="1", label=label)


def test_a_protector_for_classification_takes_no_mask():
    volume = phantom_volume()
    with pytest.raises(NoLabel, match="needs a label"):
        untrained_protector().apply(volume, series_uid="1", label=mask_on(volume))


def test_a_mask_of_another_shape_or_of_unknown_classes_is_refused():
    volume, protector = phantom_volume(slices=3), untrained_protector(**SEGMENTATION)
    mask = mask_on(volume)
    with pytest.raises(GeometryError, match="both need the same"):
        protector.apply(volume, series_uid="1", label=mask.taken(slice(0, 2)))
    with pytest.raises(NoLabel, match="1 classes of the mask are none of the 2"):
        protector.apply(volume, series_uid="1", label=replace(mask, names=("abdomen", "head")))


def test_a_class_that_no_voxel_has_need_not_be_known():
    volume = phantom_volume()
    mask = mask_on(volume)
    more = replace(mask, names=(*mask.names, "head"))
    protector = untrained_protector(**SEGMENTATION)
    found = protector.apply(volume, series_uid="1", label=more)
    np.testing.assert_array_equal(found.delta, apply(protector, volume, "1").delta)


# --- learning


def test_plan_and_command_line_know_the_objectives_and_mask_modes_that_there_are():
    assert set(NAMES) == set(OBJECTIVES)
    for command in (fit_command, protect_command):
        options = {one.name: one.type for one in command.params}
        assert tuple(options["objective"].choices) == NAMES
        assert tuple(options["mask"].choices) == MASKS


@pytest.mark.parametrize("size", [(32, 32), (28, 45), (5, 30, 33)])
def test_a_network_for_segmentation_answers_for_every_place_of_any_size(size):
    spec = NetworkSpec(size=size, classes=3, width=4, objective="segmentation")
    out = spec.build(seed=0)(torch.rand(2, 1, *size))
    assert out.shape == (2, 4, *size)
    assert spec.values == 4 * math.prod(size)


def test_the_same_seed_builds_the_same_network_and_leaves_the_global_one_alone():
    spec = NetworkSpec(size=(32, 32), classes=1, width=4, objective="segmentation")
    before = torch.get_rng_state()
    one, same, other = (spec.build(seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_loss_is_dice_and_cross_entropy_summed_over_samples_on_the_networks_grid():
    rng = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 3, 8, 8, generator=rng)
    fine = torch.randint(0, 3, (3, 1, 16, 16), generator=rng)
    target = network_target(fine, (8, 8))
    soft, truth = outputs.softmax(1), functional.one_hot(target[:, 0], 3).movedim(-1, 1)
    common, both = (soft * truth).sum((2, 3)), (soft + truth).sum((2, 3))
    by_hand = (1 - (2 * common + 1e-5) / (both + 1e-5)).mean()
    by_hand += functional.cross_entropy(outputs, target[:, 0])
    assert float(dice_and_cross_entropy(outputs, fine)) == pytest.approx(3 * float(by_hand), 1e-4)
    each = sum(float(dice_and_cross_entropy(outputs[i : i + 1], fine[i : i + 1])) for i in range(3))
    assert float(dice_and_cross_entropy(outputs, fine)) == pytest.approx(each, 1e-4)


def test_dice_of_a_known_overlap_and_of_nothing():
    target = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    target[..., :4, :] = 1
    outputs = torch.zeros(1, 3, 8, 8)
    outputs[:, 1, 2:6] = 5.0  # half of what is marked, and as much that is not
    tally = overlaps(outputs, target)
    assert tally.tolist() == [[32, 64], [0, 0]]
    assert dice(tally) == 0.5
    assert dice(overlaps(torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8).long())) == 1.0


def test_a_mask_on_a_coarser_grid_lies_where_its_image_does():
    mask = torch.zeros(1, 1, 6, 32, 32).long()
    mask[..., 2:4, 8:16, 16:24] = 2
    found = network_target(mask, (3, 16, 16))
    wanted = torch.zeros(1, 1, 3, 16, 16).long()
    wanted[..., 1:2, 4:8, 8:12] = 2
    assert torch.equal(found, wanted)


def test_a_mask_moves_with_its_image():
    inputs = torch.zeros(2, 1, 64, 64)
    inputs[..., 20:30, 40:50] = 1
    images, masks = augmented(inputs, inputs.long(), torch.Generator().manual_seed(3))
    assert torch.equal(images > 0, masks > 0)
    assert not torch.equal(masks, inputs.long())


# --- where voxels may change


def test_the_band_lies_on_both_sides_of_an_edge_and_follows_the_spacing():
    classes = np.zeros((2, 40, 40), int)
    classes[0, 10:30, 10:30] = 1
    found = near_edges(classes, (1.0, 0.5), 2.0)
    assert not found[1].any()
    down, across = found[0, :, 20], found[0, 20]
    # the voxels at the edge are 9 and 10; 2 mm are two rows or four columns further
    assert np.flatnonzero(down).tolist() == [*range(7, 13), *range(27, 33)]
    assert np.flatnonzero(across).tolist() == [*range(5, 15), *range(25, 35)]
    thin = near_edges(classes, (30.0, 30.0), 1.0)
    assert np.flatnonzero(thin[0, 20]).tolist() == [9, 10, 29, 30]


def test_edges_between_touching_classes_are_edges():
    classes = np.ones((1, 8, 8), int)
    classes[:, :, 4:] = 2
    assert np.flatnonzero(near_edges(classes, (9.0, 9.0), 1.0)[0, 4]).tolist() == [3, 4]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("extent", ["slice", "volume"])
@pytest.mark.parametrize("mode", MASKS)
def test_every_mask_mode_keeps_the_laws(mode, extent, method):
    volume = phantom_volume(slices=3, padding=-2000)
    protector = untrained_protector(
        mask=mode, extent=extent, method=method, epsilon="8/255", **SEGMENTATION
    )
    found = apply(protector, volume)
    inside, delta = foreground(volume.pixels, "CT"), found.delta.astype(int)
    mask = mask_on(volume).values
    band = near_edges(mask, (0.75, 0.75), protector.plan.band_mm)
    may = {"gradient": inside, "roi_band": band, "gradient & roi": band | (mask > 0)}[mode]
    assert delta.any()
    assert not delta[~(inside & may)].any()
    assert np.abs(delta).max() <= found.record.budget_stored
    assert not delta.sum(axis=(1, 2)).any()
    counts = np.count_nonzero(delta, axis=(1, 2))
    most = np.ceil(protector.plan.build_method().rho * inside.sum(axis=(1, 2)))
    if extent == "slice":
        assert (counts <= most).all()
    else:
        assert counts.sum() <= math.ceil(protector.plan.build_method().rho * inside.sum())
    edge = region_edge(protector.plan, volume)
    for top in range(0, 64, edge):
        for left in range(0, 64, edge):
            assert not delta[:, top : top + edge, left : left + edge].sum(axis=(1, 2)).any()
    volume.pixels.shifted(found.delta)


def test_near_the_mask_rho_still_counts_all_of_the_foreground():
    volume = phantom_volume()
    near_it = untrained_protector(mask="gradient & roi", **SEGMENTATION | {"zero_mean": False})
    found = apply(near_it, volume)
    mask = mask_on(volume).values
    may = found.mask & (near_edges(mask, (0.75, 0.75), 5.0) | (mask > 0))
    wanted = math.ceil(0.2 * found.mask.sum())
    assert 0.2 * may.sum() < np.count_nonzero(found.delta) <= min(wanted, may.sum())


@pytest.mark.parametrize("mode", ["roi_band", "gradient & roi"])
def test_an_empty_mask_leaves_nothing_to_change_near_it(mode):
    volume = phantom_volume()
    empty = Mask(names=CLASSES, values=np.zeros(volume.pixels.values.shape, np.uint8))
    with pytest.raises(NoChange, match="the mask is empty"):
        untrained_protector(mask=mode, **SEGMENTATION).apply(volume, series_uid="1", label=empty)
    everywhere = untrained_protector(**SEGMENTATION)
    assert everywhere.apply(volume, series_uid="1", label=empty).delta.any()


# --- the artefact


@pytest.mark.parametrize("extent", ["slice", "volume"])
@pytest.mark.parametrize("mode", MASKS)
def test_a_protector_survives_the_disk_with_its_digest_and_its_perturbation(tmp_path, mode, extent):
    protector = untrained_protector(mask=mode, extent=extent, **SEGMENTATION)
    save(protector, tmp_path / "protector")
    back = load(tmp_path / "protector")
    assert (back.plan, back.classes, back.digest) == (
        protector.plan, protector.classes, protector.digest,
    )  # fmt: skip
    volume = phantom_volume(slices=3)
    np.testing.assert_array_equal(apply(back, volume).delta, apply(protector, volume).delta)


def test_masks_decide_the_pixels_and_the_digest_that_uids_are_made_from():
    volume, protector = phantom_volume(slices=2), untrained_protector(**SEGMENTATION)
    mask = mask_on(volume)
    other = replace(mask, values=np.roll(mask.values, 8, axis=1))
    one, two = (protector.apply(volume, series_uid="1", label=m) for m in (mask, other))
    assert (one.delta != two.delta).any()
    assert one.record.digest == protector.digest_for(mask.digest)
    assert two.record.digest == protector.digest_for(other.digest)
    assert len({one.record.digest, two.record.digest, protector.digest}) == 3


def test_a_perturbation_lowers_the_surrogates_loss_on_the_mask():
    volume = phantom_volume(slices=2)
    protector = untrained_protector(epsilon="16/255", **SEGMENTATION | {"steps": 10})
    found = apply(protector, volume)
    surrogate = protector.surrogates["slice"]
    pixels = volume.pixels
    about = [np.ones((2, 1, 1, 1), np.float32), np.full((2, 1, 1, 1), pixels.intercept[0])]
    wanted = mask_on(volume).values[:, None].astype(np.int64)
    loss = surrogate.loss(about[0], about[1].astype(np.float32), (-160.0, 240.0), wanted)
    before, after = (
        float(loss(torch.from_numpy(values[:, None].astype(np.float32))))
        for values in (pixels.values, pixels.values + found.delta)
    )
    assert after < before


def test_no_step_changes_nothing():
    volume = phantom_volume(slices=2)
    surrogate = untrained_protector(**SEGMENTATION).surrogates["slice"]
    ones, wanted = np.ones((2, 1, 1, 1), np.float32), mask_on(volume).values[:, None]
    loss = surrogate.loss(ones, -1024 * ones, (-160.0, 240.0), wanted.astype(np.int64))
    x = volume.pixels.values[:, None].astype(np.float32)
    inside = foreground(volume.pixels, "CT")[:, None]
    limits = Limits(budget=6 * ones * (wanted > 0), low=-1024, high=3071)
    none, some = (perturb(Salm(steps=k), x, loss, inside, limits, 0) for k in (0, 2))
    assert not none.any()
    assert some.any()
    assert not some[wanted == 0].any()


def test_many_classes_go_through_in_smaller_parts_with_nearly_the_same_loss(monkeypatch):
    volume = phantom_volume(slices=4)
    protector = untrained_protector(**SEGMENTATION)
    whole = apply(protector, volume).delta
    monkeypatch.setattr("salm_dicom.protector.samples._VALUES_AT_ONCE", 2 * 3 * 32 * 32)
    assert np.mean(apply(protector, volume).delta != whole) < 0.01


def test_the_volumes_of_one_file_get_their_parts_of_the_mask():
    volume = phantom_volume(slices=4)
    parts = tuple(Part(start=a, stop=a + 2, affine=volume.affine, irregular="") for a in (0, 2))
    protector, mask = untrained_protector(**SEGMENTATION), mask_on(volume)
    found = protector.apply(replace(volume, parts=parts), series_uid="1", label=mask)
    for number, part in enumerate(parts, start=1):
        which = slice(part.start, part.stop)
        alone = replace(volume, pixels=volume.pixels.taken(which))
        wanted = protector.apply(alone, series_uid=f"1/{number}", label=mask.taken(which))
        np.testing.assert_array_equal(found.delta[which], wanted.delta)
    assert found.record.digest == protector.digest_for(mask.digest)


# --- fit


@pytest.mark.parametrize("extent", ["slice", "volume"])
@pytest.mark.parametrize("mode", MASKS)
def test_a_fit_on_masks_gives_the_same_protector_every_time(tmp_path, mode, extent):
    plan = ProtectionPlan(mask=mode, extent=extent, **TINY)
    one, two = (fit(studies(), plan, tmp_path) for _ in range(2))
    assert one.digest == two.digest
    assert one.classes == CLASSES
    assert set(one.surrogates) == {"slice", extent}
    assert one.surrogates[extent].spec.outputs == 3
    assert list(tmp_path.iterdir()) == []
    assert 0 <= one.report[f"{extent}_error_on_protected"] <= 1
    found = apply(one, phantom_volume(slices=3, seed=9))
    assert found.record.largest_change_stored > 0


def test_masks_that_number_their_classes_otherwise_give_the_same_protector(tmp_path):
    plan = ProtectionPlan(**TINY)

    def turned(study: Study) -> Study:
        def mask() -> Mask:
            found = study.mask()
            names = ("nothing", *reversed(found.names))
            table = np.array([0, 3, 2])
            return Mask(names=names, values=table[found.values])

        return replace(study, mask=mask)

    mixed = [turned(study) if index else study for index, study in enumerate(studies())]
    assert fit(mixed, plan, tmp_path).digest == fit(studies(), plan, tmp_path).digest


def test_a_surrogate_learns_to_find_what_is_marked(tmp_path):
    plan = ProtectionPlan(
        **TINY | {"rounds": 1, "batches": 120, "batch_size": 4, "method": "targeted"}
    )
    found = fit(studies(4), plan, tmp_path)
    assert found.report["slice_error_on_protected"] < 0.5


def test_a_surrogate_that_has_not_begun_to_learn_is_not_given_up(tmp_path, monkeypatch):
    errors = iter([1.0, 1.0, 1.0, 1.0, 0.9, 0.9, 0.9, 0.9, 0.5])
    monkeypatch.setattr("salm_dicom.protector.rounds.error_of", lambda *_, **__: next(errors))
    found = fit(studies(), ProtectionPlan(**TINY | {"rounds": 20}), tmp_path)
    assert found.report["slice_rounds"] == 8


def test_studies_whose_mask_does_not_fit_are_counted_and_the_rest_is_learned_from(tmp_path):
    good = studies(3)
    short = replace(good[0], mask=lambda: mask_on(phantom_volume(slices=2)))
    found = fit([short, *good[1:]], ProtectionPlan(**TINY), tmp_path)
    assert found.report["slice_skipped_series"] == 1


def test_a_fit_without_masks_or_with_empty_ones_says_so(tmp_path):
    plan = ProtectionPlan(**TINY)
    with pytest.raises(NoLabel, match=r"Study\(mask=...\)"):
        fit([replace(studies()[0], mask=None)], plan, tmp_path)
    empty = Mask(names=("a",), values=np.zeros((3, 64, 64), np.uint8))
    with pytest.raises(NoLabel, match="every mask is empty"):
        fit([replace(one, mask=lambda: empty) for one in studies()], plan, tmp_path)


def test_of_a_long_series_the_slices_with_a_mask_are_learned_from_first():
    from salm_dicom.protector.samples import chosen_slices

    anatomy = np.ones((100, 2, 2), bool)
    marked = np.zeros((100, 2, 2), bool)
    marked[40:44] = True
    chosen = chosen_slices(anatomy, marked, 24)
    assert {40, 41, 42, 43} <= set(chosen.tolist())
    assert len(chosen) == 24
    assert (np.diff(chosen) > 0).all()
    marked[:] = True
    assert len(chosen_slices(anatomy, marked, 24)) == 24
    marked[:90] = False
    assert len(chosen_slices(anatomy, marked, 24)) == 24
    marked[:50] = True
    assert sum(49 < index < 90 for index in chosen_slices(anatomy, marked, 24)) == 8


# --- grids


def test_a_grid_covers_another_exactly_where_alignment_leaves_no_gap():
    rng = np.random.default_rng(0)
    home_shape, home = (6, 7, 5), np.diag([-0.75, 0.75, 2.0, 1.0])
    seen = set()
    for _ in range(200):
        shape = tuple(rng.integers(3, 10, 3).tolist())
        axes, signs = rng.permutation(3), rng.choice([-1, 1], 3)
        turn = np.zeros((4, 4))
        turn[axes, range(3)] = signs
        turn[3, 3] = 1
        turn[:3, 3] = np.where(
            [signs[list(axes).index(a)] < 0 for a in range(3)], home_shape, 0
        ) + rng.integers(-2, 3, 3)
        moved = home @ turn
        try:
            whole = not np.isnan(align(np.ones(shape, np.float32), moved, home_shape, home)).any()
        except Exception:  # no overlap at all
            whole = False
        assert covers(shape, moved, home_shape, home) == whole
        seen.add(whole)
    assert seen == {True, False}
    assert not covers(home_shape, home @ np.diag([2.0, 1, 1, 1]), home_shape, home)
