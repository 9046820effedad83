"""Folders with NIfTI files: scan, protect, verify and restore them beside DICOM series."""

from __future__ import annotations

import csv
import gzip
import json
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from salm_dicom.batch.labels import Labels
from salm_dicom.batch.manifest import Result
from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.restore import restore
from salm_dicom.batch.source import find
from salm_dicom.batch.verify import verify
from salm_dicom.cli.main import main
from salm_dicom.dicom.derive import PUBLIC_SITE_KEY
from salm_dicom.errors import NoLabel
from salm_dicom.fidelity import Limits
from salm_dicom.nifti.image import read
from salm_dicom.nifti.scan import NiftiFile
from salm_dicom.plan import ProtectionPlan
from tests.nifti_files import add_field, hounsfield, write_nifti_file
from tests.synthetic import write_ct_series

CREATED = datetime(2026, 1, 2, tzinfo=UTC)
FRAMES = np.stack([hounsfield(seed=n) for n in range(3)], axis=-1)


def label_map() -> np.ndarray:
    labels = np.zeros((40, 40, 3), np.uint8)
    labels[5:20, 5:30] = 7
    return labels


@pytest.fixture
def mixed(tmp_path) -> Path:
    """One DICOM series, an image, images over time, a label map, a copy, a text, no modality."""
    root = tmp_path / "mixed"
    write_ct_series(root / "series", slices=3)
    write_nifti_file(root / "sub-Doe" / "ct.nii.gz")
    write_nifti_file(root / "sub-Doe" / "time.nii", FRAMES, modality=None)
    add_field(root / "sub-Doe" / "time.nii", Modality="MR")
    write_nifti_file(root / "sub-Doe" / "labels.nii.gz", label_map(), modality=None)
    write_nifti_file(root / "sub-Doe" / "unsaid.nii", hounsfield(seed=7), modality=None)
    write_nifti_file(root / "z-copy.nii")
    (root / "readme.txt").write_text("not an image")
    return root


def request(root: Path, out: Path, **options: object) -> Request:
    return Request(
        **{
            "source": root, "output": out, "vault": out.with_name(f"{out.name}.vault"),
            "plan": ProtectionPlan(method="random"), "protector": None, "labels": None,
            "created": CREATED, "site_key": PUBLIC_SITE_KEY,
        } | options
    )  # fmt: skip


def codes(result: Result) -> dict[str, str]:
    return {entry.path.name: entry.code for entry in result.left_out}


def images(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("image.nii*"))


def test_every_file_of_a_mixed_folder_is_protected_or_listed_once(mixed, tmp_path):
    result = protect(request(mixed, tmp_path / "out"))
    assert [one.name for one in result.done] == [
        "patient-0001/study-01/series-001", "nifti-0001", "nifti-0002"
    ]  # fmt: skip
    assert [(one.modality, one.slices) for one in result.done] == [("CT", 3), ("CT", 3), ("MR", 9)]
    assert codes(result) == {
        "labels.nii.gz": "E_NOT_IMAGE",
        "unsaid.nii": "E_NO_MODALITY",
        "z-copy.nii": "E_DUPLICATE",
        "ct.json": "E_NOT_IMAGE",
        "time.json": "E_NOT_IMAGE",
        "z-copy.json": "E_NOT_IMAGE",
        "readme.txt": "E_NOT_DICOM",
    }
    seen = [path for one in find(mixed).series for path in one.paths]
    seen += [entry.path for entry in result.left_out]
    assert sorted(seen) == sorted(path for path in mixed.rglob("*") if path.is_file())


def test_the_option_says_what_the_sidecars_do_not(mixed, tmp_path):
    result = protect(request(mixed, tmp_path / "out", modality="MR"))
    assert "unsaid.nii" not in codes(result)
    assert [one.modality for one in result.done] == ["CT", "CT", "MR", "MR"]


def test_what_is_shared_names_nobody_and_the_vault_says_which_file_is_which(mixed, tmp_path):
    protect(request(mixed, tmp_path / "out"))
    shared = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert not [p for p in shared if "Doe" in str(p.relative_to(tmp_path))]
    assert not [p for p in shared if b"Doe" in p.read_bytes()]
    assert {stat.S_IMODE(p.stat().st_mode) for p in shared} == {0o600}
    table = tmp_path / "out.vault" / "nifti.csv"
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    rows = list(csv.DictReader(table.open()))
    assert {row["folder"]: Path(row["source"]).name for row in rows} == {
        "nifti-0001": "ct.nii.gz", "nifti-0002": "time.nii"
    }  # fmt: skip


