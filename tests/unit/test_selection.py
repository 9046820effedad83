"""--include and --exclude: what is chosen, and that nothing chosen away is silent or taken away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.selection import Criterion, Selection, choose
from salm_dicom.batch.source import Export, fill, find, listed
from salm_dicom.errors import PlanError
from tests.command import run
from tests.objects import write_report, write_segmentation
from tests.synthetic import write_ct_series


@pytest.fixture
def several(tmp_path: Path) -> Path:
    root = tmp_path / "export"
    write_ct_series(root / "a", patient_id="A", seed=1)
    write_ct_series(root / "b" / "deep", patient_id="B", seed=2)
    return root


def chosen(root: Path, selection: Selection) -> Export:
    with Catalog.new() as catalog:
        fill(catalog, root)
        choose(catalog, selection)
        return listed(catalog)


def names(root: Path, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> set[str]:
    selection = Selection(
        include=tuple(map(Criterion.parse, include)),
        exclude=tuple(map(Criterion.parse, exclude)),
        root=root,
    )
    found = chosen(root, selection)
    inside = {path for series in found.series for path in series.paths}
    outside = {entry.path for entry in found.left_out}
    assert inside | outside == {p for p in root.rglob("*") if p.is_file()}
    assert {entry.code for entry in found.left_out} <= {"E_NOT_CHOSEN"}
    return {series.headers[0].patient_id for series in found.dicom}


def header(root: Path, patient: str):
    return next(s.headers[0] for s in find(root).dicom if s.headers[0].patient_id == patient)


def test_each_key_chooses_by_what_it_says(several):
    a = header(several, "A")
    assert names(several) == {"A", "B"}
    assert names(several, ("modality=CT",)) == {"A", "B"}
    assert names(several, ("modality=MR",)) == set()
    assert names(several, ("modality=MR,CT",)) == {"A", "B"}
    assert names(several, ("patient=B",)) == {"B"}
    assert names(several, (f"series={a.series_uid}",)) == {"A"}
    assert names(several, (f"study={a.study_uid}",)) == {"A"}
    assert names(several, ("path=b",)) == {"B"}
    assert names(several, ("path=b/deep/",)) == {"B"}
    assert names(several, ("path=deep",)) == set()
    assert names(several, (), ("patient=A",)) == {"B"}


def test_of_one_key_any_must_fit_and_of_several_keys_all(several):
    assert names(several, ("patient=A", "patient=B")) == {"A", "B"}
    assert names(several, ("patient=A", "path=b")) == set()
    assert names(several, ("patient=A,B",), ("path=a",)) == {"B"}


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ("20260102", True), ("20260101", False), ("20260101-20260103", True),
        ("20260102-20260102", True), ("-20260101", False), ("-20260102", True),
        ("20260103-", False), ("20260102-", True), ("20250101,20260102", True),
    ],
)  # fmt: skip
def test_dates_are_days_or_ranges_with_open_ends(asked, fits):
    said = {"date": "20260102"}
    assert Criterion.parse(f"date={asked}").fits(said) == fits
    assert not Criterion.parse(f"date={asked}").fits({"date": ""})


@pytest.mark.parametrize(
    "text",
    ["", "CT", "modality", "modality=", "modality=,", "organ=liver", "date=2026", "date=-",
     "date=20260101--", "date=yesterday"],
)  # fmt: skip
def test_a_selection_that_says_nothing_is_refused(text):
    with pytest.raises(PlanError, match="is written"):
        Criterion.parse(text)


def protect(source: Path, output: Path, *more: object) -> list[dict]:
    words = ("-o", output, "--method=random", "--progress=none", "--json", "-j1")
    done = run("protect", source, *words, *more)
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_chosen_later_joins_what_was_done_before(several, tmp_path):
    out = tmp_path / "out"
    first = protect(several, out, "--include", "patient=A")
    assert [row["folder"] for row in first if row["type"] == "series"] == [
        "patient-0001/study-01/series-001"
    ]
    reasons = {row["reason"] for row in first if row["type"] == "left_out"}
    assert reasons == {"not chosen by --include patient=..."}
    second = protect(several, out, "--include", "patient=B")
    done = [row["folder"] for row in second if row["type"] == "series"]
    assert done == [f"patient-000{n}/study-01/series-001" for n in (1, 2)]
    assert not [row for row in second if row["type"] == "left_out"]
    assert len(json.loads((out / "manifest.json").read_text())["series"]) == 2


def test_nothing_chosen_is_nothing_to_do_and_writes_nothing_to_share(several, tmp_path):
    done = run(
        "protect", several, "-o", tmp_path / "out", "--method=random", "--include=modality=MR"
    )
    assert done.exit_code == 4
    assert not (tmp_path / "out").exists()
    assert run("scan", several, "--include=modality=MR").exit_code == 4


def test_objects_are_chosen_like_images(several):
    images = sorted((several / "a").glob("*.dcm"))
    write_segmentation(several / "seg.dcm", images)
    write_report(several / "report.dcm", images)
    seg = Selection(exclude=(Criterion.parse("modality=SEG"),), root=several)
    found = chosen(several, seg)
    assert {one.path.name for one in found.objects} == {"report.dcm"}
    assert [(e.path.name, e.code) for e in found.left_out] == [("seg.dcm", "E_NOT_CHOSEN")]
