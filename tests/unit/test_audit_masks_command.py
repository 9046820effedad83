"""`salm-dicom audit --masks`: Dice of victims on small exports, and what is said of bad masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from click.testing import Result

from salm_dicom.audit import COUNTERMEASURES
from salm_dicom.audit.batches import shift_and_flip
from salm_dicom.audit.dataset import dataset
from salm_dicom.audit.experiment import Settings, planned
from salm_dicom.audit.interval import Draws
from salm_dicom.audit.run import audit
from salm_dicom.audit.split import SIDES, split
from salm_dicom.audit.subjects import Subject, View
from salm_dicom.audit.tasks import TASKS
from salm_dicom.errors import PlanError, TooFew
from salm_dicom.objectives import overlaps
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Mask
from salm_dicom.volume import StoredPixels, Volume
from tests.command import run
from tests.nifti_files import hounsfield, write_nifti_file
from tests.objects import write_segmentation
from tests.synthetic import write_ct_series

PATIENTS, SLICES, SIDE, LESION_HU = 20, 3, 32, 160
QUICK = ("--victims=unet-wide", "--seeds=1", "--epochs=40", "--countermeasures=shift_flip",
         "--coverage=50,100", "--size=32", "--slices=3", "--progress=none")  # fmt: skip


def lesion(number: int) -> np.ndarray:
    """Return the place of a disc on the first two of three slices."""
    rng = np.random.default_rng(number)
    row, column = rng.integers(11, SIDE - 11, 2)
    place = np.arange(SIDE)
    mask = np.zeros((SLICES, SIDE, SIDE), np.uint8)
    mask[:2] = (place[:, None] - row) ** 2 + (place - column) ** 2 < 14
    return mask


def brighten(path: Path, where: np.ndarray, hounsfield_units: int) -> None:
    data = pydicom.dcmread(path)
    values = data.pixel_array.copy()
    values[where] += hounsfield_units
    data.PixelData = values.tobytes()
    data.save_as(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of 20 patients with a lesion, SEG files of it, and its random control."""
    folder = tmp_path_factory.mktemp("masks")
    for number in range(PATIENTS):
        files = write_ct_series(
            folder / "export" / str(number), patient_id=f"CANARY{number}", slices=SLICES, rows=SIDE,
            columns=SIDE, lungs=False, seed=number, private=False,
        )  # fmt: skip
        for path, where in zip(files, lesion(number) > 0, strict=True):
            brighten(path, where, LESION_HU)
        write_segmentation(folder / "masks" / f"{number}.dcm", files, lesion(number))
    settings = ("--method=random", "--progress=none", "-j1")
    assert run("protect", folder / "export", "-o", folder / "out", *settings).exit_code == 0
    return folder


def audited(folder: Path, *more: object, output: str = "out", masks: str = "masks") -> Result:
    given = ("--masks", folder / masks)
    return run("audit", folder / "export", folder / output, *given, *QUICK, *more)


