"""Objects through the whole batch: references, resume, settle, verify, restore, the DICOMDIR."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from pydicom.fileset import FileSet

from salm_dicom.batch import job as job_module
from salm_dicom.batch import objects as objects_module
from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.restore import restore
from salm_dicom.batch.verified import Verification
from salm_dicom.batch.verify import verify
from salm_dicom.cli.main import main
from salm_dicom.errors import DiskFull, NoChange
from salm_dicom.fidelity import Limits
from salm_dicom.plan import ProtectionPlan
from tests.objects import KEY_OBJECTS, references, write_report, write_segmentation
from tests.synthetic import uid, write_ct_series

CREATED = datetime(2026, 1, 2, tzinfo=UTC)
LOOSE = Limits.none()


def request(export: Path, out: str = "out", **changes) -> Request:
    settings = {
        "source": export, "output": export.parent / out, "vault": export.parent / f"{out}.vault",
        "plan": ProtectionPlan(method="random"), "protector": None, "labels": None,
        "created": CREATED, "site_key": b"k" * 16,
    }  # fmt: skip
    return Request(**settings | changes)


def verified(export: Path, out: str = "out") -> Verification:
    return verify(export, export.parent / out, LOOSE)


def everything_right(found: Verification, objects: int = 4) -> bool:
    wrong = [one for series in found.series for one in series.findings]
    wrong += [*found.strange, *found.objects.findings]
    assert wrong == []
    return found.objects.right == objects and not found.absent and not found.objects.absent


def pointing(paths: list[Path], at: list[Path]) -> None:
    """Let images point at others, as axial slices do at their localizer."""
    for path in paths:
        image = pydicom.dcmread(path)
        items = []
        for one in map(pydicom.dcmread, at):
            item = pydicom.Dataset()
            item.ReferencedSOPClassUID = one.SOPClassUID
            item.ReferencedSOPInstanceUID = one.SOPInstanceUID
            items.append(item)
        image.ReferencedImageSequence = items
        image.SourceImageSequence = items
        image.save_as(path)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A localizer, a series that points at it, objects that point at both and at each other."""
    export = tmp_path_factory.mktemp("template") / "export"
    shared = {"study_uid": uid("study"), "patient_id": "SYN001"}
    localizer = write_ct_series(export / "a", slices=1, series_number=1, **shared)
    series = write_ct_series(export / "b", slices=3, series_number=2, seed=1, **shared)
    pointing(series, localizer)
    write_segmentation(export / "c" / "seg.dcm", series)
    write_report(export / "c" / "report.dcm", [*series, *localizer, export / "c" / "seg.dcm"])
    write_report(export / "c" / "second.dcm", series, text="Nothing", number=2)
    keys = [series[0], export / "c" / "report.dcm"]
    write_report(export / "c" / "keys.dcm", keys, sop_class=KEY_OBJECTS)
    protect(request(export))
    return export


