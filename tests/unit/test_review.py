"""Reviews: rejected series leave an output and come back; nothing is lost, hostile files fail."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

import pydicom
import pytest
from click.testing import Result
from pydicom.fileset import FileSet

from salm_dicom.batch import reviewed as reviewed_module
from salm_dicom.batch.review import SCHEMA, digest_of_series
from salm_dicom.batch.reviewed import apply_reviews
from salm_dicom.batch.verify import verify
from salm_dicom.errors import PlanError, UnsafeError
from salm_dicom.fidelity import Limits
from tests.command import run
from tests.nifti_files import write_nifti_file
from tests.objects import write_report, write_segmentation
from tests.synthetic import uid, write_ct_series

FIRST, SECOND = "patient-0001/study-01/series-001", "patient-0001/study-01/series-002"


def protect(export: Path, *more: object) -> Result:
    out = export.parent / "out"
    return run("protect", export, "-o", out, "--method=random", "-j1", "--progress=none", *more)


def review(out: Path, folder: str, decision: str, /, **changes: object) -> Path:
    """Write the review that a page of the series gives."""
    place = out / folder if (out / folder).is_dir() else out.parent / "elsewhere"
    found = {
        "schema": SCHEMA, "folder": folder, "decision": decision, "comment": "a note",
        "reviewer": "Dr Who", "reviewed": "2026-01-02T03:04:05.678Z", "salm_dicom": "0",
        "digest": digest_of_series(place) if place.is_dir() else "sha256:0",
    } | changes  # fmt: skip
    path = out.parent / f"{folder.replace('/', '-')}.{decision}.review.json"
    path.write_text(json.dumps(found))
    return path


def state(*folders: Path) -> dict[str, str]:
    """Return the SHA-256 of every file; the ledger's own journal aside."""
    return {
        str(path.relative_to(folder.parent)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "ledger" not in path.name
    }


def images(out: Path, folder: str) -> set[str]:
    return {pydicom.dcmread(path).SOPInstanceUID for path in (out / folder).iterdir()}


def problems(export: Path) -> list[object]:
    found = verify(export, export.parent / "out", Limits.none())
    wrong = [one for series in found.series for one in series.findings]
    return [*wrong, *found.strange, *found.objects.findings]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """One study of two series, segmentations of both and a report on both; protected."""
    folder = tmp_path_factory.mktemp("template") / "export"
    shared = {"study_uid": uid("study"), "patient_id": "SYN001"}
    one = write_ct_series(folder / "a", slices=3, series_number=1, **shared)
    two = write_ct_series(folder / "b", slices=2, series_number=2, seed=1, **shared)
    write_segmentation(folder / "c" / "first.dcm", one)
    write_segmentation(folder / "c" / "second.dcm", two)
    write_report(folder / "c" / "report.dcm", [*one, *two])
    assert protect(folder).exit_code == 0
    return folder


@pytest.fixture
def export(template, tmp_path) -> Path:
    """The study, protected."""
    shutil.copytree(template.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "export"


def test_a_rejected_series_leaves_the_output_whole_and_accepting_it_undoes_that(export):
    out, vault = export.parent / "out", export.parent / "out.vault"
    source, before = state(export), state(out)
    no, yes = review(out, FIRST, "reject"), review(out, FIRST, "accept")
    gone = images(out, FIRST)
    done = run("review", "apply", no, out)
    assert (done.exit_code, done.stdout) == (
        0, f"  {FIRST}  REJECTED: moved to the vault\n",
    )  # fmt: skip
    assert not (out / FIRST).exists()
    assert images(vault / "rejected", FIRST.replace("/", "_")) == gone
    manifest = json.loads((out / "manifest.json").read_text())
    assert [one["folder"] for one in manifest["series"]] == [SECOND]
    assert manifest["left_out"] == {"E_REJECTED": len(gone)}
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert not [one for one in gone if one.encode() in everything]
    assert b"Dr Who" not in everything
    assert problems(export) == []
    assert run("review", "apply", no, out).exit_code == 0  # again: nothing more happens
    assert state(export) == source

    done = run("review", "apply", yes, out, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[0]) == {
        "type": "applied", "folder": FIRST, "decision": "accept",
    }  # fmt: skip
    accepted = json.loads((out / "manifest.json").read_text())["series"]
    assert [one.pop("review", None) for one in accepted] == ["accept", None]
    after = state(out)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"out/manifest.json"}
    assert problems(export) == []


def test_later_runs_leave_a_rejected_series_out_and_say_so(export):
    out = export.parent / "out"
    slices = len(images(out, FIRST))
    assert run("review", "apply", review(out, FIRST, "reject"), out).exit_code == 0
    before = state(out)
    again = protect(export, "--json")
    assert again.exit_code == 0
    left_out = [json.loads(line) for line in again.stdout.splitlines()]
    codes = [one["code"] for one in left_out if one["type"] == "left_out"]
    assert codes == ["E_REJECTED"] * slices
    assert state(out) == before
    back = run("restore", out, "-o", export.parent / "back", "--progress=none")
    assert back.exit_code == 0, back.output


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_a_rejected_series_with_other_slices_is_not_protected_under_the_same_uids(export, change):
    out = export.parent / "out"
    assert run("review", "apply", review(out, SECOND, "reject"), out).exit_code == 0
    if change == "more":
        shared = {"study_uid": uid("study"), "patient_id": "SYN001"}
        write_ct_series(export / "b", slices=3, series_number=2, seed=1, **shared)
    else:
        first = min((export / "b").iterdir(), key=lambda p: pydicom.dcmread(p).SOPInstanceUID)
        first.unlink()
    again = protect(export, "--json")
    assert again.exit_code in (3, 4)  # 4: all that is left of SOURCE was done before
    left_out = [json.loads(line) for line in again.stdout.splitlines()]
    codes = {Path(one["path"]): one["code"] for one in left_out if one["type"] == "left_out"}
    assert {codes[path] for path in (export / "b").iterdir()} == {"E_CHANGED"}
    assert not (out / SECOND).exists()


def test_reviews_of_several_series_are_applied_in_one_call_or_one_after_the_other(export):
    out = export.parent / "out"
    both = [review(out, FIRST, "reject"), review(out, SECOND, "reject")]
    note = review(out, SECOND, "comment")
    for path in both:  # the first changes references in the files of the second
        assert run("review", "apply", path, out).exit_code == 0
    assert problems(export) == []
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "patient-0001"]
    assert json.loads((out / "manifest.json").read_text())["left_out"] == {"E_REJECTED": 5}
    for path in both:
        path.write_text(path.read_text().replace('"reject"', '"accept"'))
    assert run("review", "apply", *both, note, out).exit_code == 0
    assert problems(export) == []
    assert len(images(out, FIRST) | images(out, SECOND)) == 5


