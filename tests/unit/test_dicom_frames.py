"""Multi-frame images: frames placed and mapped by functional groups, split, and written as one."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.encaps import parse_basic_offsets
from pydicom.pixels import pixel_array
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

from salm_dicom.dicom.conformance import Instance, check, derivations
from salm_dicom.dicom.functional_groups import DERIVATION_IMAGE, differences
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.scan import scan
from salm_dicom.dicom.series import read_series, write_series
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from tests.synthetic import SYNTAXES
from tests.synthetic_frames import (
    SAGITTAL,
    EnhancedRecipe,
    Frame,
    enhanced_values,
    stack,
    write_enhanced,
)
from tests.unit.derivations import DERIVATION

MR = EnhancedMRImageStorage


def shuffled(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    order = np.random.default_rng(1).permutation(len(frames))
    return tuple(frames[i] for i in order)


def protected_file(path, folder):
    """Write the derived file of one multi-frame file, one voxel of each slice changed."""
    series = read_series([path])

    def change_of(_, before):
        delta = np.zeros(before.values.shape, np.int16)
        delta[:, 20, 18] = np.arange(1, len(delta) + 1) % 5 + 1
        return delta

    (written,) = write_series(series.origin, change_of, folder, DERIVATION)
    return read(written), series


def test_frames_in_any_order_make_one_volume_in_spatial_order(tmp_path):
    recipe = EnhancedRecipe(frames=shuffled(stack(6, gap_mm=3.0)))
    series = read_series([write_enhanced(tmp_path / "a.dcm", recipe)])
    volume = series.volume
    assert (volume.irregular, volume.parts) == ("", ())
    heights = [frame.position[2] for frame in recipe.frames]
    assert [heights[i] for i in series.origin.frames] == sorted(heights)
    assert np.array_equal(volume.pixels.values, enhanced_values(recipe)[list(series.origin.frames)])
    wanted = np.diag([-0.75, -0.5, 3.0, 1.0])
    assert np.allclose(volume.affine, wanted)


@pytest.mark.parametrize(
    ("frames", "sizes"),
    [
        (stack(4, echo=10.0) + stack(4, echo=20.0), [4, 4]),
        (stack(3, b_value=0.0) + stack(3, b_value=1000.0), [3, 3]),
        (stack(3, component="MAGNITUDE") + stack(3, component="PHASE"), [3, 3]),
        (stack(3, time=1) + stack(3, time=2) + stack(3, time=3), [3, 3, 3]),
        (stack(4) + stack(2, orientation=SAGITTAL), [4, 2]),
        (stack(3) + stack(3), [3, 3]),  # nothing tells them apart: in order of the frames
    ],
    ids=["echo", "b-value", "component", "time", "orientation", "repeated"],
)
def test_what_differs_between_frames_splits_them_into_volumes(tmp_path, frames, sizes):
    recipe = EnhancedRecipe(frames=shuffled(frames), sop_class=MR)
    volume = read_series([write_enhanced(tmp_path / "a.dcm", recipe)]).volume
    parts = volume.volumes()
    assert sorted(len(one.pixels.values) for one in parts) == sorted(sizes)
    assert not any(one.irregular for one in parts if len(one.pixels.values) > 2)
    assert sum(part.stop - part.start for part in volume.parts) == len(frames)
    assert str(len(sizes)) in volume.irregular


def test_enhanced_instances_of_one_frame_each_make_a_volume_together(tmp_path):
    for number, frame in enumerate(stack(4, gap_mm=3.0)):
        path = write_enhanced(tmp_path / f"{number}.dcm", EnhancedRecipe(frames=(frame,), seed=1))
        dataset = pydicom.dcmread(path)
        uid = f"1.2.3.{number}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.save_as(path)
    (found,) = scan(tmp_path).series
    assert (found.stack.irregular, found.stack.gaps_mm) == ("", (3.0, 3.0, 3.0))
    volume = read_series(found.paths).volume
    assert volume.irregular == ""
    assert np.allclose(volume.affine, np.diag([-0.75, -0.5, 3.0, 1.0]))


def test_uneven_frames_are_an_irregular_stack(tmp_path):
    frames = (*stack(3), Frame(position=(0.0, 0.0, 30.0)))
    volume = read_series([write_enhanced(tmp_path / "a.dcm", EnhancedRecipe(frames=frames))]).volume
    assert "mm apart" in volume.irregular


def test_each_frame_has_its_own_slope_and_intercept(tmp_path):
    frames = tuple(replace(f, slope=1.0 + n, intercept=-10.0 * n) for n, f in enumerate(stack(4)))
    recipe = EnhancedRecipe(frames=shuffled(frames), sop_class=MR)
    volume = read_series([write_enhanced(tmp_path / "a.dcm", recipe)]).volume
    assert volume.pixels.slope.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert volume.pixels.intercept.tolist() == [0.0, -10.0, -20.0, -30.0]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize("shared_derivation", [False, True])
def test_a_derived_file_says_of_each_frame_what_it_was_derived_from(
    tmp_path, syntax, shared_derivation
):
    recipe = EnhancedRecipe(
        frames=shuffled(stack(5)), transfer_syntax=syntax, shared_derivation=shared_derivation,
        pixel_range=True,
    )  # fmt: skip
    path = write_enhanced(tmp_path / "in" / "a.dcm", recipe)
    target, _ = protected_file(path, tmp_path / "out")
    source = read(path)
    assert target.transfer_syntax == syntax
    dataset = pydicom.dcmread(BytesIO(target.data))
    assert dataset.NumberOfFrames == 5
    assert "DerivationDescription" not in dataset
    assert "SourceImageSequence" not in dataset
    evidence = dataset.SourceImageEvidenceSequence[-1].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == series_uid(source)
    assert "DerivationImageSequence" not in dataset.SharedFunctionalGroupsSequence[0]
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        assert len(groups.DerivationImageSequence) == 1 + shared_derivation
        image = groups.DerivationImageSequence[-1].SourceImageSequence[0]
        assert image.ReferencedFrameNumber == number
        assert image.ReferencedSOPInstanceUID == series_uid(source)
        assert groups.PlanePositionSequence[0].ImagePositionPatient == list(
            recipe.frames[number - 1].position
        )
        kept = groups[0x0019, 0x1001].value
        assert (kept if isinstance(kept, str) else kept.decode()).strip() == f"frame {number}"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert shared.CTImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    values = pixel_array(dataset, raw=True)
    assert dataset.SmallestImagePixelValue == values.min()
    assert dataset.LargestImagePixelValue == values.max()


def series_uid(source) -> str:
    return str(source.dataset.SOPInstanceUID)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
def test_the_change_of_each_slice_lands_in_its_frame(tmp_path, syntax):
    recipe = EnhancedRecipe(
        frames=shuffled(stack(4, echo=1.0) + stack(3, echo=2.0)), sop_class=MR,
        transfer_syntax=syntax,
    )  # fmt: skip
    path = write_enhanced(tmp_path / "in" / "a.dcm", recipe)
    target, series = protected_file(path, tmp_path / "out")
    found = stored_values(target).astype(int) - enhanced_values(recipe)
    wanted = np.zeros(found.shape, int)
    for index, frame in enumerate(series.origin.frames):
        wanted[frame, 20, 18] = (index + 1) % 5 + 1
    assert np.array_equal(found, wanted)
    if target.transfer_syntax.is_encapsulated:
        offsets = parse_basic_offsets(BytesIO(target.value(0x7FE00010)))
        assert len(offsets) == 7


def test_a_converted_image_lists_its_source_among_its_references(tmp_path):
    recipe = EnhancedRecipe(frames=stack(3), sop_class=LegacyConvertedEnhancedCTImageStorage)
    path = write_enhanced(tmp_path / "in" / "a.dcm", recipe)
    target, _ = protected_file(path, tmp_path / "out")
    listed = target.dataset.ReferencedSeriesSequence[-1].ReferencedInstanceSequence[0]
    assert listed.ReferencedSOPInstanceUID == series_uid(read(path))


@pytest.mark.parametrize(
    "sop_class", [MR, BreastTomosynthesisImageStorage, LegacyConvertedEnhancedCTImageStorage]
)
def test_our_own_check_passes_what_was_written_and_finds_what_is_planted(tmp_path, sop_class):
    recipe = EnhancedRecipe(frames=stack(3), sop_class=sop_class)
    path = write_enhanced(tmp_path / "in" / "a.dcm", recipe)
    target, _ = protected_file(path, tmp_path / "out")
    source = read(path)
    before = Instance(source, stored_values(source))
    assert check(before, Instance(target, stored_values(target)), largest=6) == []
    assert {said.source_uid for said in derivations(target)} == {series_uid(source)}

    def planted(edit) -> set[str]:
        dataset = pydicom.dcmread(BytesIO(target.data))
        edit(dataset.PerFrameFunctionalGroupsSequence[1], dataset)
        out = BytesIO()
        dataset.save_as(out)
        file = parse(out.getvalue())
        found = check(before, Instance(file, stored_values(file)), largest=6)
        return {finding.code for finding in found}

    def moved(groups, _):
        groups.PlanePositionSequence[0].ImagePositionPatient = [9, 9, 9]

    def mapped(groups, _):
        groups.PixelValueTransformationSequence[0].RescaleSlope = 7

    def unsaid(groups, _):
        del groups[DERIVATION_IMAGE]

    def original(_, dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        (kind,) = [e for e in shared if "FrameType" in e.keyword]
        kind.value[0].FrameType = ["ORIGINAL", "PRIMARY"]

    assert planted(moved) == planted(mapped) == {"ATTRIBUTE_CHANGED"}
    assert planted(unsaid) == {"NO_PROVENANCE"}
    assert planted(original) == {"NOT_DERIVED"}
    assert list(differences(source, source)) == []


def test_volumes_of_one_file_are_protected_each_by_itself(tmp_path):
    dim = tuple(replace(f, slope=0.1) for f in stack(3, echo=2.0))
    recipe = EnhancedRecipe(frames=stack(3, echo=1.0) + dim, sop_class=MR)
    volume = read_series([write_enhanced(tmp_path / "a.dcm", recipe)]).volume
    protector = Protector(plan=ProtectionPlan(method="random"))
    found = protector.apply(volume, series_uid="1.2")
    for number, one in enumerate(volume.volumes(), start=1):
        alone = protector.apply(one, series_uid=f"1.2/{number}")
        part = slice(3 * (number - 1), 3 * number)
        assert np.array_equal(found.delta[part], alone.delta)
        assert alone.delta.any()
    assert found.record.series_uid == "1.2"
    assert not found.delta[~found.mask].any()


def test_a_volume_without_anatomy_stays_as_it_is_with_a_warning(tmp_path):
    flat = tuple(replace(f, slope=1e9) for f in stack(3, echo=2.0))
    recipe = EnhancedRecipe(frames=stack(3, echo=1.0) + flat, sop_class=MR)
    volume = read_series([write_enhanced(tmp_path / "a.dcm", recipe)]).volume
    found = Protector(plan=ProtectionPlan(method="random")).apply(volume, series_uid="1.2")
    assert found.delta[:3].any()
    assert not found.delta[3:].any()
    assert any(w.startswith("W_PART") for w in found.record.warnings)


@pytest.mark.parametrize(
    ("code", "recipe", "edit"),
    [
        ("E_QUANTITATIVE", EnhancedRecipe(frames=stack(2), real_world=True), lambda d: None),
        (
            "E_BAD_VALUE",
            EnhancedRecipe(frames=stack(3)),
            lambda d: d.PerFrameFunctionalGroupsSequence.pop(),
        ),
        (
            "E_MISSING_TAG",
            EnhancedRecipe(frames=stack(3)),
            lambda d: d.pop("PerFrameFunctionalGroupsSequence"),
        ),
        (
            "E_BAD_VALUE",
            EnhancedRecipe(frames=tuple(replace(f, slope=0.0) for f in stack(2))),
            lambda d: None,
        ),
    ],
)
def test_an_enhanced_image_that_cannot_be_protected_is_listed(tmp_path, code, recipe, edit):
    valid = replace(recipe, frames=tuple(replace(f, slope=f.slope or 1.0) for f in recipe.frames))
    path = write_enhanced(tmp_path / "a.dcm", valid)
    dataset = pydicom.dcmread(path)
    edit(dataset)
    for groups, frame in zip(
        dataset.get("PerFrameFunctionalGroupsSequence", []), recipe.frames, strict=False
    ):
        groups.PixelValueTransformationSequence[0].RescaleSlope = frame.slope
    dataset.save_as(path)
    assert [entry.code for entry in scan(tmp_path).left_out] == [code]
