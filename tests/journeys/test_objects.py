"""Whole studies of real data: objects beside images, judged, opened by highdicom, indexed."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import pydicom
import pytest
from click.testing import CliRunner
from pydicom.fileset import FileSet

from salm_dicom.cli.main import main
from tests.journeys.test_judge import masks
from tests.objects import references

CODES = (0, 3)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code in CODES, result.output
    return result.output


def protected(source: Path, output: Path) -> str:
    return run("protect", source, "-o", output, "--method", "random", "--progress", "none")


@pytest.fixture
def study(shared, tmp_path) -> Path:
    """CT with segmentations, and every object there is beside them."""
    source = tmp_path / "source"
    shutil.copytree(shared / "data" / "ct_with_seg_sr", source)
    shutil.copytree(shared / "data" / "nonimage_objects", source / "more")
    return source


def sop_uid(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def mirrored(source: Path, output: Path, work: Path) -> tuple[Path, Path]:
    """Return source and output side by side under the source's names.

    The judge pairs what names no source image by its path.
    """
    table = sqlite3.connect(f"{output}.vault/uids.sqlite")
    old = dict(table.execute("SELECT new, old FROM uids"))
    places: dict[str, Path] = {}
    for path in (p for p in source.rglob("*") if p.is_file()):
        try:
            places[sop_uid(path)] = path.relative_to(source)
        except (pydicom.errors.InvalidDicomError, AttributeError):
            continue
    for path in (p for p in output.rglob("*") if p.suffix != ".json" and p.name != "DICOMDIR"):
        if path.is_file():
            place = places[old[sop_uid(path)]]
            for side, original in (("source", source / place), ("protected", path)):
                (work / side / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(original, work / side / place)
    return work / "source", work / "protected"


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_judge_passes_a_whole_study_with_its_objects(shared, study, tmp_path):
    output = tmp_path / "out"
    assert "Copied 14 objects" in protected(study, output)
    sides = mirrored(study, output, tmp_path / "sides")
    judge = [sys.executable, shared / "checks" / "dicom_diff_check.py", *sides]
    limits = ["--masks", masks(sides[0], tmp_path / "masks.npz")]
    done = subprocess.run([*judge, *limits], capture_output=True, text=True, check=False)
    assert "17 pairs" in done.stdout, done.stdout
    assert "RESULT PASS" in done.stdout, done.stdout


def test_a_protected_segmentation_opens_and_leads_to_the_protected_images(study, tmp_path):
    output = tmp_path / "out"
    protected(study, output)
    files = {sop_uid(path): path for path in output.rglob("*.dcm")}
    images = {uid for uid, path in files.items() if pydicom.dcmread(path).Modality == "CT"}
    assert len(images) == 3
    opened = 0
    for path in files.values():
        dataset = pydicom.dcmread(path)
        if dataset.Modality != "SEG" or dataset.StudyInstanceUID != _study_of(files, images):
            continue
        segmentation = hd.seg.segread(path)
        named = {str(uid) for _, _, uid in segmentation.get_source_image_uids()}
        assert named <= images
        assert references(dataset) <= images
        frames = segmentation.get_pixels_by_source_instance(
            sorted(named), ignore_spatial_locations=True
        )
        assert frames.any()
        opened += 1
    assert opened == 2
    assert "14 objects: copied" in run("verify", study, output, "--progress=none")


def _study_of(files: dict[str, Path], images: set[str]) -> str:
    (uid,) = {str(pydicom.dcmread(files[one]).StudyInstanceUID) for one in images}
    return uid


def test_the_report_of_a_protected_study_leads_to_its_protected_segmentation(study, tmp_path):
    output = tmp_path / "out"
    protected(study, output)
    by_class = {}
    for path in output.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        by_class.setdefault(dataset.Modality, []).append(dataset)
    source = {m: pydicom.dcmread(study / "sr" / f"{m}.dcm") for m in ("sr", "seg", "rwvm")}
    uids = {m: str(dataset.SOPInstanceUID) for m, dataset in source.items()}
    (report,) = [d for d in by_class["SR"] if d.StudyInstanceUID == source["sr"].StudyInstanceUID]
    named = {m for m in ("seg", "rwvm") if uids[m] in references(source["sr"])}
    assert named, "the source's report names one of them"
    there = {str(d.SOPInstanceUID) for d in (*by_class["SEG"], *by_class["RWV"])}
    assert len(references(report) & there) == len(named)
    assert not references(report) & set(uids.values())


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_media_export_gets_a_dicomdir_that_programs_read(shared, tmp_path):
    source, output = shared / "data" / "pacs_export_dicomdir", tmp_path / "out"
    said = protected(source, output)
    images = [p for p in output.glob("PT*/**/*") if p.is_file()]
    assert len(images) > 20
    assert f"Made a DICOMDIR of {len(images)} instances" in said
    index = output / "DICOMDIR"
    done = subprocess.run(["dcmdump", index], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count('Record" IMAGE')) == (0, len(images))
    done = subprocess.run(["dciodvfy", index], capture_output=True, text=True, check=False)
    assert "Error" not in done.stderr + done.stdout
    made = {str(one.SOPInstanceUID) for one in FileSet(index)}
    assert made == {sop_uid(path) for path in images}
    assert run("verify", source, output, "--progress=none")
    sides = mirrored(source, output, tmp_path / "sides")
    judge = [sys.executable, shared / "checks" / "dicom_diff_check.py", *sides]
    done = subprocess.run(judge, capture_output=True, text=True, check=False)
    assert "RESULT PASS" in done.stdout, done.stdout