@pytest.fixture
def study(template, tmp_path) -> Path:
    """The study, not protected yet."""
    shutil.copytree(template, tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture
def done(template, tmp_path) -> Path:
    """The study, protected."""
    shutil.copytree(template.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "export"


def contents(folder: Path) -> dict[str, pydicom.Dataset]:
    """Return the instances of a folder by SOP Instance UID."""
    found = [
        pydicom.dcmread(p) for p in sorted(folder.rglob("*")) if p.suffix != ".json" and p.is_file()
    ]
    return {str(one.SOPInstanceUID): one for one in found}


def loose_ends(folder: Path) -> set[str]:
    """Return what the instances of an output point at that is not in it, but for their source."""
    inside = contents(folder)
    found: set[str] = set()
    for one in inside.values():
        if "PixelData" in one and one.Modality == "CT":
            one.SourceImageSequence = one.SourceImageSequence[:-1]
        found |= references(one)
    return found - inside.keys()


def test_every_reference_of_a_study_leads_to_its_protected_instance(study):
    result = protect(request(study))
    out = study.parent / "out"
    kinds = ["key object selection", "report", "report", "segmentation"]
    assert sorted(one.kind for one in result.copied) == kinds
    assert (len(result.done), result.left_out) == (2, ())
    assert loose_ends(out) == set()
    assert not contents(out).keys() & contents(study).keys()
    assert everything_right(verified(study))
    manifest = json.loads((out / "manifest.json").read_text())
    assert [one["kind"] for one in manifest["objects"]] == [one.kind for one in result.copied]
    folders = {one.name.rpartition("/")[0] for one in result.copied}
    assert folders == {f"patient-0001/study-01/series-00{n}" for n in (3, 4, 5)}


def test_a_second_run_does_nothing_twice_and_a_new_one_gives_the_same_bytes(study):
    protect(request(study))
    out = study.parent / "out"
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*.dcm")}
    result = protect(request(study))
    assert (len(result.copied), result.resumed) == (4, 2)
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*.dcm")}
    protect(request(study, "again", jobs=2))
    again = study.parent / "again"
    assert {p.relative_to(out): data for p, (_, data) in before.items()} == {
        p.relative_to(again): p.read_bytes() for p in again.rglob("*.dcm")
    }


def test_a_copy_that_is_gone_is_made_again(done):
    copy = next(
        p for p in (done.parent / "out").rglob("*.dcm") if pydicom.dcmread(p).Modality == "KO"
    )
    data = copy.read_bytes()
    copy.unlink()
    protect(request(done))
    assert copy.read_bytes() == data


def test_references_to_a_series_that_failed_stay_with_its_source_until_it_is_protected(
    study, monkeypatch
):
    real = job_module._run

    def fail(job):
        if job.paths[0].parent.name == "a":
            raise NoChange("nothing to change")
        return real(job)

    (localizer,) = contents(study / "a")
    monkeypatch.setattr(job_module, "_run", fail)
    assert [e.code for e in protect(request(study)).left_out] == ["E_NO_CHANGE"]
    assert loose_ends(study.parent / "out") == {localizer}
    found = verified(study)
    assert (found.absent, found.objects.right) == (1, 4)
    assert not [one for series in found.series for one in series.findings]
    monkeypatch.undo()
    assert protect(request(study)).left_out == ()
    assert loose_ends(study.parent / "out") == set()
    assert everything_right(verified(study))
    back = restore(study.parent / "out", study.parent / "out.vault", study.parent / "back")
    assert (back.identical, back.failed) == (8, ())


def test_an_object_that_comes_before_its_images_is_written_anew_when_they_come(study):
    aside = study.parent / "aside"
    shutil.move(study / "b", aside)
    protect(request(study))
    missing = set(contents(aside))
    assert loose_ends(study.parent / "out") == missing
    shutil.move(aside, study / "b")
    protect(request(study))
    assert loose_ends(study.parent / "out") == set()
    assert everything_right(verified(study))
    found = restore(study.parent / "out", study.parent / "out.vault", study.parent / "back")
    assert (found.identical, found.failed) == (8, ())


def test_restore_gives_every_object_back_byte_for_byte(done):
    found = restore(done.parent / "out", done.parent / "out.vault", done.parent / "back")
    assert (found.identical, found.recompressed, found.failed) == (8, 0, ())
    back = {p.read_bytes() for p in (done.parent / "back").rglob("*.dcm")}
    assert back == {p.read_bytes() for p in done.rglob("*.dcm")}


def test_a_changed_copy_and_a_missing_one_are_not_restored(done):
    out = done.parent / "out"
    (seg, _), (report, _) = of_kind(done, "SEG"), of_kind(done, "SR")
    data = bytearray(seg.read_bytes())
    data[data.index(b"\xe0\x7f\x10\x00") + 40] ^= 1
    seg.write_bytes(data)
    report.unlink()
    found = restore(out, done.parent / "out.vault", done.parent / "back")
    assert {path for path, _ in found.failed} == {seg, report}
    assert found.identical == 6


def of_kind(study: Path, modality: str) -> tuple[Path, pydicom.Dataset]:
    files = ((p, pydicom.dcmread(p)) for p in sorted((study.parent / "out").rglob("*.dcm")))
    return next((p, one) for p, one in files if one.Modality == modality)


@pytest.mark.parametrize("fault", ["old", "other", "series", "text", "own", "foreign"])
def test_verify_finds_a_planted_fault(done, fault):
    path, copy = of_kind(done, "KO")
    item = copy.ContentSequence[0].ReferencedSOPSequence[0]
    if fault == "old":
        item.ReferencedSOPInstanceUID = next(iter(contents(done / "b")))
    elif fault == "other":
        item.ReferencedSOPInstanceUID = (
            copy.ContentSequence[1].ReferencedSOPSequence[0]["ReferencedSOPInstanceUID"].value
        )
    elif fault == "series":
        copy.SeriesInstanceUID = pydicom.dcmread(done / "c" / "keys.dcm").SeriesInstanceUID
    elif fault == "text":
        copy.ContentSequence[-1].TextValue = "cancer"
    elif fault == "own":
        copy.SOPInstanceUID = pydicom.dcmread(done / "c" / "keys.dcm").SOPInstanceUID
        copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    else:
        copy.StudyDescription = "of somebody else"
    copy.save_as(path)
    found = verified(done)
    assert {p for p, _ in found.objects.findings} >= {path}
    result = CliRunner().invoke(
        main, ["verify", str(done), str(done.parent / "out"), "--progress=none"]
    )
    assert result.exit_code == 9, result.output
    assert "cancer" not in result.output


def test_verify_finds_an_image_that_still_points_at_an_unprotected_one(done):
    (folder,) = {p.parent for p in done.parent.glob("out/*/*/*/00003.dcm")}
    path = folder / "00001.dcm"
    image = pydicom.dcmread(path)
    image.ReferencedImageSequence[0].ReferencedSOPInstanceUID = next(iter(contents(done / "a")))
    image.save_as(path)
    found = verified(done)
    assert "REFERENCE" in {one.code for series in found.series for one in series.findings}


def test_an_object_that_cannot_be_copied_is_listed_and_the_rest_is_copied(study):
    path = study / "c" / "keys.dcm"
    keys = pydicom.dcmread(path)
    keys.PixelData = b"\0\0"
    keys["PixelData"].VR = "OW"
    keys.save_as(path)
    result = protect(request(study))
    assert [(e.path, e.code) for e in result.left_out] == [(path, "E_UNSUPPORTED_PIXELS")]
    assert len(result.copied) == 3
    assert verified(study).objects.absent == 1


def test_a_full_disk_while_copying_ends_the_run_and_a_second_one_finishes(study, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(objects_module, "write_kept_object", full)
    with pytest.raises(DiskFull, match="0 of 4 objects"):
        protect(request(study))
    monkeypatch.undo()
    assert len(protect(request(study)).copied) == 4
    assert everything_right(verified(study))


def test_an_export_of_objects_alone_has_nothing_to_do_and_says_so(study):
    shutil.rmtree(study / "a")
    shutil.rmtree(study / "b")
    result = protect(request(study))
    assert {e.code for e in result.left_out} == {"E_NOT_IMAGE"}
    assert len(result.left_out) == 4
    assert not (study.parent / "out").exists()


def test_the_command_line_counts_objects_and_says_what_they_are(study):
    run = CliRunner().invoke(main, ["scan", str(study)])
    assert run.exit_code == 0
    assert "4 objects would be copied, references mapped: 1 key object selection" in run.output
    run = CliRunner().invoke(main, ["scan", str(study), "--json"])
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert sorted(one["kind"] for one in lines if one["type"] == "object") == [
        "key object selection", "report", "report", "segmentation",
    ]  # fmt: skip
    arguments = ["protect", str(study), "-o", str(study.parent / "out"), "--method=random"]
    run = CliRunner().invoke(main, [*arguments, "--progress=none"])
    assert run.exit_code == 0, run.output
    assert "Copied 4 objects" in run.output
    run = CliRunner().invoke(main, [*arguments, "--progress=none", "--json"])
    (summary,) = [
        one for one in map(json.loads, run.stdout.splitlines()) if one["type"] == "summary"
    ]
    assert summary["objects"] == {"key object selection": 1, "report": 2, "segmentation": 1}


def test_a_dicomdir_is_made_anew_with_names_that_media_allow(study):
    index = pydicom.fileset.FileSet()
    for path in study.rglob("*.dcm"):
        index.add(path)
    index.write(study.parent / "media")
    result = protect(request(study.parent / "media"))
    out = study.parent / "out"
    assert (result.index.instances, result.index.lacking) == (8, 0)
    assert result.left_out == ()
    made = FileSet(out / "DICOMDIR")
    assert {Path(one.path).relative_to(out) for one in made} == {
        p.relative_to(out) for p in out.rglob("*") if p.is_file() and p.parent != out
    }
    assert {str(one.SOPInstanceUID) for one in made} == contents(out / "PT000001").keys()
    assert all(len(part) == 8 for one in made for part in Path(one.path).relative_to(out).parts)
    assert everything_right(verified(study.parent / "media"))
    data = (out / "DICOMDIR").read_bytes()
    protect(request(study.parent / "media"))
    assert (out / "DICOMDIR").read_bytes() == data
    found = restore(out, study.parent / "out.vault", study.parent / "back")
    assert (found.identical, found.failed) == (8, ())


def test_verify_finds_a_dicomdir_that_names_what_is_not_there(study):
    index = pydicom.fileset.FileSet()
    for path in study.rglob("*.dcm"):
        index.add(path)
    index.write(study.parent / "media")
    protect(request(study.parent / "media"))
    out = study.parent / "out"
    (third,) = out.glob("PT000001/ST000001/*/IM000003")
    first, second = (third.with_name(f"IM00000{n}") for n in (1, 2))
    data = second.read_bytes()
    second.write_bytes(first.read_bytes())
    first.write_bytes(data)
    third.unlink()
    reasons = [reason for _, reason in verified(study.parent / "media").strange]
    assert sorted(reasons) == [
        "names a file that is not there",
        "names another instance than its file is",
        "names another instance than its file is",
    ]


def test_an_output_begun_without_a_dicomdir_lists_one_that_comes_later(done):
    index = pydicom.fileset.FileSet()
    index.add(next((done / "a").iterdir()))
    index.write(done.parent / "media")
    shutil.copy(done.parent / "media" / "DICOMDIR", done)
    (entry,) = protect(request(done)).left_out
    assert (entry.path.name, entry.code) == ("DICOMDIR", "E_NOT_IMAGE")
    assert not (done.parent / "out" / "DICOMDIR").exists()
