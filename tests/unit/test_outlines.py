"""`--regions`: SEG, RTSTRUCT and NIfTI masks end on the voxels that they mark, and on no others."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from salm_dicom.batch.outlined import Outlines
from salm_dicom.cli.main import main
from salm_dicom.dicom.outlines import Marks, _filled
from salm_dicom.dicom.scan import scan
from salm_dicom.dicom.series import read_series
from salm_dicom.errors import BadValue, PlanError
from tests.nifti_files import write_nifti_file
from tests.objects import write_report, write_segmentation
from tests.structures import write_structures
from tests.synthetic import write_ct_series
from tests.synthetic_frames import EnhancedRecipe, stack, write_enhanced

SQUARE = [(9.5, 19.5), (29.5, 19.5), (29.5, 39.5), (9.5, 39.5)]
# What highdicom copies from the image to its segmentation.
_STUDY = [
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "PatientName",
]  # fmt: skip
HOLE = [(14.5, 24.5), (19.5, 24.5), (19.5, 29.5), (14.5, 29.5)]


def series(folder: Path):
    (found,) = scan(folder).series
    read = read_series(found.paths)
    return read.volume, [one.sop_uid for one in found.headers], read.origin.frames


def marked(path: Path, folder: Path) -> dict[str, np.ndarray]:
    marks = Marks.read(path)
    assert marks is not None
    return {one.name: one.where for one in marks.on(*series(folder))}


def test_a_segmentation_lies_where_it_was_drawn_whatever_the_order_of_the_files(tmp_path):
    files = write_ct_series(tmp_path / "ct", slices=4)
    write_segmentation(tmp_path / "seg.dcm", [files[2], files[1]])
    expected = np.zeros((4, 64, 64), dtype=bool)
    expected[1:3, 20:40, 24:36] = True
    found = marked(tmp_path / "seg.dcm", tmp_path / "ct")
    assert found.keys() == {"segment 1 (Liver)"}
    np.testing.assert_array_equal(found["segment 1 (Liver)"], expected)


def test_planes_that_a_segmentation_leaves_out_between_others_stay_unmarked(tmp_path):
    files = write_ct_series(tmp_path / "ct", slices=6)
    mask = np.zeros((6, 64, 64), np.uint8)
    mask[[0, 3, 5], 20:40, 24:36] = 1
    made = write_segmentation(tmp_path / "seg.dcm", files, mask)
    assert made.NumberOfFrames == 3  # no frame for a plane without marks
    (where,) = marked(tmp_path / "seg.dcm", tmp_path / "ct").values()
    np.testing.assert_array_equal(where, mask > 0)


def test_a_segmentation_of_a_multi_frame_file_lies_on_its_frames(tmp_path):
    path = tmp_path / "ct" / "enhanced.dcm"
    path.parent.mkdir()
    write_enhanced(path, EnhancedRecipe(frames=stack(3)))
    image = pydicom.dcmread(path)
    for name in _STUDY:
        setattr(image, name, image.get(name, ""))
    image.save_as(path)
    write_segmentation(tmp_path / "seg.dcm", [path])
    (where,) = marked(tmp_path / "seg.dcm", path.parent).values()
    assert where.sum(axis=(1, 2)).tolist() == [20 * 12] * 3


@pytest.mark.parametrize(
    ("value", "scheme", "name"),
    [
        ("10200004", "SCT", "segment 1 (Liver)"),
        ("T-62000", "SRT", "segment 1 (Liver)"),
        ("10200004", "99LOCAL", "segment 1"),
        ("DOE^JOHN", "SCT", "segment 1"),
    ],
)
def test_a_segment_is_named_by_the_standard_and_not_by_what_the_object_says(
    tmp_path, value, scheme, name
):
    files = write_ct_series(tmp_path / "ct", slices=2)
    made = write_segmentation(tmp_path / "seg.dcm", files)
    segment = made.SegmentSequence[0]
    segment.SegmentLabel = "Doe, John"
    code = segment.SegmentedPropertyTypeCodeSequence[0]
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, "Doe, John"
    made.save_as(tmp_path / "seg.dcm")
    assert [*marked(tmp_path / "seg.dcm", tmp_path / "ct")] == [name]


def test_a_structure_is_filled_and_its_inner_contour_is_a_hole(tmp_path):
    files = write_ct_series(tmp_path / "ct", slices=3, orientation=(0, 1, 0, 0, 0, -1))
    path = write_structures(
        tmp_path / "rt.dcm", {7: {files[1]: [SQUARE, HOLE]}, 8: {files[0]: [HOLE]}}
    )
    expected = np.zeros((3, 64, 64), dtype=bool)
    expected[1, 20:40, 10:30] = True
    expected[1, 25:30, 15:20] = False
    found = marked(path, tmp_path / "ct")
    np.testing.assert_array_equal(found["structure 7"], expected)
    assert found["structure 8"].sum() == 25


def test_contours_on_a_series_that_is_no_regular_volume_are_refused(tmp_path):
    files = write_ct_series(tmp_path / "ct", slices=3, gaps_mm=(2, 5))
    path = write_structures(tmp_path / "rt.dcm", {1: {files[0]: [SQUARE]}})
    with pytest.raises(BadValue, match="regular volume"):
        marked(path, tmp_path / "ct")


def test_a_polygon_has_the_area_of_its_shoelace_and_stays_in_the_image():
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([40.3 + 25 * np.cos(angles), 30.7 + 25 * np.sin(angles)], axis=1)
    found = _filled(circle, (64, 80))
    assert found.sum() == pytest.approx(np.pi * 25**2, rel=0.01)
    assert found[30, 40]
    assert _filled(circle + np.array([60, 0]), (64, 80))[:, :75].sum() == 0
    assert _filled(circle - np.array([200, 0]), (64, 80)).sum() == 0


def test_objects_about_other_series_mark_nothing(tmp_path):
    write_ct_series(tmp_path / "ct", slices=2)
    others = write_ct_series(tmp_path / "other", slices=2, patient_id="SYN002", seed=4)
    write_segmentation(tmp_path / "seg.dcm", others)
    rt = write_structures(tmp_path / "rt.dcm", {1: {others[0]: [SQUARE]}})
    assert marked(tmp_path / "seg.dcm", tmp_path / "ct") == {}
    assert marked(rt, tmp_path / "ct") == {}


def mask_of(volume, where) -> nib.Nifti1Image:
    return nib.Nifti1Image(where.transpose().astype(np.uint8), volume.affine)


def test_a_nifti_mask_lies_on_the_grid_that_its_affine_says_however_it_is_turned(tmp_path):
    write_ct_series(tmp_path / "ct", slices=3)
    volume, _, _ = series(tmp_path / "ct")
    where = np.zeros(volume.pixels.values.shape, np.uint8)
    where[1, 5:20, 30:50] = 1
    where[2, 40:44, 8:11] = 2
    (tmp_path / "masks").mkdir()
    image = mask_of(volume, where)
    nib.save(image, tmp_path / "masks" / "a.nii.gz")
    nib.save(nib.as_closest_canonical(image), tmp_path / "masks" / "b.nii")
    nib.save(image.slicer[4:, :45], tmp_path / "masks" / "c.nii")
    outlines = Outlines.read(tmp_path / "masks")
    found = {one.name: one.where for one in outlines.on_grid(volume)}
    assert found.keys() == {f"{n}: label {label}" for n in (1, 2, 3) for label in (1, 2)}
    for name, one in found.items():
        np.testing.assert_array_equal(one, where == int(name[-1]))
    assert outlines.unused == 0


def test_masks_of_another_grid_are_not_used_and_counted(tmp_path):
    write_ct_series(tmp_path / "ct", slices=3)
    volume, _, _ = series(tmp_path / "ct")
    moved = volume.affine.copy()
    moved[:3, 3] += 500
    nib.save(nib.Nifti1Image(np.ones((64, 64, 3), np.uint8), moved), tmp_path / "far.nii")
    outlines = Outlines.read(tmp_path / "far.nii")
    assert list(outlines.on_grid(volume)) == []
    assert outlines.unused == 1


def test_what_outlines_nothing_is_refused(tmp_path):
    with pytest.raises(PlanError, match="does not exist"):
        Outlines.read(tmp_path / "nowhere")
    files = write_ct_series(tmp_path / "ct", slices=1)
    write_report(tmp_path / "ct" / "sr.dcm", files)
    with pytest.raises(PlanError, match="no SEG, RTSTRUCT or NIfTI mask"):
        Outlines.read(tmp_path / "ct")
    made = write_segmentation(tmp_path / "seg.dcm", files)
    del made.SegmentSequence
    made.save_as(tmp_path / "bad.dcm")
    with pytest.raises(PlanError, match="file 1 of the regions: a SEG is not understood"):
        Outlines.read(tmp_path / "bad.dcm")
    nib.save(nib.Nifti1Image(np.ones((4, 4, 2, 3), np.uint8), np.eye(4)), tmp_path / "four.nii")
    volume, _, _ = series_of_one(tmp_path)
    with pytest.raises(PlanError, match="no volume of labels"):
        list(Outlines.read(tmp_path / "four.nii").on_grid(volume))


def series_of_one(tmp_path: Path):
    write_ct_series(tmp_path / "one", slices=1)
    return series(tmp_path / "one")


def test_verify_measures_outlined_regions_and_says_what_marks_nothing(tmp_path):
    run = CliRunner().invoke
    files = write_ct_series(tmp_path / "in" / "ct", slices=3)
    write_nifti_file(tmp_path / "in" / "scan.nii.gz")
    source, out = tmp_path / "in", tmp_path / "out"
    words = ["protect", str(source), "-o", str(out), "--method=random", "--progress=none", "-j1"]
    assert run(main, words).exit_code in (0, 3)
    regions = tmp_path / "regions"
    write_segmentation(regions / "1.dcm", files)
    image = nib.load(tmp_path / "in" / "scan.nii.gz")
    where = np.zeros(image.shape, np.uint8)
    where[10:30, 10:30] = 5
    nib.save(nib.Nifti1Image(where, image.affine), regions / "2.nii.gz")
    verify = ["verify", str(source), str(out), "--progress=none", "--json", "--regions"]
    found = run(main, [*verify, str(regions)])
    assert found.exit_code == 0, found.output
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    names = [
        {check["where"] for check in row["checks"] if check["name"] == "region_shift"}
        for row in rows[:2]
    ]
    assert names == [{"region 1: segment 1 (Liver)"}, {"region 2: label 5"}]
    others = write_ct_series(tmp_path / "other", slices=1, patient_id="SYN009", seed=9)
    write_segmentation(regions / "3.dcm", others)
    found = run(main, [*verify, str(regions)])
    assert found.exit_code == 3
    assert json.loads(found.stdout.splitlines()[-1])["unused_regions"] == 1
    text = run(main, [*verify[:-2], "--regions", str(regions)])
    assert "1 files of --regions mark nothing that is in OUT" in text.output
    assert run(main, [*verify, str(tmp_path / "nowhere")]).exit_code == 2


def test_codes_that_the_standard_does_not_list_are_told_apart_without_their_text(tmp_path):
    files = write_ct_series(tmp_path / "ct", slices=2)
    kinds = []
    for value in ("DOE^JOHN", "DOE^JOHN", "ROE^JANE"):
        made = write_segmentation(tmp_path / "seg.dcm", files)
        code = made.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
        code.CodeValue, code.CodingSchemeDesignator = value, "99LOCAL"
        made.save_as(tmp_path / "seg.dcm")
        marks = Marks.read(tmp_path / "seg.dcm")
        kinds += [one.kind for one in marks.on(*series(tmp_path / "ct"))]
    assert kinds[0] == kinds[1] != kinds[2]
    assert not any("DOE" in kind or "ROE" in kind for kind in kinds)