@pytest.mark.parametrize("step", ["_move", "_refer", "renew_index", "_renew_manifest"])
@pytest.mark.parametrize("decision", ["reject", "accept"])
def test_what_was_killed_in_between_is_finished_by_the_same_call(
    export, monkeypatch, step, decision
):
    out = export.parent / "out"
    vault = export.parent / "out.vault"
    paths = [review(out, FIRST, "reject"), review(out, FIRST, "accept")]
    paths = paths[:1] if decision == "reject" else paths
    for path in paths[:-1]:
        apply_reviews([path], out, vault)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reviewed_module, step, killed)
        with pytest.raises(KeyboardInterrupt):
            apply_reviews(paths[-1:], out, vault)
    apply_reviews(paths[-1:], out, vault)
    assert problems(export) == []
    assert (out / FIRST).is_dir() == (decision == "accept")
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["series"]) == (2 if decision == "accept" else 1)
    assert protect(export).exit_code == 0
    assert (out / FIRST).is_dir() == (decision == "accept")


def test_a_review_of_other_pixels_is_refused_with_a_sentence_and_the_others_are_applied(export):
    out = export.parent / "out"
    stale, good = review(out, FIRST, "reject"), review(out, SECOND, "reject")
    path = next((out / FIRST).iterdir())
    dataset = pydicom.dcmread(path)
    dataset.PixelData = dataset.PixelData[:-2] + b"\1\0"
    dataset.save_as(path)
    done = run("review", "apply", stale, good, out)
    assert done.exit_code == 9
    assert "E_MISMATCH the review was made for other pixels" in done.stdout
    assert (out / FIRST).is_dir()
    assert not (out / SECOND).exists()


def test_a_slice_that_is_gone_or_new_makes_other_pixels(export):
    out = export.parent / "out"
    before = digest_of_series(out / FIRST)
    shutil.copy(next((out / SECOND).iterdir()), out / FIRST / "new.dcm")
    assert digest_of_series(out / FIRST) != before
    (out / FIRST / "new.dcm").write_bytes(b"no DICOM")
    assert digest_of_series(out / FIRST) != before
    (out / FIRST / "new.dcm").unlink()
    assert digest_of_series(out / FIRST) == before
    next((out / FIRST).iterdir()).unlink()
    assert digest_of_series(out / FIRST) != before


