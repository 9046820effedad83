"""Geometry: slices in order, what makes a volume irregular, where voxels lie in space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salm_dicom.dicom.geometry import stacks
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.scan import group
from salm_dicom.errors import BadValue

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
LPS_TO_RAS = np.array([-1, -1, 1])


def instance(z: float = 0.0, number: int = 1, **changes: object) -> InstanceHeader:
    """Return the header of one slice at (5, 6, z) mm."""
    values = {
        "path": Path(f"{number}.dcm"), "sop_class": "1.2", "sop_uid": f"1.2.{number}",
        "series_uid": "1.3", "study_uid": "1.4", "patient_id": "", "modality": "CT",
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"), "instance_number": number,
        "position": (5.0, 6.0, z), "orientation": AXIAL, "spacing": (0.5, 0.8),
        "pixel_format": (512, 512), "splitting": ("",) * 5,
        "is_protected": False,
    }  # fmt: skip
    return InstanceHeader(**values | changes)


@given(order=st.permutations(range(6)), numbers=st.permutations(range(6)))
def test_the_order_of_slices_depends_on_positions_only(order, numbers):
    (stack,) = stacks([instance(2.5 * z, number) for z, number in zip(order, numbers, strict=True)])
    assert [h.position[2] for h in stack.headers] == [0, 2.5, 5, 7.5, 10, 12.5]
    assert stack.irregular == ""
    assert stack.gaps_mm == (2.5,) * 5


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL])
def test_the_affine_leads_from_voxels_to_ras_millimetres(orientation):
    row, column = np.array(orientation).reshape(2, 3)
    normal = np.cross(row, column)
    corner = np.array([-10.0, 20.0, 30.0])
    places = [tuple(corner + 3.0 * k * normal) for k in range(4)]
    slices = [instance(number=k, position=p, orientation=orientation) for k, p in enumerate(places)]
    (stack,) = stacks(slices[::-1])
    for column_index, row_index, k in [(0, 0, 0), (7, 0, 0), (0, 9, 0), (0, 0, 3), (2, 5, 1)]:
        # PS3.3 C.7.6.2.1.1; spacing is between rows, then between columns
        lps = corner + column_index * 0.8 * row + row_index * 0.5 * column + 3.0 * k * normal
        ras = stack.affine @ [column_index, row_index, k, 1]
        assert np.allclose(ras[:3], lps * LPS_TO_RAS)
    assert np.linalg.det(stack.affine[:3, :3]) > 0


@pytest.mark.parametrize(
    ("heights", "is_regular"),
    [
        ((0, 1, 2, 3), True),
        ((0, 1, 2.04, 3), True),
        ((0, 1, 2.06, 3), False),
        ((0, 1, 3, 4), False),
        ((0, 0, 1, 2), False),
        ((0, 100), True),
        ((0,), True),
    ],
)
def test_gaps_may_differ_from_their_median_by_five_per_cent(heights, is_regular):
    (stack,) = stacks([instance(z, number) for number, z in enumerate(heights)])
    assert (stack.irregular == "") == is_regular


@pytest.mark.parametrize(("degrees", "is_regular"), [(0.4, True), (0.6, False), (18.5, False)])
def test_a_gantry_tilt_above_half_a_degree_is_irregular(degrees, is_regular):
    shift = np.tan(np.radians(degrees))
    (stack,) = stacks([instance(k, k, position=(0.0, shift * k, float(k))) for k in range(5)])
    assert (stack.irregular == "") == is_regular
    assert is_regular or f"gantry tilt of {degrees} degrees" in stack.irregular


def test_images_at_one_position_are_split_in_order_of_their_numbers():
    slices = [instance(z, 3 * z + echo) for z in range(4) for echo in range(3)]
    found = stacks(slices[::-1])
    assert [stack.irregular for stack in found] == [""] * 3
    assert [[h.instance_number % 3 for h in s.headers] for s in found] == [
        [k] * 4 for k in range(3)
    ]


def test_images_at_one_position_that_cannot_be_told_apart_stay_one_irregular_stack():
    (stack,) = stacks([instance(0, 1), instance(0, 2), instance(1, 3)])
    assert stack.irregular == "several slices lie at one position"
    (stack,) = stacks([instance(0, 1), instance(0, 2)])
    assert stack.irregular == "several slices lie at one position"


def test_slices_without_position_are_an_irregular_stack_in_order_of_their_numbers():
    (stack,) = stacks([instance(number=n, position=()) for n in (3, 1, 2)])
    assert [h.instance_number for h in stack.headers] == [1, 2, 3]
    assert "no position" in stack.irregular


def test_a_single_slice_is_regular_and_keeps_its_own_plane():
    (stack,) = stacks([instance(7)])
    assert stack.irregular == ""
    assert np.allclose(stack.affine[:3, 3], [-5, -6, 7])
    (bare,) = stacks([instance(position=(), orientation=(), spacing=())])
    assert np.isfinite(bare.affine).all()


def test_orientations_and_sizes_of_one_series_are_volumes_of_their_own():
    localizer = ("ORIGINAL", "PRIMARY", "LOCALIZER")
    kinds = {"orientation": CORONAL, "pixel_format": (256, 256), "image_type": localizer}
    slices = [instance(z, z) for z in range(3)]
    for count, (name, value) in enumerate(kinds.items(), start=1):
        slices += [instance(z, 10 * count + z, **{name: value}) for z in range(3)]
    found, left_out = group(slices)
    assert (len(found), left_out) == (4, [])
    for series in found:
        assert len({h.volume_key for h in series.headers}) == 1


@pytest.mark.parametrize(
    "changes", [{"orientation": (0.0,) * 6}, {"orientation": AXIAL[:3] * 2}, {"spacing": (0.5, 0)}]
)
def test_a_plane_that_cannot_be_is_a_bad_value_of_its_volume_only(changes):
    bad = [instance(z, z, series_uid="1.9", **changes) for z in range(2)]
    with pytest.raises(BadValue):
        stacks(bad)
    found, left_out = group([*bad, instance(0, 8), instance(1, 9)])
    assert len(found) == 1
    assert [entry.code for entry in left_out] == ["E_BAD_VALUE"] * 2
