"""Canaries: a string of its own in every text attribute, and none comes out where people look.

Looked at: what each command prints, as text and as JSON, its log file, the names and every file but
the images of OUT, the pages of the report. Names of source files are shown to the operator in
lists of what is left out, so they have canaries of their own, which may stand there and nowhere
else.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, generate_uid

from salm_dicom.cli.main import main
from salm_dicom.dicom.series import read_series
from tests import keys
from tests.nifti_files import sidecar, write_nifti_file
from tests.objects import write_report, write_segmentation
from tests.structures import write_structures
from tests.synthetic import write_ct_series

MARK, NAME_MARK = "CNRY", "FILENAMECNRY"
# What would run, colour a terminal or be computed, if it came out.
HOSTILE = "<script>\x1b[31m=HYPERLINK(1)"
LONG = {"LO", "LT", "ST", "UT", "UC", "UR", "PN"}
SHORT = {"SH", "AE", "CS"}
# Values that are no text: recognised by their digits.
DIGITS = {"AS": "953Y", "DA": "17530917", "DT": "17530917135753", "TM": "135753.975"}
# The scan groups and places images by these: each has a file of its own with a bad value.
READ = {
    "Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet",
    "NumberOfFrames", "InstanceNumber", "PixelSpacing", "ImagePositionPatient", "SeriesNumber",
    "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "RescaleType", "EchoTime",
    "EchoNumbers", "TriggerTime", "TemporalPositionIdentifier", "Units", "BurnedInAnnotation",
    "PixelPaddingValue", "SmallestImagePixelValue", "PatientID", "StudyDate",
    "PixelDataProviderURL",
}  # fmt: skip
UIDS = {"SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID",
        "FrameOfReferenceUID", "TransferSyntaxUID"}  # fmt: skip
# Digits that are a value of a patient wherever they stand.
SEEN = re.compile("|".join([MARK, *(re.escape(value) for value in DIGITS.values())]))


def texts() -> Iterator[tuple[int, str, str]]:
    """Yield tag, VR and canary of every text attribute of the standard."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 in (0x0000, 0x0002, 0x0004, 0xFFFE) or keyword in READ | UIDS:
            continue
        if vr in LONG | SHORT:
            yield tag, vr, f"{MARK}{tag:08X}" + (HOSTILE if vr in LONG else "")
        elif vr in DIGITS:
            yield tag, vr, DIGITS[vr]


def with_canaries(dataset: Dataset) -> Dataset:
    """Put a canary into every text attribute: top level, nested, private, of unknown VR."""
    inner = Dataset()
    for place in (dataset, inner):
        for tag, vr, value in texts():
            if not (vr == "CS" and tag in dataset) and tag != 0x00080005:
                place.add_new(tag, vr, value)
        block = place.private_block(0x0099, f"{MARK}OWNER", create=True)
        for number, vr in enumerate(sorted(LONG | SHORT)):
            block.add_new(number, vr, f"{MARK}{vr}")
        block.add_new(0x50, "UN", f"{MARK}UN".encode())
        block.add_new(0x51, "OB", f"{MARK}OB".encode())
    dataset.RequestAttributesSequence = [inner]
    dataset.PatientID = f"{MARK}PATIENT"
    dataset.AccessionNumber = f"{MARK}ACCESSION"
    return dataset


def spoiled(path: Path, number: int, keyword: str) -> None:
    """Make one instance a series of its own whose `keyword` is a canary."""
    dataset = pydicom.dcmread(path)
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, name, generate_uid(entropy_srcs=[keyword, name]))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    place = dataset.file_meta if keyword == "TransferSyntaxUID" else dataset
    if keyword in UIDS:
        place.add_new(keyword, "UI", f"1.2.{MARK}")
    else:
        place.add_new(keyword, "LO", f"{MARK}{keyword[:8]}")
    name = f"{NAME_MARK}{number}.dcm"
    dataset.save_as(path.with_name(name), enforce_file_format=False, implicit_vr=False,
                    little_endian=True)  # fmt: skip