def test_a_planted_protection_is_found_and_the_random_control_is_none(folder, tmp_path):
    # 320 HU down, far above any budget: what is learned to be a lesion is dark there, not bright
    shutil.copytree(folder / "out", tmp_path / "out")
    by_uid = {}
    for number in range(PATIENTS):
        for path in (folder / "export" / str(number)).iterdir():
            index = int(path.stem[2:]) - 1
            by_uid[pydicom.dcmread(path).SOPInstanceUID] = lesion(number)[index] > 0
    for path in (tmp_path / "out").rglob("*.dcm"):
        source = pydicom.dcmread(path).SourceImageSequence[-1].ReferencedSOPInstanceUID
        brighten(path, by_uid[source], -2 * LESION_HU)
    for name in ("export", "masks"):
        (tmp_path / name).symlink_to(folder / name)
    found = {}
    for name, place in (("control", folder), ("planted", tmp_path)):
        file = tmp_path / f"{name}.json"
        result = audited(place, "--json", file, "--require=0.5", "--plots", tmp_path / name)
        assert "CANARY" not in result.output + file.read_text()
        found[name] = result, json.loads(file.read_text())
    result, document = found["control"]
    assert result.exit_code == 5, result.output
    assert "Scores: mean Dice on clean images of patients that no victim has seen" in result.output
    assert "Classes of masks: Liver" in result.output
    none = document["countermeasures"][0]
    assert none["clean"]["value"] > 0.8
    assert none["protection"]["high"] < 0.3
    assert none["verdict"].startswith("not protected")
    assert none["clean_auc"] is None
    result, document = found["planted"]
    none = document["countermeasures"][0]
    assert none["protection"]["low"] > 0.8, result.output
    assert none["verdict"].startswith("protected")
    assert document["coverage"][1]["protected"]["value"] > none["protected"]["value"]
    data = document["data"]
    assert (data["task"], data["score"], data["labels"]) == ("segmentation", "Dice", ["Liver"])
    assert data["sides"]["train"] == {
        "patients": 12, "images": 36, "images_by_label": {"Liver": 24}
    }  # fmt: skip
    assert "Dice on clean test images" in (tmp_path / "planted" / "coverage.svg").read_text()
    assert document["settings"]["victims"] == ["unet-wide"]


def test_two_processes_find_what_one_does(folder, tmp_path):
    results = []
    for jobs in (1, 2):
        path = tmp_path / f"{jobs}.json"
        done = audited(folder, "--json", path, "-j", jobs, "--epochs=2", "--coverage=100")
        assert done.exit_code == 0, done.output
        document = json.loads(path.read_text())
        results.append({k: document[k] for k in ("countermeasures", "utility", "victims")})
    assert results[0] == results[1]


def test_series_without_a_mask_are_listed_and_those_of_another_geometry_too(folder, tmp_path):
    shutil.copytree(folder / "masks", tmp_path / "masks")
    (tmp_path / "masks" / "0.dcm").unlink()
    (tmp_path / "masks" / "1.dcm").unlink()
    uid = pydicom.dcmread(folder / "export" / "1" / "IM00001.dcm").SeriesInstanceUID
    write_nifti_file(tmp_path / "masks" / f"{uid}.nii", hounsfield(seed=1), modality=None)
    for name in ("export", "out"):
        (tmp_path / name).symlink_to(folder / name)
    done = audited(tmp_path, "--epochs=1", "--json", tmp_path / "audit.json")
    assert done.exit_code == 3, done.output
    assert "no SEG, RTSTRUCT or NIfTI mask marks this series" in done.output
    assert "its NIfTI mask lies on another grid" in done.output
    left_out = json.loads((tmp_path / "audit.json").read_text())["data"]["left_out"]
    assert left_out == {"E_NO_LABEL": SLICES, "E_GEOMETRY": SLICES}