def test_verify_passes_what_protect_wrote_and_counts_what_is_absent(mixed, tmp_path):
    protect(request(mixed, tmp_path / "out"))
    found = verify(mixed, tmp_path / "out", Limits())
    assert [(one.name, one.findings, one.missed) for one in found.series] == [
        ("patient-0001/study-01/series-001", (), ()), ("nifti-0001", (), ()),
        ("nifti-0002", (), ()),
    ]  # fmt: skip
    assert (found.absent, found.strange) == (1, ())  # the one that --modality would have taken
    assert [one.slices for one in found.series] == [3, 3, 9]


def voxel(path: Path, change: int, index: int) -> None:
    """Change one stored value of a file, after the header."""
    image = read(path)
    voxels = image.voxels().copy()
    voxels.reshape(-1)[index] += change
    path.write_bytes(image.with_voxels(voxels).to_file())


def header_byte(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[150] ^= 1  # descrip
    path.write_bytes(gzip.compress(bytes(data)))


def sidecar_field(path: Path, **fields: object) -> None:
    place = path.with_name("image.json")
    said = json.loads(place.read_text())
    said["SalmDicom"] |= fields
    place.write_text(json.dumps(said))


def most_changed(path: Path, source: Path) -> int:
    return int(np.abs(read(path).voxels().astype(int) - read(source).voxels()).argmax())


TAMPERED = {
    "DIGEST": lambda path, source: voxel(path, 1, most_changed(path, source)),
    "BACKGROUND": lambda path, source: voxel(path, 1, 0),
    "BUDGET": lambda path, source: voxel(path, 50, most_changed(path, source)),
    "LARGEST": lambda path, source: sidecar_field(path, LargestChange={"Stored": 1}),
    "PROVENANCE": lambda path, source: sidecar_field(path, Budget=None),
    "BYTES": lambda path, source: header_byte(path),
    "UNCHANGED": lambda path, source: path.write_bytes(source.read_bytes()),
    "RANGE": lambda path, source: voxel(path, 9000, most_changed(path, source)),
    "SHAPE": lambda path, source: write_nifti_file(path, FRAMES, modality=None),
    "E_TRUNCATED": lambda path, source: path.write_bytes(path.read_bytes()[:-40]),
}


@pytest.mark.parametrize("code", TAMPERED)
def test_verify_finds_what_was_tampered_with(tmp_path, code):
    source = write_nifti_file(tmp_path / "in" / "ct.nii.gz")
    protect(request(tmp_path / "in", tmp_path / "out"))
    (path,) = images(tmp_path / "out")
    TAMPERED[code](path, source)
    (found,) = verify(tmp_path / "in", tmp_path / "out", Limits()).series
    assert code in {finding.code for finding in found.findings}


def test_verify_lists_files_that_have_no_source(tmp_path):
    write_nifti_file(tmp_path / "in" / "ct.nii.gz")
    protect(request(tmp_path / "in", tmp_path / "out"))
    write_nifti_file(tmp_path / "out" / "stray.nii", modality=None)
    write_nifti_file(tmp_path / "in" / "ct.nii.gz", hounsfield(seed=5))
    found = verify(tmp_path / "in", tmp_path / "out", Limits())
    assert sorted(path.name for path, _ in found.strange) == ["image.nii.gz", "stray.nii"]
    assert (found.series, found.absent) == ((), 1)


def test_restore_gives_every_source_back(mixed, tmp_path):
    protect(request(mixed, tmp_path / "out"))
    found = restore(tmp_path / "out", tmp_path / "out.vault", tmp_path / "back")
    assert found.failed == ()
    assert found.identical + found.recompressed == 5
    plain, packed = (tmp_path / "back" / f"nifti-000{n}" for n in (2, 1))
    assert (plain / "image.nii").read_bytes() == (mixed / "sub-Doe" / "time.nii").read_bytes()
    back = gzip.decompress((packed / "image.nii.gz").read_bytes())
    assert back == gzip.decompress((mixed / "sub-Doe" / "ct.nii.gz").read_bytes())


def test_restore_refuses_what_was_changed_is_missing_or_of_another_vault(tmp_path):
    for number in range(4):
        write_nifti_file(tmp_path / "in" / f"{number}.nii", hounsfield(seed=number))
    protect(request(tmp_path / "in", tmp_path / "out"))
    changed, gone, _, whole = images(tmp_path / "out")
    voxel(changed, 1, 0)
    gone.unlink()
    (tmp_path / "out.vault" / "kept" / "nifti-0003.npz").write_bytes(b"no archive")
    found = restore(tmp_path / "out", tmp_path / "out.vault", tmp_path / "back")
    reasons = [reason for _, reason in found.failed]
    assert len(reasons) == 3
    assert "is not the source" in reasons[0]
    assert "missing" in reasons[1]
    assert "cannot be read" in reasons[2]
    assert images(tmp_path / "back") == [
        tmp_path / "back" / whole.relative_to(tmp_path / "out")
    ]  # fmt: skip


def test_a_second_run_finishes_what_is_missing_and_leaves_the_rest(mixed, tmp_path):
    once = protect(request(mixed, tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in images(tmp_path / "out")}
    write_nifti_file(mixed / "added.nii", hounsfield(seed=8))
    again = protect(request(mixed, tmp_path / "out"))
    assert again.resumed == len(once.done) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {one.name for one in again.done} - {one.name for one in once.done} == {"nifti-0003"}


def test_protected_files_are_refused_as_a_source(mixed, tmp_path):
    protect(request(mixed, tmp_path / "out"))
    result = protect(request(tmp_path / "out", tmp_path / "twice"))
    assert result.done == ()
    assert {e.code for e in result.left_out if e.path.name.startswith("image.nii")} == {
        "E_ALREADY_PROTECTED"
    }


@pytest.mark.slow
def test_workers_write_the_bytes_of_one_process(mixed, tmp_path):
    for name, jobs in {"one": 1, "two": 2}.items():
        protect(request(mixed, tmp_path / name, jobs=jobs))
    contents = [
        [p.read_bytes() for p in sorted((tmp_path / name).rglob("*")) if p.is_file()]
        for name in ("one", "two")
    ]
    assert contents[0] == contents[1]


def test_labels_of_nifti_files_are_by_path_or_series(tmp_path):
    path = write_nifti_file(tmp_path / "in" / "chest" / "ct.nii.gz")
    add_field(path, SeriesInstanceUID="1.2.3")
    (file,) = find(tmp_path / "in").series
    assert isinstance(file, NiftiFile)
    labels = Labels(by="path", table={"chest": "a"}, root=tmp_path / "in")
    assert labels.of(file) == "a"
    assert replace(labels, by="series", table={"1.2.3": "b"}).of(file) == "b"
    with pytest.raises(NoLabel, match="--labels-by path"):
        replace(labels, by="patient").of(file)
    with pytest.raises(NoLabel, match="no row"):
        replace(labels, table={"other": "a"}).of(file)


@pytest.mark.slow
def test_a_protector_is_fitted_on_nifti_files_and_protects_them(tmp_path):
    for number in range(4):
        values = hounsfield(slices=4, seed=number)
        write_nifti_file(tmp_path / "in" / "ab"[number % 2] / f"{number}.nii", values)
    plan = ProtectionPlan(steps=2, rounds=1, slice_size=(32, 32))
    labels = Labels(by="path", table={"a": "one", "b": "two"}, root=tmp_path / "in")
    result = protect(request(tmp_path / "in", tmp_path / "out", plan=plan, labels=labels))
    assert len(result.done) == 4
    assert {entry.code for entry in result.left_out} == {"E_NOT_IMAGE"}  # the sidecars
    assert all(not v.findings for v in verify(tmp_path / "in", tmp_path / "out", Limits()).series)


def test_the_commands_take_nifti_files(mixed, tmp_path, capsys):
    out, back = tmp_path / "out", tmp_path / "back"
    runs = {
        ("scan", str(mixed), "--modality", "MR", "--json"): 3,
        ("protect", str(mixed), "-o", str(out), "--method", "random", "--modality", "MR",
         "-j", "1", "--json"): 3,
        ("verify", str(mixed), str(out), "--json"): 0,
        ("restore", str(out), "-o", str(back), "--json"): 0,
    }  # fmt: skip
    for command, expected in runs.items():
        with pytest.raises(SystemExit) as ended:
            main([*command])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert (ended.value.code, lines[-1]["type"]) == (expected, "summary")
        if command[0] == "scan":
            sizes = [[one[k] for k in ("frames", "slices", "rows", "columns")] for one in lines[:4]]
            assert sizes == [[1, 3, 64, 64], [1, 3, 40, 48], [3, 3, 40, 48], [1, 3, 40, 48]]
    assert len(images(back)) == 3
    assert nib.load(images(back)[0]).shape == (48, 40, 3)
