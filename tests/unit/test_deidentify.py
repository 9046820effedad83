"""De-identification: nothing of a patient is left but pixels, and everything else still works."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner, Result
from pydicom.dataset import Dataset

from salm_dicom.cli.main import main
from salm_dicom.dicom import deidentify
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.dicom.pixels import stored_values
from tests.journeys.test_canary import DIGITS, MARK, with_canaries
from tests.nifti_files import write_nifti_file
from tests.objects import references, write_report, write_segmentation
from tests.synthetic import SYNTAXES, write_ct_series
from tests.synthetic_frames import EnhancedRecipe, stack, write_enhanced

CLEAN = Deidentifier(b"k" * 32)
# What PS3.15 leaves in and no rule of the library takes: codes and numbers of the acquisition.
VALUES = [value.encode() for value in DIGITS.values()]


def run(*words: object, status: int = 0) -> Result:
    names = [str(word) for word in words]
    if words[0] in ("protect", "verify", "restore"):
        names.append("--progress=none")
    found = CliRunner().invoke(main, names)
    assert found.exit_code == status, found.output
    return found


def protect(source: Path, out: Path, *more: object, status: int = 0) -> Result:
    words = ("protect", source, "-o", out, "--method=random", "-j1", "--deidentify", *more)
    return run(*words, status=status)


def canaried(paths: list[Path]) -> list[Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            with_canaries(pydicom.dcmread(path)).save_as(path)
    return paths


def uids(dataset: Dataset) -> Iterator[str]:
    for element in dataset.iterall():
        if element.VR == "UI":
            yield from ([element.value] if element.VM == 1 else element.value or [])


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
def test_pixels_stay_and_names_dates_private_elements_and_uids_go(tmp_path, syntax):
    paths = write_ct_series(tmp_path, slices=1, rows=32, columns=32, transfer_syntax=syntax)
    for path in canaried(paths):
        source = read(path)
        clean = CLEAN(source)
        assert (stored_values(clean) == stored_values(source)).all()
        assert clean.value(0x7FE00010) == source.value(0x7FE00010)
        assert clean.transfer_syntax == source.transfer_syntax
        dataset = clean.dataset
        assert dataset.PatientID == dataset.PatientName == CLEAN.pseudonym(f"{MARK}PATIENT")
        assert not any(element.tag.is_private for element in dataset.iterall())
        old = {uid for uid in uids(source.dataset) if not uid.startswith("1.2.840.10008.")}
        assert old
        assert not old & set(uids(dataset))
        assert dataset.StudyInstanceUID == CLEAN.uid(source.dataset.StudyInstanceUID)
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert "dicom-anonymizer" in dataset.DeidentificationMethod[0]
        for name in ("Rows", "PixelSpacing", "ImagePositionPatient", "RescaleSlope", "Modality"):
            assert dataset[name] == source.dataset[name]
        header = clean.data[: next(s.start for s in clean.spans if s.tag == 0x7FE00010)]
        assert not any(value in header for value in VALUES)
        assert clean.data[:128] == bytes(128)


def test_every_attribute_of_the_profile_is_clean_at_any_depth(tmp_path):
    from dicomanonymizer.simpledicomanonymizer import initialize_actions

    (path,) = canaried(write_ct_series(tmp_path, slices=1, rows=32, columns=32))
    source, inner, inmost = pydicom.dcmread(path), Dataset(), Dataset()
    inmost.PatientName = inmost.InstitutionName = f"{MARK}DEEP"
    inmost.ReferencedSOPInstanceUID, inmost.CodeValue = "1.2.3.4", "113691"
    inner.ConceptCodeSequence = [inmost]
    source.CTDIPhantomTypeCodeSequence = [inner]  # no rule is about it
    source.save_as(path)
    dataset = CLEAN(read(path)).dataset
    deep = dataset.CTDIPhantomTypeCodeSequence[0].ConceptCodeSequence[0]
    assert deep.CodeValue == "113691"
    assert deep.ReferencedSOPInstanceUID == CLEAN.uid("1.2.3.4")
    assert MARK not in str(deep)
    rules = {tag for tag in initialize_actions(deidentify.RULES_OF) if len(tag) == 2}
    dirty = [
        str(element.tag)
        for element in dataset.iterall()
        if (element.tag.group, element.tag.element) in rules and MARK in str(element.value)
    ]
    assert dirty == []
    names = [e for e in dataset.iterall() if e.VR == "PN" and MARK in str(e.value)]
    assert names == []


def test_the_same_key_gives_the_same_and_another_key_another(tmp_path):
    (path,) = write_ct_series(tmp_path, slices=1, rows=32, columns=32)
    assert CLEAN(read(path)).data == CLEAN(read(path)).data
    other = Deidentifier(b"o" * 32)
    assert other.uid("1.2.3") != CLEAN.uid("1.2.3")
    assert other.pseudonym("a") != CLEAN.pseudonym("a") != CLEAN.pseudonym("b")
    assert CLEAN.uid("1.2.840.10008.1.2") == "1.2.840.10008.1.2"


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "in"
    images = canaried(write_ct_series(folder / "ct", slices=3, rows=48, columns=48))
    write_segmentation(folder / "seg.dcm", images)
    write_report(folder / "sr.dcm", images, text=f"{MARK}REPORT")
    write_enhanced(folder / "enhanced" / "a.dcm", EnhancedRecipe(frames=stack(3), seed=4))
    write_nifti_file(folder / "a.nii", descrip=MARK.encode())
    return folder


def test_a_whole_export_is_deidentified_protected_verified_and_restored(source, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back"
    found = protect(source, out, status=3)
    assert found.output.count("E_NOT_DEIDENTIFIED") == 2
    manifest = json.loads((out / "manifest.json").read_text())
    assert "dicom-anonymizer" in manifest["deidentified"]
    originals = {str(uid) for p in source.rglob("*.dcm") for uid in uids(pydicom.dcmread(p))}
    originals = {uid for uid in originals if not uid.startswith("1.2.840.10008.")}
    files = [pydicom.dcmread(path) for path in sorted(out.rglob("*.dcm"))]
    assert len(files) == 5
    for dataset in files:
        assert not originals & set(uids(dataset))
        assert dataset.DeidentificationMethod
    images = {str(f.SOPInstanceUID) for f in files if f.Modality == "CT"}
    (segmentation,) = [f for f in files if f.Modality == "SEG"]
    ct = {str(f.SOPInstanceUID) for f in files if f.Modality == "CT" and "NumberOfFrames" not in f}
    assert references(segmentation) == ct
    assert ct < images
    (patient,) = {f.PatientID for f in files if f.SOPInstanceUID in ct}
    assert segmentation.PatientID == patient
    assert patient.startswith("P")
    checked = run("verify", source, out, "--json", status=3)  # the NIfTI file is absent
    summary = json.loads(checked.stdout.splitlines()[-1])
    assert (summary["series"], summary["wrong"], summary["strange"]) == (2, 0, 0)
    assert (summary["objects"], summary["objects_wrong"], summary["objects_absent"]) == (1, 0, 1)
    run("restore", out, "-o", back)
    before = {p.read_bytes() for p in source.rglob("*.dcm") if p.name != "sr.dcm"}
    assert {p.read_bytes() for p in back.rglob("*") if p.is_file()} == before


def test_verify_finds_an_attribute_that_was_put_back(source, tmp_path):
    protect(source, tmp_path / "out", status=3)
    path = sorted((tmp_path / "out").rglob("*.dcm"))[0]
    dataset = pydicom.dcmread(path)
    dataset.InstitutionName = "Klinik"
    dataset.save_as(path)
    found = run("verify", source, tmp_path / "out", status=9)
    assert "(0008,0080)" in found.output
    assert "Klinik" not in found.output


def test_without_the_vault_verify_knows_no_source(source, tmp_path):
    protect(source, tmp_path / "out", status=3)
    (tmp_path / "out.vault").rename(tmp_path / "kept")
    found = run("verify", source, tmp_path / "out", status=9)
    assert "names a source that is not in SOURCE" in found.output
    run("verify", source, tmp_path / "out", f"--vault={tmp_path / 'kept'}", status=3)


def test_a_second_run_goes_on_with_the_same_key_and_never_without_it(source, tmp_path):
    out = tmp_path / "out"
    protect(source, out, "--include=modality=CT", status=3)
    before = {p: p.read_bytes() for p in out.rglob("*.dcm")}
    protect(source, out, status=3)
    assert {p: p.read_bytes() for p in before} == before
    assert len(list(out.rglob("*.dcm"))) == len(before) + 1
    run("protect", source, "-o", out, "--method=random", "-j1", status=6)
    (tmp_path / "out.vault" / "deidentify.key").unlink()
    protect(source, out, status=6)


def test_burned_in_text_is_said_and_identity_is_not_called_removed(tmp_path):
    for path in write_ct_series(tmp_path / "in", slices=2):
        dataset = pydicom.dcmread(path)
        dataset.BurnedInAnnotation = "YES"
        dataset.save_as(path)
    assert "W_BURNED_IN" in protect(tmp_path / "in", tmp_path / "out").output
    for path in (tmp_path / "out").rglob("*.dcm"):
        assert pydicom.dcmread(path).PatientIdentityRemoved == "NO"
    run("verify", tmp_path / "in", tmp_path / "out")


def test_an_element_that_cannot_be_parsed_is_not_passed_on(tmp_path, monkeypatch):
    paths = write_ct_series(tmp_path / "in", slices=2)

    def fail(*_: object) -> None:
        raise ValueError(MARK)

    monkeypatch.setattr(deidentify, "write_data_element", fail)
    found = protect(tmp_path / "in", tmp_path / "out", status=4)
    assert "E_PARSE" in found.output
    assert MARK not in found.output
    assert len(paths) == 2


def test_an_envelope_and_a_missing_extra_are_usage_errors(tmp_path, monkeypatch):
    from tests import keys

    write_ct_series(tmp_path / "in", slices=1)
    (tmp_path / "cert.pem").write_bytes(keys.pem("Archive")[1])
    found = protect(
        tmp_path / "in", tmp_path / "out", f"--embed-recovery={tmp_path}/cert.pem", status=2
    )
    assert "not with --deidentify" in found.output
    monkeypatch.setitem(__import__("sys").modules, "dicomanonymizer", None)
    assert "salm_dicom[deid]" in protect(tmp_path / "in", tmp_path / "out", status=2).output


def test_real_files_of_every_kind_are_deidentified_or_refused(shared, tmp_path):
    paths = [
        shared / "data" / name
        for name in ("pt_dx_small/pt_qin_headneck.dcm", "pydicom_variety/MR_small_bigendian.dcm",
                     "pydicom_variety/image_dfl.dcm", "mr_enhanced/6_1.dcm",
                     "pydicom_variety/SC_rgb_rle.dcm", "nonimage_objects/rtdose.dcm")
    ]  # fmt: skip
    for path in paths:
        source = read(path)
        clean = CLEAN(source)
        again = parse(clean.deflated or clean.data)
        assert again.value(0x7FE00010) == source.value(0x7FE00010)
        old = {uid for uid in uids(source.dataset) if not uid.startswith("1.2.840.10008.")}
        assert not old & set(uids(again.dataset))
        assert not any(element.tag.is_private for element in again.dataset.iterall())