def test_an_audit_wants_labels_or_masks_and_masks_that_are_there(folder, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("key,label\nx,y\n")
    (tmp_path / "empty").mkdir()
    both = audited(folder, "--labels", labels)
    assert both.exit_code == 2
    assert "give --labels labels.csv, or --masks PATH alone" in both.output
    none = run("audit", folder / "export", folder / "out", "--masks", tmp_path / "empty")
    assert none.exit_code == 2
    assert "no SEG, RTSTRUCT or NIfTI mask is where the masks should be" in none.output
    wrong = audited(folder, "--victims=convnet")
    assert wrong.exit_code == 2
    assert "known are unet-wide, attention-unet, segresnet" in wrong.output
    moving = audited(folder, "--countermeasures=mixup")
    assert moving.exit_code == 2
    assert "mixup cannot be used with segmentation" in moving.output


def test_one_patient_is_too_few_and_the_message_says_how_many_are_needed(folder, tmp_path):
    shutil.copytree(folder / "export" / "0", tmp_path / "export" / "0")
    for name in ("out", "masks"):
        (tmp_path / name).symlink_to(folder / name)
    done = audited(tmp_path)
    assert done.exit_code == 2
    assert "1 patients with masks were found, and no class is marked in 3 of them (Liver: 1)" in (
        done.output
    )


def subject(number: int, classes: dict[str, int], slices: int = 4) -> Subject:
    """Return a patient whose classes are squares at the rows said, on every second slice."""
    values = np.full((slices, 24, 24), -1000, np.int16)
    values[:, 2:22, 2:22] = 40 + number
    values[:, 3, 3] = 1500
    pixels = StoredPixels(
        values=values, slope=np.ones(slices), intercept=np.zeros(slices), bits_stored=16,
        signed=True,
    )  # fmt: skip
    regions = {}
    for name, row in classes.items():
        regions[name] = np.zeros(values.shape, bool)
        regions[name][::2, row : row + 4, 5:9] = True
    return Subject(
        patient=f"p{number}",
        load=lambda: (Volume(pixels=pixels, affine=np.eye(4), modality="CT"), pixels),
        mask=lambda: Mask.of(regions, values.shape),
    )


VIEW = View(
    plan=ProtectionPlan(
        method="random", objective="segmentation", slice_size=(24, 24), volume_size=(4, 24, 24)
    ),
    slices=3,
)


def test_classes_are_numbered_alike_in_all_patients_and_rare_ones_are_none():
    found = [subject(n, {"kidney": 4, "spleen": 12}) for n in range(6)]
    found += [subject(6, {"spleen": 12}), subject(7, {"adrenal": 4}), subject(8, {})]
    data = dataset(found, VIEW)
    assert (data.classes, data.rare) == (("kidney", "spleen"), ("adrenal",))
    patients = []
    for side in data.sides().values():
        patients += set(side.patients.tolist())
        assert side.shows.any(0).tolist() == [True, True]
        for mask, patient in zip(side.clean.labels, side.patients.tolist(), strict=True):
            assert not (mask.any() and patient in (7, 8))
            if mask.any():
                assert set(mask[0, 4:8, 5:9].unique().tolist()) == {int(patient < 6)}
                assert set(mask[0, 12:16, 5:9].unique().tolist()) == {2}
    assert sorted(patients) == list(range(9))


def test_slices_that_show_a_class_come_first_and_some_without_are_there_too():
    data = dataset([subject(n, {"kidney": 4}, slices=8) for n in range(5)], VIEW)
    shown = data.train.shows[:, 0].reshape(-1, 3)
    assert shown.sum(1).tolist() == [2] * len(shown)


def test_volumes_take_their_masks_along():
    view = View(plan=ProtectionPlan(**{**VIEW.plan.to_dict(), "extent": "volume"}))
    data = dataset([subject(n, {"kidney": 4}) for n in range(5)], view)
    assert data.train.clean.labels.shape == (3, 1, 4, 24, 24)
    assert data.train.clean.labels[:, 0, ::2, 4:8, 5:9].all()
    assert not data.train.clean.labels[:, 0, 1::2].any()


def test_masks_that_are_all_empty_are_too_few_and_say_so():
    with pytest.raises(TooFew, match="every mask is empty as victims see it"):
        dataset([subject(n, {}) for n in range(5)], VIEW)


def test_settings_and_view_of_different_tasks_are_refused():
    settings = Settings(victims=("convnet",), countermeasures=("none",))
    with pytest.raises(PlanError, match="classification, the view for segmentation"):
        audit([subject(0, {"kidney": 4})], settings, VIEW)
    with pytest.raises(PlanError, match="cannot be used with segmentation"):
        Settings(victims=("unet-wide",), countermeasures=("cutmix",), task="segmentation")
    known = [n for n, one in COUNTERMEASURES.items() if "segmentation" in one.tasks]
    masks = Settings(
        victims=("unet-wide",), countermeasures=tuple(known), task="segmentation",
        weights=Path("weights"),
    )  # fmt: skip
    assert planned(masks, dataset([subject(n, {"kidney": 4}) for n in range(5)], VIEW))


def test_patients_without_a_label_are_dealt_out_too():
    labels = {f"p{n}": frozenset("a" if n < 20 else "") for n in range(30)}
    sides = split(labels, needed=1)
    assert [sum(sides[f"p{n}"] == s for n in range(20, 30)) for s in SIDES] == [6, 2, 2]


def test_masks_move_with_their_images():
    rng = torch.Generator().manual_seed(0)
    masks = (torch.rand((16, 1, 28, 28), generator=rng) < 0.3).long() * 3
    moved, wanted = shift_and_flip(masks / 3, masks, rng, lambda x: x)
    assert torch.equal(moved, wanted / 3)
    assert wanted.dtype == torch.int64
    assert not torch.equal(wanted, masks)


def test_draws_of_masks_are_the_dice_of_the_patients_drawn():
    rng = torch.Generator().manual_seed(1)
    masks = (torch.rand((6, 1, 8, 8), generator=rng) < 0.4).long()
    found = (torch.rand((6, 1, 8, 8), generator=rng) < 0.4).long()
    outputs = torch.nn.functional.one_hot(found[:, 0], 2).movedim(-1, 1)
    task = TASKS["segmentation"]
    evidence = task.evidence(outputs, masks)
    draws = Draws(labels=masks, patients=torch.tensor([0, 0, 1, 1, 2, 2]))
    scores = draws.scores(evidence[None])
    for weights, value in zip(draws.weights[:5], scores[:5], strict=True):
        chosen = torch.repeat_interleave(torch.arange(6), weights.long())
        both = (
            2 * (found[chosen] * masks[chosen]).sum() / (found[chosen].sum() + masks[chosen].sum())
        )
        assert value == pytest.approx(float(both))
    assert draws.fewest == 3


def test_a_mask_in_nifti_is_read_for_a_nifti_image(tmp_path):
    affine = np.diag([0.8, 0.8, 3, 1.0])
    for number in range(5):
        write_nifti_file(
            tmp_path / "in" / f"sub-{number}" / "ct.nii.gz", hounsfield(seed=number), affine=affine
        )
        mask = np.zeros((48, 40, 3), np.uint8)
        mask[20:30, 10:20, :2] = 1
        path = tmp_path / "masks" / f"sub-{number}" / "ct_seg.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(mask, affine), path)
    settings = ("--method=random", "--progress=none", "-j1")
    done = run("protect", tmp_path / "in", "-o", tmp_path / "out", *settings)
    assert done.exit_code == 3, done.output  # the sidecars stay outside
    done = run("audit", tmp_path / "in", tmp_path / "out", "--masks", tmp_path / "masks", *QUICK,
               "--epochs=1", "--json", tmp_path / "a.json")  # fmt: skip
    assert done.exit_code == 3, done.output
    data = json.loads((tmp_path / "a.json").read_text())["data"]
    assert data["labels"] == ["label 1"]
    assert data["sides"]["train"]["images_by_label"] == {"label 1": 6}


def test_evidence_of_masks_counts_as_the_surrogates_error_does():
    rng = torch.Generator().manual_seed(4)
    masks = torch.randint(0, 4, (5, 1, 3, 8, 8), generator=rng)
    outputs = torch.randn((5, 4, 3, 8, 8), generator=rng)
    evidence = TASKS["segmentation"].evidence(outputs, masks)
    assert evidence.shape == (5, 3, 2)
    assert torch.equal(evidence.sum(0), overlaps(outputs, masks))
    each = [overlaps(outputs[i : i + 1], masks[i : i + 1]) for i in range(5)]
    assert torch.equal(evidence, torch.stack(each))
    unknown = TASKS["segmentation"].evidence(outputs[:, :3], masks)
    assert torch.equal(unknown.sum(0), overlaps(outputs[:, :3], masks))