@pytest.fixture
def source(tmp_path) -> Path:
    """Two patients' CT with canaries, a file for each attribute that is read, objects, NIfTI."""
    source = tmp_path / "in"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, label in enumerate("ab"):
            folder = source / f"{NAME_MARK}{label}"
            images = write_ct_series(folder, slices=2, seed=number, rows=48, columns=48)
            for path in images:
                with_canaries(pydicom.dcmread(path)).save_as(path)
        (plain,) = write_ct_series(source / "c", slices=1, seed=7, rows=32, columns=32)
        for number, keyword in enumerate(sorted(READ | UIDS)):
            spoiled(plain, number, keyword)
        write_report(source / "sr.dcm", images, text=f"{MARK}REPORT")
        write_segmentation(source / "seg.dcm", images)
        document = with_canaries(write_report(source / "pdf.dcm", images, number=2))
        document.SOPClassUID = EncapsulatedPDFStorage
        document.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
        document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = "1.2.3.7"
        document.DocumentTitle = f"{MARK}TITLE"
        document.save_as(source / "pdf.dcm", enforce_file_format=True)
        for name in ("good", "cut"):
            path = write_nifti_file(
                source / f"{NAME_MARK}{name}.nii", descrip=f"{MARK}DESCRIP".encode(),
                aux_file=f"{MARK}AUX".encode(), intent_name=f"{MARK}INTENT".encode(),
            )  # fmt: skip
            about = {"Modality": "CT", "PatientName": f"{MARK}NAME", "Units": "HU"}
            sidecar(path).write_text(json.dumps(about))
        path.write_bytes(path.read_bytes()[:-99])
    (source / f"{NAME_MARK}.txt").write_text(MARK)
    return source