def test_reviews_that_contradict_each_other_are_both_refused(export):
    out = export.parent / "out"
    before = state(out)
    paths = [review(out, FIRST, decision) for decision in ("accept", "reject")]
    done = run("review", "apply", *paths, out)
    assert done.exit_code == 3
    assert done.stdout.count("says the opposite") == 2
    assert state(out) == before


HOSTILE = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe\xfa",
    "empty": b"",
    "deep": b"[" * 90_000,
    "a list": b"[]",
    "long": b'"' + b"a" * 200_000 + b'"',
    "a number": b"1" * 90_000,
}
CHANGES = {
    "another schema": {"schema": "salm_dicom review 2"},
    "another decision": {"decision": "delete"},
    "a folder outside": {"folder": "../export"},
    "an absolute folder": {"folder": "/etc"},
    "the folder of a patient": {"folder": "patient-0001"},
    "no folder": {"folder": ""},
    "a lone surrogate": {"folder": "\ud800"},
    "a statement": {"folder": "' OR 1=1 --"},
    "a field more": {"path": "/etc/passwd"},
    "a list for a text": {"comment": ["x"]},
    "a number for a text": {"digest": 7},
    "no digest": {"digest": None},
}


@pytest.mark.parametrize("kind", [*HOSTILE, *CHANGES, "missing", "a folder"])
def test_a_hostile_review_is_listed_with_its_code_and_touches_nothing(export, kind):
    out, vault = export.parent / "out", export.parent / "out.vault"
    before = state(export, out, vault)
    path = review(out, FIRST, "reject", **CHANGES.get(kind, {}))
    if kind in HOSTILE:
        path.write_bytes(HOSTILE[kind])
    elif kind in ("missing", "a folder"):
        path.unlink()
        if kind == "a folder":
            path.mkdir()
    done = run("review", "apply", path, out)
    assert done.exit_code == 3
    assert f"NOT applied: {path.name}: E_REVIEW " in done.stdout
    assert "Dr Who" not in done.output
    assert state(export, out, vault) == before


def test_a_place_that_is_no_output_or_has_no_vault_is_refused(export):
    out, vault = export.parent / "out", export.parent / "out.vault"
    path = review(out, FIRST, "reject")
    with pytest.raises(PlanError, match="OUT is no folder"):
        apply_reviews([path], export.parent / "none", vault)
    with pytest.raises(PlanError, match="no ledger"):
        apply_reviews([path], out, export.parent / "none")
    with pytest.raises(UnsafeError):
        apply_reviews([path], vault / "kept", vault)


def test_comments_and_names_are_kept_in_the_vault_each_once(export):
    out, vault = export.parent / "out", export.parent / "out.vault"
    before = state(out)
    path = review(out, FIRST, "comment", comment="see slice 2")
    for _ in range(2):
        done = run("review", "apply", path, out)
        assert (done.exit_code, done.stdout) == (0, f"  {FIRST}  comment noted in the vault\n")
    assert state(out) == before
    found = sqlite3.connect(vault / "ledger.sqlite").execute("SELECT document FROM reviews")
    ((document,),) = found.fetchall()
    assert json.loads(document) == json.loads(path.read_text())


def test_a_nifti_file_and_a_series_of_a_dicomdir_are_rejected_and_come_back(tmp_path):
    export, out = tmp_path / "export", tmp_path / "out"
    shared = {"study_uid": uid("study"), "patient_id": "SYN001", "seed": 1}
    series = [write_ct_series(export / f"{n}", series_number=n, **shared) for n in (1, 2)]
    index = FileSet()
    for path in [*series[0], *series[1]]:
        index.add(path)
    index.write(tmp_path / "media")
    write_nifti_file(tmp_path / "media" / "ct.nii.gz")
    done = run("protect", tmp_path / "media", "-o", out, "--method=random", "-j1")
    assert done.exit_code in (0, 3), done.output
    assert (out / "DICOMDIR").is_file()
    before = state(out)
    names = [one["folder"] for one in json.loads((out / "manifest.json").read_text())["series"]]
    assert len(names) == 3
    for name in (names[0], "nifti-0001"):
        paths = [review(out, name, "reject"), review(out, name, "accept")]
        assert run("review", "apply", paths[0], out).exit_code == 0
        assert not (out / name).exists()
        found = verify(tmp_path / "media", out, Limits.none())
        assert (found.strange, len(found.series)) == ((), 2)
        assert run("review", "apply", paths[1], out).exit_code == 0
        after = state(out)
        changed = {key for key in before | after if before.get(key) != after.get(key)}
        assert changed == {"out/manifest.json"}
