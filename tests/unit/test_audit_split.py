"""What victims see, and on which side each patient is: never on two."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from salm_dicom.audit.dataset import Dataset, dataset
from salm_dicom.audit.experiment import Settings, Spec, planned, sets_of, why_not_late
from salm_dicom.audit.split import SIDES, split
from salm_dicom.audit.subjects import Subject, View
from salm_dicom.errors import NotProtected, PlanError, TooFew
from salm_dicom.plan import ProtectionPlan
from salm_dicom.volume import StoredPixels, Volume

VIEW = View(plan=ProtectionPlan(method="random", slice_size=(16, 16), volume_size=(2, 16, 16)))


def volume(value: int, slices: int = 3) -> Volume:
    """Return slices with a body of one CT value in air, and a bone in it."""
    values = np.full((slices, 20, 20), -1000, np.int16)
    values[:, 4:16, 4:16] = value
    values[:, 5, 5] = 1500
    pixels = StoredPixels(
        values=values, slope=np.ones(slices), intercept=np.zeros(slices), bits_stored=16,
        signed=True,
    )  # fmt: skip
    return Volume(pixels=pixels, affine=np.eye(4), modality="CT")


def subject(patient: str, label: str, slices: int = 3, late: bool | None = None) -> Subject:
    """Return a series whose protected copy is 40 HU brighter, a tenth of the intensity range."""
    source = volume(0 if label == "a" else 100, slices)
    body = source.pixels.values > -1000
    protected = replace(source.pixels, values=source.pixels.values + 40 * body.astype(np.int16))
    return Subject(patient=patient, label=label, load=lambda: (source, protected), late=late)


def subjects(patients: int = 10, late: bool | None = None) -> list[Subject]:
    return [subject(f"{label}{n}", label, late=late) for n in range(patients) for label in "ab"]


def found(of: list[Subject] | None = None, view: View = VIEW) -> Dataset:
    return dataset(subjects() if of is None else of, view)


def test_a_split_is_60_20_20_of_every_label_and_the_same_in_any_order():
    labels = {f"p{n}": frozenset({"ab"[n % 4 == 0]}) for n in range(80)}
    sides = split(labels)
    for label, patients in (("b", 20), ("a", 60)):
        counts = [sum(sides[p] == s for p in labels if label in labels[p]) for s in SIDES]
        assert counts == [patients * 3 // 5, patients // 5, patients // 5]
    shuffled = list(labels.items())
    random.Random(1).shuffle(shuffled)
    assert split(dict(shuffled)) == sides


def test_patients_with_all_labels_are_split_too():
    sides = split({f"p{n}": frozenset("abc") for n in range(4)})
    assert sorted(sides.values()) == ["test", "train", "train", "validation"]


def test_a_rare_label_has_a_patient_on_every_side_among_patients_of_many_labels():
    labels = {f"p{n}": frozenset("ab" if n < 3 else "a") for n in range(30)}
    sides = split(labels)
    assert {sides[f"p{n}"] for n in range(3)} == set(SIDES)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"p1": "a", "p2": "a", "p3": "a"}, "3 patients with 1 different labels"),
        ({}, "0 patients with 0 different labels"),
        ({"p1": "a", "p2": "a", "p3": "a", "p4": "b", "p5": "b"}, r"of b \(a: 3, b: 2\)"),
    ],
)
def test_too_few_patients_or_labels_are_refused_with_what_was_found_and_not_who(labels, text):
    with pytest.raises(TooFew, match=text) as caught:
        split({patient: frozenset(label) for patient, label in labels.items()})
    assert "p1" not in str(caught.value)
    assert "at least" in str(caught.value)


def test_no_patient_is_on_two_sides_however_many_series_they_have():
    again = [subject(f"{label}{n}", label, slices=1) for n in range(10) for label in "ab"]
    data = found([*subjects(), *again])
    sides = [set(side.patients.tolist()) for side in data.sides().values()]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 20
    assert [len(side) for side in sides] == [12, 4, 4]
    assert sum(len(side.patients) for side in data.sides().values()) == 20 * 4


def test_victims_see_what_the_protector_saw():
    data = found()
    for side in data.sides().values():
        # -160..240 HU: 0 HU is 0.4, 100 HU 0.65; protected 0.1 more
        middle = side.clean.pixels[:, 0, 8, 8]
        assert torch.allclose(middle, torch.where(side.clean.labels == 0, 0.4, 0.65))
        assert torch.allclose(side.protected.pixels[:, 0, 8, 8], middle + 0.1)
        assert torch.equal(side.protected.pixels[:, 0, 0, 0], torch.zeros(len(middle)))
        assert torch.equal(side.clean.labels, side.protected.labels)
    assert data.classes == ("a", "b")


def test_a_long_series_gives_a_few_slices_evenly_spaced():
    source = volume(0, 9)
    numbers = np.arange(9, dtype=np.int16)
    source.pixels.values[:, 6:14, 6:14] = 10 * numbers[:, None, None]
    source.pixels.values[[0, 8]] = -1000  # no anatomy in the first and the last
    one = replace(subject("a0", "a"), load=lambda: (source, source.pixels))
    data = found([one, *subjects()[1:]], replace(VIEW, slices=3))
    seen = torch.cat([side.clean.pixels[:, 0, 8, 8] for side in data.sides().values()])
    assert {10, 40, 70} <= {round(float(v) * 400 - 160) for v in seen}


def test_volumes_are_one_image_each_and_a_single_slice_is_left_out():
    view = replace(VIEW, plan=replace(VIEW.plan, extent="volume"))
    data = found([*subjects(), subject("c0", "a", slices=1)], view)
    assert data.train.clean.pixels.shape == (12, 1, 2, 16, 16)
    assert [(index, code) for index, code, _ in data.failed] == [(20, "E_GEOMETRY")]


def test_a_series_that_cannot_be_read_is_listed_and_the_others_are_used():
    def load() -> tuple[Volume, StoredPixels]:
        raise NotProtected("gone")

    data = found([*subjects(), Subject(patient="x", label="a", load=load)])
    assert data.failed == ((20, "E_NOT_PROTECTED", "gone"),)
    assert len(data.train.patients) == 36


def test_when_too_few_are_left_the_message_says_why_the_others_could_not_be_used():
    def load() -> tuple[Volume, StoredPixels]:
        raise NotProtected("it is gone")

    broken = [replace(one, load=load) for one in subjects(4) if one.label == "b"]
    with pytest.raises(TooFew, match=r"4 series could not be used.*gone \[E_NOT_PROTECTED\]"):
        found([*(one for one in subjects(4) if one.label == "a"), *broken])


def test_coverage_protects_a_share_of_the_patients_of_each_label_and_a_larger_share_more():
    data = found()
    sets = {share: sets_of(data, Spec(victim="convnet", seed=0, coverage=share)).train
            for share in (0, 33, 67, 100)}  # fmt: skip
    changed = {
        share: (one.pixels != data.train.clean.pixels).flatten(1).any(1)
        for share, one in sets.items()
    }
    assert not changed[0].any()
    assert changed[100].all()
    for label in (0, 1):
        of_label = data.train.clean.labels == label
        assert [int(changed[s][of_label].sum()) for s in (33, 67)] == [6, 12]
    assert not (changed[33] & ~changed[67]).any()
    whole = [set(changed[33][data.train.patients == p].tolist()) for p in data.train.patients]
    assert all(len(one) == 1 for one in whole)


def test_the_test_set_is_clean_and_only_references_are_tried_on_protected_images():
    data = found()
    reference = sets_of(data, Spec(victim="convnet", seed=0, coverage=0))
    attack = sets_of(data, Spec(victim="convnet", seed=0))
    for sets in (reference, attack):
        assert torch.equal(sets.test.pixels, data.test.clean.pixels)
        assert torch.equal(sets.clean_validation.pixels, data.validation.clean.pixels)
    assert torch.equal(reference.protected_test.pixels, data.test.protected.pixels)
    assert attack.protected_test is None
    assert torch.equal(attack.train.pixels, data.train.protected.pixels)
    assert torch.equal(attack.validation.pixels, data.validation.protected.pixels)


def test_every_protected_trial_has_its_clean_reference_before_it():
    settings = Settings(
        victims=("convnet", "resnet-10"), countermeasures=("jpeg10", "none"), seeds=2,
        coverage=(50, 100),
    )  # fmt: skip
    specs = planned(settings, found())
    assert len(specs) == len(set(specs)) == 2 * 2 * (2 + 2 + 1)
    for place, spec in enumerate(specs):
        reference = replace(spec, coverage=0)
        assert specs.index(reference) <= place


def test_late_arrival_needs_patients_of_every_label_that_the_fit_did_not_see():
    data = found()
    assert "--fitted-labels" in why_not_late(data)
    assert "late patients" in why_not_late(found(subjects(late=False)))
    halves = [replace(one, late=int(one.patient[1:]) % 2 == 0) for one in subjects(20)]
    data = found(halves)
    assert why_not_late(data) == ""
    settings = Settings(victims=("convnet",), countermeasures=("none",), seeds=1)
    groups = [(spec.group, spec.coverage) for spec in planned(settings, data)]
    assert groups[2:] == [("early", 0), ("early", 100), ("late", 0), ("late", 100)]
    sets = [sets_of(data, Spec(victim="convnet", seed=0, group=g)) for g in ("early", "late")]
    assert sum(len(one.train.labels) for one in sets) == len(data.train.patients)


def test_a_patient_of_whom_the_fit_saw_one_series_is_not_late():
    again = [replace(one, late=False) for one in subjects(20)]
    data = found([*subjects(20, late=True), *again])
    assert not data.train.late.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"victims": ("vit",)}, {"victims": ()}, {"countermeasures": ("jpeg",)}, {"seeds": 0},
        {"epochs": 0}, {"coverage": (0,)}, {"coverage": (101,)},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(PlanError):
        Settings(**{"victims": ("convnet",), "countermeasures": ("none",)} | wrong)


def test_victims_of_few_images_see_them_more_often():
    settings = Settings(victims=("convnet",), countermeasures=("none",))
    assert [settings.epochs_of(n) for n in (20, 320, 1200, 100_000)] == [450, 45, 12, 12]
    assert replace(settings, epochs=3).epochs_of(20) == 3
