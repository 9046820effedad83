"""Protectors: fitted, saved and loaded as they are, and applied the same way every time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from salm_dicom.errors import NoChange, NoForeground, NoLabel, PlanError, Truncated
from salm_dicom.foreground import foreground
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protected, Protector, load, loaded, save
from salm_dicom.protector.fit import Study, fit
from salm_dicom.volume import Volume
from tests.unit.volumes import CLASSES, phantom_volume, stored, untrained_protector

RANDOM = Protector(plan=ProtectionPlan(method="random"))
# Small enough that a fit takes a second or two.
TINY = {
    "method": "salm", "slice_size": (32, 32), "volume_size": (8, 32, 32), "rounds": 2, "batches": 2,
    "batch_size": 2, "steps": 2,
}  # fmt: skip


def studies(**recipe: int) -> list[Study]:
    """Return two series of each of two classes, each with a seed of its own."""
    return [
        Study(
            label="chest" if lungs else "abdomen",
            load=lambda seed=seed, lungs=lungs: phantom_volume(
                lungs=lungs, seed=seed, **{"slices": 3} | recipe
            ),
        )
        for seed in range(2)
        for lungs in (True, False)
    ]


def apply(protector: Protector, volume: Volume, uid: str = "1.2.3") -> Protected:
    label = "chest" if protector.plan.needs_surrogate else None
    return protector.apply(volume, series_uid=uid, label=label)


# --- on disk


@pytest.mark.parametrize("plan", [{"method": "random"}, {}, {"extent": "volume"}], ids=repr)
def test_a_protector_survives_the_disk_with_its_digest_and_its_perturbation(tmp_path, plan):
    protector = untrained_protector(**plan)
    save(protector, tmp_path / "protector")
    back = load(tmp_path / "protector")
    assert back.plan == protector.plan
    assert back.classes == protector.classes
    assert back.digest == protector.digest
    volume = phantom_volume(slices=3)
    np.testing.assert_array_equal(apply(back, volume).delta, apply(protector, volume).delta)


def test_a_protector_is_readable_by_its_owner_only(tmp_path):
    save(untrained_protector(), tmp_path / "protector")
    assert (tmp_path / "protector").stat().st_mode & 0o777 == 0o700
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "protector").iterdir()}
    assert modes == {0o600}


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(untrained_protector(), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def spoilt(folder: Path, *path: str, value: object) -> None:
    """Write another value at a place of `protector.json`."""
    file = folder / "protector.json"
    content = json.loads(file.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("plan", "epsilon"), "8/255"),
        (("plan", "seed"), 7),
        (("plan", "rho"), 2.0),
        (("plan", "rhoo"), 0.2),
        (("plan",), None),
        (("plan",), {}),
        (("classes",), ["chest", "abdomen"]),
        (("classes",), ["abdomen"]),
        (("classes",), 7),
        (("digest",), "0" * 64),
        (("digest",), None),
        (("format",), 2),
        (("surrogates",), {}),
        (("surrogates",), []),
        (("surrogates", "slice", "size"), None),
        (("surrogates", "slice", "size"), [16, 16]),
        (("surrogates", "slice", "width"), 8),
    ],
    ids=lambda part: ".".join(part) if isinstance(part, tuple) else repr(part),
)
def test_a_protector_whose_json_was_tampered_with_is_refused(tmp_path, path, value):
    save(untrained_protector(), tmp_path / "protector")
    spoilt(tmp_path / "protector", *path, value=value)
    with pytest.raises(PlanError):
        load(tmp_path / "protector")


def test_a_surrogate_of_another_extent_does_not_pass_for_this_one(tmp_path):
    protector = untrained_protector(extent="volume")
    swapped = replace(
        protector,
        surrogates={
            "slice": protector.surrogates["volume"],
            "volume": protector.surrogates["slice"],
        },
    )
    assert swapped.digest != protector.digest
    (name, one), *_ = protector.surrogates.items()
    other = "volume" if name == "slice" else "slice"
    alone = replace(protector, surrogates={name: one})
    assert alone.digest != replace(protector, surrogates={other: one}).digest


@pytest.mark.parametrize("classes", [("a,b", "c"), ("b", "a", "c"), ("a", "c"), ("a,b,c",)])
def test_other_classes_have_another_digest(classes):
    protector = untrained_protector()
    one = replace(protector, classes=("a", "b", "c"))
    assert replace(protector, classes=classes).digest != one.digest


@pytest.mark.parametrize("how", ["changed", "truncated", "emptied", "removed", "replaced"])
def test_a_protector_whose_weights_were_tampered_with_is_refused(tmp_path, how):
    folder = tmp_path / "protector"
    save(untrained_protector(), folder)
    weights = folder / "surrogate-slice.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    {
        "changed": lambda: weights.write_bytes(data),
        "truncated": lambda: weights.write_bytes(data[: len(data) // 2]),
        "emptied": lambda: weights.write_bytes(b""),
        "removed": weights.unlink,
        "replaced": lambda: weights.write_bytes(b"garbage" * 1000),
    }[how]()
    with pytest.raises(PlanError):
        load(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '"text"', "{}", '{"format": 1}', "\xff\xfe"]
)
def test_a_folder_with_garbage_is_no_protector(tmp_path, text):
    (tmp_path / "protector.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PlanError):
        load(tmp_path)


def test_a_folder_without_a_protector_and_a_missing_folder_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(PlanError, match="no protector that can be read"):
            load(folder)


def test_a_folder_is_loaded_once_and_a_protector_is_taken_as_it_is(tmp_path):
    save(RANDOM, tmp_path / "protector")
    assert loaded(tmp_path / "protector") is loaded(tmp_path / "protector")
    assert loaded(RANDOM) is RANDOM


# --- apply


@pytest.mark.parametrize("extent", ["slice", "volume"])
@pytest.mark.parametrize("method", ["random", "salm", "dense"])
def test_a_perturbation_depends_on_no_series_that_went_before(method, extent):
    settings = {"method": method, "extent": extent, "steps": 3}
    series = {f"1.2.{seed}": phantom_volume(slices=5, seed=seed) for seed in range(3)}
    forwards, backwards = (untrained_protector(**settings) for _ in range(2))
    first = {uid: apply(forwards, one, uid) for uid, one in series.items()}
    second = {uid: apply(backwards, one, uid) for uid, one in reversed(series.items())}
    for uid in series:
        np.testing.assert_array_equal(first[uid].delta, second[uid].delta)
        assert first[uid].record == second[uid].record


@pytest.mark.parametrize("extent", ["slice", "volume"])
@pytest.mark.parametrize("method", ["salm", "dense", "hybrid", "random"])
def test_the_order_of_voxels_in_memory_does_not_matter(method, extent):
    protector = untrained_protector(method=method, extent=extent)
    volume = phantom_volume(slices=3)
    turned = np.asfortranarray(volume.pixels.values)
    other = replace(volume, pixels=replace(volume.pixels, values=turned))
    assert np.array_equal(apply(protector, other).delta, apply(protector, volume).delta)


def test_series_and_seeds_differ_in_what_is_random():
    volume = phantom_volume()
    other_seed = Protector(plan=ProtectionPlan(method="random", seed=1))
    one = apply(RANDOM, volume, "1.2.3").delta
    assert (one != apply(RANDOM, volume, "1.2.4").delta).any()
    assert (one != apply(other_seed, volume, "1.2.3").delta).any()


def test_labels_pull_in_different_directions():
    protector = untrained_protector()
    volume = phantom_volume()
    one, other = (protector.apply(volume, series_uid="1", label=c).delta for c in CLASSES)
    assert (one != other).any()


def test_the_source_is_not_changed():
    volume = phantom_volume(padding=-2000)
    before = volume.pixels.values.copy()
    for protector in (RANDOM, untrained_protector()):
        apply(protector, volume)
    np.testing.assert_array_equal(volume.pixels.values, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("extent", ["slice", "volume"])
def test_a_protector_works_where_gradients_are_switched_off(extent, mode):
    volume = phantom_volume(slices=3)
    wanted = apply(untrained_protector(extent=extent), volume)
    with mode():
        found = apply(untrained_protector(extent=extent), volume)
    np.testing.assert_array_equal(found.delta, wanted.delta)


def test_a_protector_that_was_first_used_in_inference_mode_works_outside_it():
    volume = phantom_volume()
    protector = untrained_protector()
    wanted = apply(untrained_protector(), volume).delta
    with torch.inference_mode():
        found = apply(protector, volume).delta
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(apply(protector, volume).delta, wanted)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_the_callers_again_afterwards(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        apply(untrained_protector(), phantom_volume())
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (phantom_volume(slices=3, irregular="slices are 1 to 3 mm apart"), "1 to 3 mm apart"),
        (phantom_volume(slices=1), "a single slice"),
    ],
)
@pytest.mark.parametrize("method", ["random", "salm"])
def test_a_series_that_is_no_regular_volume_is_protected_slice_by_slice_with_a_warning(
    volume, reason, method
):
    protector = untrained_protector(method=method, extent="volume")
    found = apply(protector, volume)
    (warning,) = found.record.warnings
    assert found.record.extent == "slice"
    assert warning.startswith("W_SPACING: ")
    assert reason in warning


def test_a_regular_volume_of_volume_extent_has_no_warning():
    found = apply(untrained_protector(extent="volume"), phantom_volume(slices=3))
    assert found.record.extent == "volume"
    assert found.record.warnings == ()


@pytest.mark.parametrize("label", [None, "head", "", "CHEST"])
def test_a_label_that_is_missing_or_unknown_is_no_label(label):
    with pytest.raises(NoLabel):
        untrained_protector().apply(phantom_volume(), series_uid="1", label=label)


def test_a_method_without_a_surrogate_looks_at_no_label():
    volume = phantom_volume()
    one, other = (RANDOM.apply(volume, series_uid="1", label=label) for label in (None, "whatever"))
    np.testing.assert_array_equal(one.delta, other.delta)


def test_a_protector_without_the_surrogate_it_needs_says_so():
    protector = replace(untrained_protector(), surrogates={})
    with pytest.raises(PlanError, match="no surrogate for slice extent"):
        apply(protector, phantom_volume())


def with_values(values: np.ndarray, modality: str = "CT", **mapping: float) -> Volume:
    return replace(phantom_volume(), pixels=stored(values, **mapping), modality=modality)


@pytest.mark.parametrize("modality", ["CT", "MR", "DX"])
@pytest.mark.parametrize(
    "values",
    [
        np.full((2, 32, 32), 40, np.int16),
        np.zeros((1, 1, 1), np.uint8),
        # two values only: each of them may be clipped
        np.kron(np.eye(2, dtype=np.int16)[None] * 500, np.ones((2, 16, 16), np.int16)),
    ],
    ids=["constant", "one voxel", "two values"],
)
def test_an_image_without_anatomy_has_no_foreground(values, modality):
    with pytest.raises(NoForeground):
        RANDOM.apply(with_values(values, modality), series_uid="1")


def test_a_method_that_finds_nothing_says_so():
    volume = phantom_volume()
    protector = untrained_protector(intensity_range=(5000.0, 6000.0))
    with pytest.raises(NoChange, match="nothing to change"):
        apply(protector, volume)  # every voxel lies below the range: no gradient anywhere


@pytest.mark.parametrize("epsilon", ["1 stored", "127 stored", "128 stored", "129 stored"])
@pytest.mark.parametrize("zero_mean", [True, False])
def test_a_budget_around_a_byte_is_kept_and_used(epsilon, zero_mean):
    plan = ProtectionPlan(method="random", epsilon=epsilon, zero_mean=zero_mean)
    volume = with_values(
        np.random.default_rng(0).integers(0, 4000, (1, 48, 48)).astype(np.int16), "MR"
    )
    found = Protector(plan=plan).apply(volume, series_uid="1")
    delta = found.delta.astype(np.int64)
    budget = int(epsilon.split()[0])
    assert (delta == budget).any()
    assert (delta == -budget).any()
    if zero_mean:
        assert delta.sum() == 0
    assert abs(int((delta > 0).sum()) - int((delta < 0).sum())) < 0.2 * np.count_nonzero(delta)


def test_a_budget_around_two_bytes_is_kept_and_used():
    plan = ProtectionPlan(method="random", epsilon="32768 stored")
    values = np.random.default_rng(0).integers(0, 65536, (1, 48, 48)).astype(np.uint16)
    found = Protector(plan=plan).apply(with_values(values, "MR"), series_uid="1")
    assert found.delta.astype(np.int64).sum() == 0
    with_values(values).pixels.shifted(found.delta)


@pytest.mark.parametrize(
    "volume",
    [
        phantom_volume(slices=3),
        phantom_volume(slices=2, padding=-2000),
        phantom_volume(slices=2, padding=1064),
        phantom_volume(slices=2, bits_stored=12, signed=False, slope=-1.0, intercept=3071.0),
        phantom_volume(slices=2, bits_stored=8, signed=False, slope=8.0),
        phantom_volume(slices=2, slope=0.5),
        phantom_volume(slices=3, modality="MR"),
    ],
    ids=["CT", "padding", "padding in tissue", "slope -1", "8 bits", "slope 0.5", "MR"],
)
@pytest.mark.parametrize("extent", ["slice", "volume"])
@pytest.mark.parametrize("method", ["random", "salm", "dense"])
def test_the_numbers_of_the_record_are_what_was_done(method, extent, volume):
    protector = untrained_protector(
        method=method, extent=extent, steps=5, step_size=0.5, epsilon="8/255"
    )
    found = apply(protector, volume, "1.2.840.7")
    record, pixels = found.record, volume.pixels
    mask = foreground(pixels, volume.modality)
    np.testing.assert_array_equal(found.mask, mask)
    delta, slope = found.delta.astype(np.int64), abs(float(pixels.slope[0]))
    low, high = record.intensity_range
    if volume.modality == "CT":
        assert (low, high) == (-160.0, 240.0)
    else:
        expected = np.percentile(pixels.modality_values()[mask], (0.5, 99.5))
        assert (low, high) == pytest.approx(tuple(expected), rel=1e-6)
    budget = int(8 / 255 * (high - low) / slope + 1e-9)
    assert record.budget_stored == budget
    assert record.budget_modality == pytest.approx(budget * slope)
    assert record.epsilon == pytest.approx(budget * slope / (high - low))
    assert record.epsilon <= 8 / 255 + 1e-9
    assert record.units == ("HU" if volume.modality == "CT" else "modality units")
    assert record.rho == (1.0 if method == "dense" else 0.2)
    assert (record.method, record.extent, record.series_uid) == (method, extent, "1.2.840.7")
    # a label decides the pixels too, so it is part of what UIDs are made from
    assert (record.digest == protector.digest) == (not protector.plan.needs_surrogate)
    assert record.foreground_share == pytest.approx(mask.mean())
    assert record.changed_share == pytest.approx(np.count_nonzero(delta) / mask.sum())
    assert record.largest_change_stored == np.abs(delta).max() <= budget
    assert record.largest_change_modality == pytest.approx(np.abs(delta).max() * slope)
    assert not delta[~mask].any()
    assert not delta.sum(axis=(1, 2)).any()
    restored = pixels.shifted(found.delta).values.astype(np.int64) - delta
    np.testing.assert_array_equal(restored, pixels.values)


def test_slices_with_different_slopes_have_budgets_of_their_own():
    volume = phantom_volume(slices=2)
    values = volume.pixels.values.copy()
    values[1] //= 2
    pixels = replace(
        volume.pixels, values=values, slope=np.array([1.0, 2.0]), intercept=np.array([-1024.0] * 2)
    )
    for extent in ("slice", "volume"):
        plan = ProtectionPlan(method="random", extent=extent)
        found = Protector(plan=plan).apply(replace(volume, pixels=pixels), series_uid="1")
        assert np.abs(found.delta).max(axis=(1, 2)).tolist() == [6, 3]
        assert found.record.budget_stored == 6
        assert found.record.largest_change_modality == 6


# --- fit


@pytest.mark.parametrize("extent", ["slice", "volume"])
def test_a_fit_gives_a_protector_for_its_extent_and_leaves_its_workspace_empty(tmp_path, extent):
    steps: list[tuple[str, int, int]] = []
    plan = ProtectionPlan(extent=extent, **TINY)
    protector = fit(studies(slices=8), plan, tmp_path, lambda *step: steps.append(step))
    assert list(tmp_path.iterdir()) == []
    assert protector.plan == plan
    assert protector.classes == CLASSES
    assert set(protector.surrogates) == {"slice", extent}
    assert protector.report[f"{extent}_rounds"] in (1, 2)
    assert 0 <= protector.report[f"{extent}_error_on_protected"] <= 1
    assert {f"read ({extent})", f"fit ({extent})"} <= {what for what, _, _ in steps}
    assert all(0 <= done <= count for _, done, count in steps)
    found = apply(protector, phantom_volume(slices=8))
    assert found.record.extent == extent
    assert 1 <= found.record.largest_change_stored <= 6


def test_the_same_seed_gives_the_same_protector_and_another_seed_another(tmp_path):
    one, again, other = (
        fit(studies(), ProtectionPlan(seed=seed, **TINY), tmp_path) for seed in (0, 0, 1)
    )
    assert one.digest == again.digest
    assert one.digest != other.digest
    weights = zip(
        one.surrogates["slice"].weights.values(),
        other.surrogates["slice"].weights.values(),
        strict=True,
    )
    assert any(not torch.equal(a, b) for a, b in weights)


def test_a_fit_does_not_depend_on_the_state_of_the_global_generator(tmp_path):
    digests = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        digests.add(fit(studies(), ProtectionPlan(**TINY), tmp_path).digest)
    assert len(digests) == 1


def test_a_fitted_protector_survives_the_disk(tmp_path):
    protector = fit(studies(), ProtectionPlan(**TINY), tmp_path)
    save(protector, tmp_path / "protector")
    assert load(tmp_path / "protector").digest == protector.digest
    assert load(tmp_path / "protector").report == protector.report


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_fit_needs_two_different_labels(tmp_path, count):
    with pytest.raises(NoLabel, match=f"{count} labelled series with {min(count, 1)} different"):
        fit([Study(label="chest", load=phantom_volume)] * count, ProtectionPlan(**TINY), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_of_volume_extent_needs_two_labels_among_the_regular_volumes(tmp_path):
    labelled = [
        Study(label="chest", load=lambda: phantom_volume(slices=8)),
        Study(label="abdomen", load=lambda: phantom_volume(slices=8, irregular="a gap")),
    ]
    with pytest.raises(NoLabel, match="one label only"):
        fit(labelled, ProtectionPlan(extent="volume", **TINY), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_without_any_anatomy_is_refused_and_leaves_its_workspace_empty(tmp_path):
    blank = with_values(np.zeros((2, 32, 32), np.int16))
    labelled = [Study(label=label, load=lambda: blank) for label in CLASSES]
    with pytest.raises(NoForeground):
        fit(labelled, ProtectionPlan(**TINY), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_study_without_anatomy_is_left_out_of_the_fit(tmp_path):
    blank = Study(label="chest", load=lambda: with_values(np.zeros((2, 32, 32), np.int16)))
    protector = fit([*studies(), blank], ProtectionPlan(**TINY), tmp_path)
    assert protector.report["slice_samples"] == 12


def test_series_of_different_sizes_fit_together(tmp_path):
    labelled = [
        Study(label="chest", load=lambda: phantom_volume(slices=2, rows=40, columns=72)),
        Study(label="abdomen", load=lambda: phantom_volume(slices=3, lungs=False, rows=24)),
    ]
    protector = fit(labelled, ProtectionPlan(**TINY), tmp_path)
    assert protector.report["slice_samples"] == 5


def test_a_fit_leaves_its_workspace_empty_when_a_study_cannot_be_read(tmp_path):
    def unreadable() -> Volume:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fit([*studies(), Study(label="chest", load=unreadable)], ProtectionPlan(**TINY), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_changes_no_study(tmp_path):
    volumes = [phantom_volume(lungs=lungs) for lungs in (True, False)]
    before = [one.pixels.values.copy() for one in volumes]
    labelled = [
        Study(label=label, load=lambda one=one: one)
        for label, one in zip(CLASSES, volumes, strict=True)
    ]
    fit(labelled, ProtectionPlan(**TINY), tmp_path)
    for one, values in zip(volumes, before, strict=True):
        np.testing.assert_array_equal(one.pixels.values, values)


def test_a_protector_can_be_copied_to_another_folder(tmp_path):
    save(untrained_protector(), tmp_path / "protector")
    shutil.copytree(tmp_path / "protector", tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").digest == untrained_protector().digest


def test_a_study_that_cannot_be_read_does_not_end_a_fit(tmp_path):
    def broken() -> Volume:
        raise Truncated("the file ends early")

    bad = [Study(label="chest", load=broken)]
    protector = fit([*bad, *studies()], ProtectionPlan(**TINY), tmp_path)
    assert protector.report["slice_skipped_series"] == 1
    without = fit(studies(), ProtectionPlan(**TINY), tmp_path)
    assert without.report["slice_skipped_series"] == 0
    assert protector.digest == without.digest
