"""Objective multilabel: any number of labels for a series, from the CSV file to the audit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from torch import Tensor

from salm_dicom.audit import COUNTERMEASURES, Images, Trial, trial
from salm_dicom.audit.interval import Draws
from salm_dicom.audit.tasks import TASKS
from salm_dicom.errors import NoLabel, PlanError
from salm_dicom.networks import NetworkSpec
from salm_dicom.objectives import OBJECTIVES
from salm_dicom.perturb import BY_LABEL
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector, load, save
from salm_dicom.protector.fit import Study, fit
from salm_dicom.protector.target import Target, labelled, names_of
from tests.command import run
from tests.synthetic import write_ct_series
from tests.unit.volumes import phantom_volume

PLAN = ProtectionPlan(
    objective="multilabel", rounds=2, batches=2, batch_size=2, steps=3, slice_size=(32, 32)
)
LABELS = ("effusion;mass", "mass", "-", "effusion")
SIDE = 24


def fitted(folder: Path) -> Protector:
    studies = [
        Study(load=lambda seed=seed: phantom_volume(slices=2, seed=seed), label=label)
        for seed, label in enumerate(LABELS)
    ]
    return fit(studies, PLAN, folder)


def test_a_text_names_labels_between_semicolons_and_a_dash_names_none():
    assert names_of("mass; effusion", "multilabel") == {"mass", "effusion"}
    assert names_of("-", "multilabel") == frozenset()
    assert names_of("mass; effusion", "classification") == {"mass; effusion"}
    assert labelled("mass", ("effusion", "mass", "nodule"), "multilabel").tolist() == [0, 1, 0]
    for wrong in ("mass;;effusion", "mass;", "mass;-", ""):
        with pytest.raises(NoLabel, match="semicolons between them"):
            names_of(wrong, "multilabel")


def test_the_error_is_balanced_so_that_always_no_is_half_wrong():
    objective = OBJECTIVES["multilabel"]
    targets = torch.tensor([[1, 0], [0, 0], [0, 0], [0, 1]])
    right = targets * 2.0 - 1
    assert objective.error(objective.tally(right, targets)) == 0.0
    assert objective.error(objective.tally(-right, targets)) == 1.0
    assert objective.error(objective.tally(torch.full((4, 2), -1.0), targets)) == 0.5
    halves = [
        objective.tally(torch.full((2, 2), -1.0), targets[part : part + 2]) for part in (0, 2)
    ]
    assert objective.error(torch.stack(halves).sum(0)) == 0.5
    one_sided = torch.tensor([[1], [1]])
    assert objective.error(objective.tally(torch.tensor([[1.0], [-1.0]]), one_sided)) == 0.5


def test_the_loss_is_the_sum_over_samples_of_the_mean_over_labels():
    outputs, targets = torch.tensor([[0.3, -2.0, 1.0]]), torch.tensor([[1, 0, 0]])
    share = torch.sigmoid(outputs)
    expected = -(share[0, 0].log() + (1 - share[0, 1]).log() + (1 - share[0, 2]).log()) / 3
    loss = OBJECTIVES["multilabel"].loss
    assert float(loss(outputs, targets)) == pytest.approx(float(expected))
    assert float(loss(outputs.repeat(4, 1), targets.repeat(4, 1))) == pytest.approx(
        4 * float(expected)
    )


def test_a_network_has_an_output_for_each_label():
    spec = NetworkSpec(size=(32, 32), classes=3, objective="multilabel")
    assert spec.build(0)(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_a_fit_learns_all_labels_and_its_protector_is_saved_whole(tmp_path):
    protector = fitted(tmp_path)
    assert protector.classes == ("effusion", "mass")
    assert protector.surrogates["slice"].spec.objective == "multilabel"
    save(protector, tmp_path / "protector")
    again = load(tmp_path / "protector")
    assert again.digest == protector.digest
    volume = phantom_volume(slices=2, seed=9)
    deltas = {}
    for label in (*LABELS, "mass;effusion"):
        found = again.apply(volume, series_uid="1.2", label=label)
        assert np.abs(found.delta).max() <= found.record.budget_stored
        deltas[label] = found.delta, found.record.digest
    assert np.array_equal(deltas["mass;effusion"][0], deltas["effusion;mass"][0])
    assert deltas["mass;effusion"][1] == deltas["effusion;mass"][1]
    assert len({digest for _, digest in deltas.values()}) == 4
    assert not np.array_equal(deltas["mass"][0], deltas["effusion"][0])
    for wrong, text in (("nodule", "none of|not one of"), (None, "needs a label")):
        with pytest.raises(NoLabel, match=text):
            again.apply(volume, series_uid="1.2", label=wrong)


def test_a_targeted_method_shows_the_contrary_of_every_label():
    target = Target(key="10", label=np.array([1, 0]))
    assert target.wanted(slice(0, 3), "slice", 0, 2).tolist() == [[1, 0]] * 3
    assert target.wanted(slice(0, 3), "slice", 1, 2).tolist() == [[0, 1]] * 3
    assert target.wanted(slice(0, 3), "volume", 1, 2).tolist() == [[0, 1]]


def test_what_makes_a_pattern_for_each_label_is_refused():
    for method in BY_LABEL:
        with pytest.raises(PlanError, match="knows no series of several labels"):
            ProtectionPlan(objective="multilabel", method=method)


def test_one_set_of_labels_is_too_few(tmp_path):
    studies = [Study(load=lambda: phantom_volume(slices=1), label=t) for t in ("a;b", "b;a")]
    with pytest.raises(NoLabel, match="with 1 different labels"):
        fit(studies, PLAN, tmp_path)


# --- audit


def spots(count: int, seed: int) -> Images:
    """Return noisy images with a bright spot on the left, the right, both or no side."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.arange(count) % 2, torch.arange(count) // 2 % 2], dim=1)
    pixels = 0.4 + 0.05 * torch.randn((count, 1, SIDE, SIDE), generator=rng)
    pixels[:, 0, 8:14, 3:9] += 0.3 * labels[:, :1, None]
    pixels[:, 0, 8:14, 15:21] += 0.3 * labels[:, 1:, None]
    return Images(pixels=pixels.clamp(0, 1), labels=labels)