def regions_of(source: Path, folder: Path) -> Path:
    """Write a SEG, an RT structure set and a NIfTI mask of an image series, with canaries."""
    files = sorted((source / f"{NAME_MARK}a").iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, code in enumerate(("CodeMeaning", "CodeValue")):
            path = folder / f"{NAME_MARK}{number}.dcm"
            segmentation = with_canaries(write_segmentation(path, files))
            (segment,) = segmentation.SegmentSequence
            segment.SegmentLabel = segment.SegmentDescription = f"{MARK}SEGMENT"
            for sequence in ("PropertyType", "PropertyCategory"):
                kind = getattr(segment, f"Segmented{sequence}CodeSequence")[0]
                setattr(kind, code, f"{MARK}{code}")
            segmentation.save_as(path)
        path = folder / f"{NAME_MARK}2.dcm"
        square = [(10, 10), (38, 10), (38, 38), (10, 38)]
        structures = with_canaries(
            pydicom.dcmread(write_structures(path, {7: {files[0]: [square]}}))
        )
        roi = Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIDescription = 7, f"{MARK}ROI", f"{MARK}ROI"
        structures.StructureSetROISequence = [roi]
        structures.save_as(path)
    volume = read_series(files).volume
    labels = np.zeros(volume.pixels.values.shape[::-1], np.uint8)
    labels[10:38, 10:38] = 3
    mask = nib.Nifti1Image(labels, volume.affine)
    mask.header["descrip"] = f"{MARK}MASK".encode()
    nib.save(mask, folder / f"{NAME_MARK}3.nii.gz")
    return folder


class Said:
    """Everything that commands said: what a person or a program reads, by where it stood."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def run(self, *words: object, status: int | None = None, apart: bool = False) -> None:
        names = [str(word) for word in words]
        if apart:  # with all that libraries and workers write to stderr
            command = [sys.executable, "-m", "salm_dicom", *names]
            done = subprocess.run(command, capture_output=True, check=False)
            code, out, err = done.returncode, done.stdout.decode(), done.stderr.decode()
        else:
            found = CliRunner().invoke(main, names)
            code, out, err = found.exit_code, found.stdout, found.stderr
        key = " ".join(name.rsplit("/", 1)[-1] for name in names)
        assert status is None or code == status, f"{key}: {out}{err}"
        self.texts[f"stdout of {key}"], self.texts[f"stderr of {key}"] = out, err
        assert "Traceback" not in out + err


def check(said: dict[str, str]) -> None:
    """Fail where a canary came out, and name it."""
    for where, text in said.items():
        plain = text.replace(NAME_MARK, "name")
        found = {plain[max(0, m.start() - 40) : m.end() + 12] for m in SEEN.finditer(plain)}
        assert not found, where
        assert "\x1b" not in text, where
        lists = where.startswith("stdout of ") and ("scan" in where or "protect" in where)
        lists = lists or where.startswith("stdout of audit") or where.startswith("stdout of fit")
        assert lists or NAME_MARK not in text, where


def test_no_text_of_a_patient_is_in_what_a_person_or_a_recipient_sees(source, tmp_path):
    assert "<script>\x1b[31m=HYPERLINK(1)" in HOSTILE
    out, log, said = tmp_path / "out", tmp_path / "log", Said()
    private, certificate = keys.pem("Canary")
    (tmp_path / "key.pem").write_bytes(private)
    (tmp_path / "cert.pem").write_bytes(certificate)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"key,label\n{NAME_MARK}a,a\n{NAME_MARK}b,b\n{MARK}PATIENT,c\n")
    quiet = ("--progress=none", f"--log-file={log}")
    said.run("scan", source, status=3)
    said.run("scan", source, "--json", status=3)
    chosen = f"--include=patient={MARK}PATIENT"
    said.run("scan", source, chosen)
    words = ("protect", source, "-o", out, "--method=random", *quiet)
    said.run(*words, "-j2", "--dry-run", "--json", status=3)
    said.run(*words, "-j2", f"--embed-recovery={tmp_path / 'cert.pem'}", status=3, apart=True)
    said.run(*words, "-j1", f"--embed-recovery={tmp_path / 'cert.pem'}", "--json", status=3)
    by_path = (f"--labels={labels}", "--labels-by=path")
    fit = ("fit", source, "-o", tmp_path / "protector", *by_path, "--rounds=1", *quiet)
    said.run(*fit, "--method=dense", status=3)
    by_patient = (f"--labels={labels}", "--labels-by=patient")
    said.run("protect", source, "-o", tmp_path / "other", *by_patient, "--method=texture", *quiet)
    said.run("verify", source, out, "--rows=1,2,3", *quiet, apart=True)
    regions = f"--regions={regions_of(source, tmp_path / 'regions')}"
    marked = ("verify", source, out, "--rows=3,6,11", regions)
    said.run(*marked, *quiet, apart=True)
    said.run(*marked, "--json", *quiet)
    report = ("report", out, "--source", source, "-o", tmp_path / "pages", "--rows=1,2,3,6")
    said.run(*report, regions, *quiet)
    volumes = ("report", out, "--source", source, "-o", tmp_path / "volumes", "--rows=1,2")
    said.run(*volumes, "--viewer=niivue", *quiet)
    said.run("restore", out, "-o", tmp_path / "back", *quiet, status=0)
    pem = (f"--private-key={tmp_path / 'key.pem'}", f"--certificate={tmp_path / 'cert.pem'}")
    said.run("restore", out, "-o", tmp_path / "again", *pem, "--json", *quiet, status=9)
    said.run(
        "audit", source, out, *by_path, "--seeds=1", "--epochs=1", "--victims=convnet", "--size=16",
        "--countermeasures=none", "--coverage=100", f"--json={tmp_path / 'audit.json'}", *quiet,
    )  # fmt: skip
    for path in out.rglob("*"):
        said.texts[f"name in OUT {path.name}"] = str(path.relative_to(out))
        if path.is_file() and path.suffix not in (".dcm", ".nii"):
            said.texts[f"{path.name} of OUT"] = path.read_text()
    pages = [*(tmp_path / "pages").iterdir(), *(tmp_path / "volumes").iterdir()]
    assert any("Niivue" in path.read_text() for path in pages)
    said.texts |= {
        f"page {path.parent.name}/{path.name}": path.read_text(errors="replace") for path in pages
    }
    assert len(pages) > 4
    for name in ("1: segment 1 (Liver)", "2: segment 1", "3: structure 7", "4: label 3"):
        assert f"region {name}" in "".join(said.texts.values()), name  # all four were measured
    said.texts["log file"] = log.read_text()
    assert len(list(out.rglob("*.dcm"))) >= 6
    assert "E_TOO_FEW" in "".join(said.texts.values())  # its document: test_audit_command
    check(said.texts)


def test_verify_of_a_tampered_output_names_tags_and_no_values(source, tmp_path):
    out, said = tmp_path / "out", Said()
    chosen = f"--include=path={NAME_MARK}a"
    said.run("protect", source, "-o", out, "--method=random", "--progress=none", "-j1", chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(out.rglob("*.dcm")):
            dataset = pydicom.dcmread(path)
            for element in list(dataset):
                if element.VR in LONG | SHORT and element.keyword not in READ:
                    element.value = f"{MARK}TAMPERED"[: 16 if element.VR in SHORT else 99]
            dataset.save_as(path)
    for more in ((), ("--json",)):
        said.run("verify", source, out, "--progress=none", *more, status=9)
        said.run("restore", out, "-o", tmp_path / f"back{len(more)}", "--progress=none", *more,
                 status=0)  # fmt: skip
    check(said.texts)


def test_the_canaries_sing_where_they_can(source, tmp_path):
    """The test above would pass for an export without canaries."""
    paths = [path for path in source.rglob("*") if path.is_file()]
    assert sum(MARK.encode() in path.read_bytes() for path in paths) > 30
    sung = {f"{MARK}{tag:08X}".encode() for tag, vr, _ in texts() if vr in LONG | SHORT}
    (image,) = (source / f"{NAME_MARK}a").glob("*1.dcm")
    data = image.read_bytes()
    assert sum(one in data for one in sung) > 1500
    with pytest.raises(AssertionError):
        check({"stdout of verify": f"{MARK}00100010"})
    with pytest.raises(AssertionError):
        check({"log file": f"failed at {NAME_MARK}a"})
    with pytest.raises(AssertionError):
        check({"manifest.json of OUT": '"date": "17530917"'})
