"""`--masks`: which SEG, RTSTRUCT or NIfTI mask is the label of which series, and when none is."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from salm_dicom.batch.candidates import Asked, label
from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.labels import Labels
from salm_dicom.batch.masks import Chosen, Masks, mask_of
from salm_dicom.batch.source import fill
from salm_dicom.errors import BadValue, Changed, GeometryError, NoLabel, PlanError
from salm_dicom.plan import ProtectionPlan
from tests.nifti_files import RAS, hounsfield, write_nifti_file
from tests.objects import write_segmentation
from tests.structures import write_structures
from tests.synthetic import write_ct_series

PLAN = ProtectionPlan(objective="segmentation")
SQUARE = [(9.5, 19.5), (29.5, 19.5), (29.5, 39.5), (9.5, 39.5)]


def write_mask(path: Path, *, affine: np.ndarray = RAS, shape=(48, 40, 3), value=1, at=10) -> Path:
    values = np.zeros(shape, np.float32 if isinstance(value, float) else np.uint8)
    values[at : at + 10, 10:25] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def labelled(export: Path, masks: Path) -> dict[str, str]:
    """Return what marks each series, or why nothing does, by the name of its first file."""
    with Catalog.new() as catalog:
        fill(catalog, export)
        found = Masks(masks, export, catalog)
        said = {}
        for entry in catalog.series():
            try:
                paths = Chosen.from_text(found.of(entry.series)).paths
                said[entry.series.paths[0].name] = " ".join(path.name for path in paths)
            except NoLabel as error:
                said[entry.series.paths[0].name] = str(error)
    return said


def the_mask(export: Path, masks: Path):
    with Catalog.new() as catalog:
        fill(catalog, export)
        (entry,) = catalog.series()
        return mask_of(entry.series, Masks(masks, export, catalog).of(entry.series))


def test_masks_are_found_by_name_also_with_a_suffix_or_a_channel(tmp_path):
    for number, name in enumerate(("t2", "t2_star", "case-7_0000", "case-7_0001")):
        write_nifti_file(tmp_path / "in" / f"{name}.nii.gz", hounsfield(seed=number))
    for name in ("t2_seg-manual.nii", "t2_star.nii.gz", "case-7.nii.gz"):
        write_mask(tmp_path / "masks" / name)
    assert labelled(tmp_path / "in", tmp_path / "masks") == {
        "t2.nii.gz": "t2_seg-manual.nii",
        "t2_star.nii.gz": "t2_star.nii.gz",
        "case-7_0000.nii.gz": "case-7.nii.gz",
        "case-7_0001.nii.gz": "case-7.nii.gz",
    }


def test_masks_of_one_name_are_told_apart_by_their_folders_or_contradict_each_other(tmp_path):
    for number in (1, 2):
        write_nifti_file(tmp_path / "in" / f"p{number}" / "ct.nii", hounsfield(seed=number))
        write_mask(tmp_path / "masks" / f"p{number}" / "ct.nii")
    with Catalog.new() as catalog:
        fill(catalog, tmp_path / "in")
        found = Masks(tmp_path / "masks", tmp_path / "in", catalog)
        for entry in catalog.series():
            (path,) = Chosen.from_text(found.of(entry.series)).paths
            assert path.parent.name == entry.series.paths[0].parent.name
    write_nifti_file(tmp_path / "one" / "ct.nii")
    for name in ("ct_a.nii", "ct_b.nii"):
        write_mask(tmp_path / "two" / "sub" / name)
    assert labelled(tmp_path / "one", tmp_path / "two") == {
        "ct.nii": "2 NIfTI masks are named like it; one is needed"
    }


def test_a_mask_with_another_name_is_found_by_its_grid_if_it_fits_one_series_only(tmp_path):
    far = RAS.copy()
    far[:3, 3] += 100
    write_nifti_file(tmp_path / "in" / "a.nii", hounsfield(seed=1))
    write_nifti_file(tmp_path / "in" / "b.nii", hounsfield(seed=2), affine=far)
    write_mask(tmp_path / "masks" / "lesion.nii")
    write_mask(tmp_path / "masks" / "half.nii", shape=(48, 40, 2))
    found = labelled(tmp_path / "in", tmp_path / "masks")
    assert found == {
        "a.nii": "lesion.nii",
        "b.nii": "no SEG, RTSTRUCT or NIfTI mask marks this series",
    }
    write_nifti_file(tmp_path / "in" / "c.nii", hounsfield(seed=3))
    found = labelled(tmp_path / "in", tmp_path / "masks")
    assert found["a.nii"] == found["c.nii"]
    assert found["a.nii"].startswith("the NIfTI mask on its grid fits 2 series")
    write_mask(tmp_path / "masks" / "again.nii")
    assert labelled(tmp_path / "in", tmp_path / "masks")["a.nii"].startswith("2 NIfTI masks lie on")


def test_the_export_itself_may_hold_the_masks(tmp_path):
    files = write_ct_series(tmp_path / "in" / "ct", slices=3)
    write_segmentation(tmp_path / "in" / "seg.dcm", files)
    write_nifti_file(tmp_path / "in" / "scan.nii")
    write_mask(tmp_path / "in" / "scan_seg.nii")
    assert labelled(tmp_path / "in", tmp_path / "in") == {
        files[0].name: "seg.dcm",
        "scan.nii": "scan_seg.nii",
    }


def test_a_segmentation_and_a_structure_set_become_one_mask_of_their_classes(tmp_path):
    files = write_ct_series(tmp_path / "in", slices=3, orientation=(0, 1, 0, 0, 0, -1))
    write_segmentation(tmp_path / "masks" / "a.dcm", files)
    write_structures(
        tmp_path / "masks" / "b.dcm", {7: {files[1]: [[(40, 50), (60, 50), (60, 60)]]}}
    )
    mask = the_mask(tmp_path / "in", tmp_path / "masks")
    assert mask.names == ("Liver", "structure 7")
    assert (mask.values == 1).sum() == 3 * 20 * 12
    assert (mask.values == 2).any()


def test_segments_that_overlap_contradict_each_other(tmp_path):
    files = write_ct_series(tmp_path / "in", slices=3, orientation=(0, 1, 0, 0, 0, -1))
    write_segmentation(tmp_path / "masks" / "a.dcm", files)
    write_structures(tmp_path / "masks" / "b.dcm", {7: {files[1]: [SQUARE]}})
    with pytest.raises(NoLabel, match="masks contradict each other"):
        the_mask(tmp_path / "in", tmp_path / "masks")


def test_a_nifti_mask_is_named_after_the_series_uid_of_dicom_and_lies_where_it_should(tmp_path):
    write_ct_series(tmp_path / "in", slices=3)
    with Catalog.new() as catalog:
        fill(catalog, tmp_path / "in")
        (entry,) = catalog.series()
        where = np.zeros((64, 64, 3), np.int16)
        where[5:20, 30:50, 1], where[8:11, 40:44, 2] = 4, 9
        image = nib.Nifti1Image(where, entry.series.affine)
        (tmp_path / "masks").mkdir()
        path = tmp_path / "masks" / f"{entry.series.series_uid}_seg.nii.gz"
        nib.save(nib.as_closest_canonical(image), path)
        mask = mask_of(entry.series, Masks(path, tmp_path / "in", catalog).of(entry.series))
    assert mask.names == ("label 4", "label 9")
    np.testing.assert_array_equal(mask.values == 1, where.T == 4)
    np.testing.assert_array_equal(mask.values == 2, where.T == 9)


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        ({"affine": RAS @ np.diag([2.0, 1, 1, 1])}, GeometryError, "lies on another grid"),
        ({"shape": (48, 40, 2)}, GeometryError, "does not cover all of it"),
        ({"value": 0.5}, BadValue, "no whole numbers"),
        ({"shape": (48, 40, 3, 2)}, BadValue, "is no volume of labels"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_a_mask_that_does_not_fit_the_series_it_is_named_after_says_why(
    tmp_path, mask, error, text
):
    write_nifti_file(tmp_path / "in" / "ct.nii")
    write_mask(tmp_path / "masks" / "ct.nii", **mask)
    with pytest.raises(error, match=text):
        the_mask(tmp_path / "in", tmp_path / "masks")


def test_a_mask_that_changed_after_it_was_chosen_is_refused(tmp_path):
    write_nifti_file(tmp_path / "in" / "ct.nii")
    path = write_mask(tmp_path / "masks" / "ct.nii")
    with Catalog.new() as catalog:
        fill(catalog, tmp_path / "in")
        (entry,) = catalog.series()
        text = Masks(path, tmp_path / "in", catalog).of(entry.series)
        one = mask_of(entry.series, text)
        write_mask(path, at=12)
        with pytest.raises(Changed):
            mask_of(entry.series, text)
        again = Masks(path, tmp_path / "in", catalog).of(entry.series)
        assert mask_of(entry.series, again).digest != one.digest
        path.unlink()
        with pytest.raises(Changed):
            mask_of(entry.series, again)


def test_places_without_masks_are_refused(tmp_path):
    write_ct_series(tmp_path / "in", slices=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.nii").write_bytes(b"no NIfTI")
    with pytest.raises(PlanError, match="does not exist"):
        labelled(tmp_path / "in", tmp_path / "nowhere")
    for place in (tmp_path / "empty", tmp_path / "in"):
        with pytest.raises(PlanError, match="no SEG, RTSTRUCT or NIfTI mask"):
            labelled(tmp_path / "in", place)
    with pytest.raises(PlanError, match="a NIfTI mask cannot be read"):
        labelled(tmp_path / "in", tmp_path / "bad.nii")


def test_what_is_asked_must_go_with_the_objective(tmp_path):
    table = Labels(by="path", table={".": "a"}, root=tmp_path)
    with Catalog.new() as catalog:
        for plan, asked, text in (
            (PLAN, Asked(source=tmp_path), "give --masks PATH"),
            (PLAN, Asked(source=tmp_path, labels=table, masks=tmp_path), "masks and no labels"),
            (ProtectionPlan(), Asked(source=tmp_path, masks=tmp_path), "--objective segmentation"),
            (ProtectionPlan(), Asked(source=tmp_path), "give --labels labels.csv"),
        ):
            with pytest.raises(PlanError, match=text):
                label(catalog, plan, asked)
        label(catalog, ProtectionPlan(method="random"), Asked(source=tmp_path))


def test_series_without_a_mask_are_left_out_with_a_code(tmp_path):
    write_nifti_file(tmp_path / "in" / "a.nii", hounsfield(seed=1))
    write_nifti_file(tmp_path / "in" / "b.nii", hounsfield(seed=2))
    write_mask(tmp_path / "masks" / "a_seg.nii")
    with Catalog.new() as catalog:
        fill(catalog, tmp_path / "in")
        label(catalog, PLAN, Asked(source=tmp_path / "in", masks=tmp_path / "masks"))
        codes = {entry.path.name: entry.code for entry in catalog.left_out()}
        assert codes == {"a.json": "E_NOT_IMAGE", "b.json": "E_NOT_IMAGE", "b.nii": "E_NO_LABEL"}
        assert catalog.count(where="is_in AND is_labelled") == 1
    with Catalog.new() as catalog:
        fill(catalog, tmp_path / "in")
        write_mask(tmp_path / "others" / "c.nii", shape=(5, 5, 5))
        with pytest.raises(NoLabel, match="is --masks right"):
            label(catalog, PLAN, Asked(source=tmp_path / "in", masks=tmp_path / "others"))