def swapped(images: Images) -> Images:
    """Return images with the spots of the other labels."""
    return replace(images, pixels=0.8 - images.pixels)


def attacked(train: Images, **more: object) -> Trial:
    return trial(
        "convnet", train, validation=spots(24, 1), clean_validation=spots(24, 2),
        test=spots(60, 3), seed=5, epochs=12, **more,
    )  # fmt: skip


def test_a_victim_learns_several_labels_and_not_from_images_that_show_the_contrary():
    clean, blind = attacked(spots(80, 0)), attacked(swapped(spots(80, 0)))
    assert clean.last > 0.9
    assert clean.auc > 0.95
    assert blind.train > 0.9
    assert blind.last < 0.6


def test_scores_of_several_labels_are_means_over_labels_and_sides():
    task = TASKS["multilabel"]
    labels = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 0]])
    outputs = torch.tensor([[1.0, -1], [-1, -1], [-1, -1], [-1, 1]])
    evidence = task.evidence(outputs, labels)
    expected = ((0.5 + 1) / 2 + (0 + 2 / 3) / 2) / 2
    assert task.scored(evidence, labels) == pytest.approx(expected)
    once = torch.ones((1, 4), dtype=torch.float64)
    assert float(task.drawn(evidence, labels, once)) == pytest.approx(expected)
    twice = torch.tensor([[2.0, 0, 1, 1]], dtype=torch.float64)
    chosen = torch.tensor([0, 0, 2, 3])
    assert float(task.drawn(evidence, labels, twice)) == pytest.approx(
        task.scored(evidence[chosen], labels[chosen])
    )
    assert Draws(labels=labels, patients=torch.arange(4)).fewest == 1


def areas(outputs: Tensor, labels: Tensor) -> float:
    """Return how often a pair is in the right order, mean over labels."""
    found = []
    for label in range(labels.shape[1]):
        has, has_not = (outputs[labels[:, label] == side, label] for side in (1, 0))
        pairs = has[:, None] - has_not
        found.append(float(((pairs > 0) + 0.5 * (pairs == 0)).mean()))
    return sum(found) / len(found)


def test_the_area_of_several_labels_is_the_mean_of_each():
    rng = torch.Generator().manual_seed(2)
    outputs = torch.randn((40, 3), generator=rng)
    labels = (torch.rand((40, 3), generator=rng) < 0.3).long()
    assert TASKS["multilabel"].area(outputs, labels) == pytest.approx(areas(outputs, labels))


@pytest.mark.parametrize(
    "name", [n for n, one in COUNTERMEASURES.items() if n != "adversarial" and not one.backbone]
)
def test_countermeasures_take_several_labels_or_say_why_not(name):
    if name == "projection":
        with pytest.raises(PlanError, match="cannot be used with multilabel"):
            attacked(spots(8, 0), countermeasure=name)
        return
    few = spots(8, 0)
    found = trial(
        "convnet", few, validation=few, clean_validation=few, test=few, seed=0, epochs=1,
        countermeasure=name, clean_train=few,
    )  # fmt: skip
    assert 0 <= found.last <= 1


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 patients with lungs, a bright lesion, both or neither; the labels say which."""
    folder = tmp_path_factory.mktemp("multilabel")
    rows = ["key,label"]
    for number in range(40):
        lungs, lesion = number % 2 == 1, number // 2 % 2 == 1
        (path,) = write_ct_series(
            folder / "export" / str(number), patient_id=f"CANARY{number}", slices=1, rows=32,
            columns=32, lungs=lungs, seed=number, private=False,
        )  # fmt: skip
        if lesion:
            data = pydicom.dcmread(path)
            values = data.pixel_array.copy()
            values[20:25, 14:19] += 250
            data.PixelData = values.tobytes()
            data.save_as(path)
        names = [name for name, there in (("lungs", lungs), ("lesion", lesion)) if there]
        rows.append(f"CANARY{number},{';'.join(names) or '-'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def test_several_labels_go_from_the_file_to_what_is_shared_and_are_audited(export, tmp_path):
    labels = ["--labels", export / "labels.csv", "--labels-by=patient", "--objective=multilabel"]
    quick = ["--rounds=1", "--steps=2", "--progress=none"]
    fitted = run("fit", export / "export", "-o", tmp_path / "p", *labels, *quick)
    assert fitted.exit_code == 0, fitted.output
    assert "fitted on 40 series with labels lesion, lungs" in fitted.output
    done = run("protect", export / "export", "-o", tmp_path / "out", "--protector", tmp_path / "p",
               *labels, "-j1", "--progress=none")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Protected 40 series" in done.output
    assert run("verify", export / "export", tmp_path / "out", "--rows=1,2").exit_code == 0
    audit = ["audit", export / "export", tmp_path / "out", *labels, "--json", tmp_path / "a.json",
             "--victims=convnet", "--seeds=1", "--epochs=25", "--countermeasures=none",
             "--coverage=50,100", "--size=32", "--progress=none"]  # fmt: skip
    found = run(*audit)
    assert found.exit_code == 0, found.output
    assert "mean balanced accuracy over labels" in found.output
    document = json.loads((tmp_path / "a.json").read_text())
    assert "CANARY" not in found.output + json.dumps(document)
    data = document["data"]
    assert (data["task"], data["chance"], data["labels"]) == (
        "multilabel",
        0.5,
        ["lesion", "lungs"],
    )
    assert data["sides"]["test"]["images_by_label"] == {"lesion": 4, "lungs": 4}
    none = document["countermeasures"][0]
    assert none["clean"]["value"] > 0.8
    assert none["clean_auc"] > 0.8
    # the planted one: every image shows what the labels deny
    for path in (tmp_path / "out").rglob("*.dcm"):
        data = pydicom.dcmread(path)
        data.PixelData = (-900 - data.pixel_array).astype(np.int16).tobytes()
        data.save_as(path)
    planted = run(*audit)
    assert planted.exit_code == 0, planted.output
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["countermeasures"][0]["protected"]["value"] < 0.75


def test_a_malformed_row_leaves_its_series_out_and_a_label_of_all_is_too_few(export, tmp_path):
    rows = (export / "labels.csv").read_text().splitlines()
    rows[1:3] = ["CANARY0,lungs;;lesion", "CANARY1,lungs"]
    (tmp_path / "labels.csv").write_text("\n".join(rows[:6]))
    labels = ["--labels", tmp_path / "labels.csv", "--labels-by=patient", "--objective=multilabel"]
    done = run("fit", export / "export", "-o", tmp_path / "p", *labels, "--rounds=1", "--steps=1",
               "--progress=none")  # fmt: skip
    assert done.exit_code == 3, done.output
    assert "one of these names is empty" in done.output
    random = ["--method=random", "--progress=none", "-j1"]
    run("protect", export / "export", "-o", tmp_path / "out", *random)
    few = run("audit", export / "export", tmp_path / "out", *labels, "--victims=convnet")
    assert few.exit_code == 2
    assert "too few patients of lesion, lungs, without lesion, without lungs" in few.output


def test_masks_cannot_be_several_labels(export):
    place = export / "export"
    done = run("audit", place, place, "--masks", place, "--objective=multilabel")
    assert done.exit_code == 2
    assert "give --labels labels.csv, or --masks PATH" in done.output
