"""Volumes of a page for NiiVue: values, place and cap; the vendored file; what is shown without."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from salm_dicom.batch.sheet import VIEWERS
from salm_dicom.batch.sheet_pixels import Stack
from salm_dicom.batch.sheet_scene import notes_of_scene, scene_of, why_no_scene
from salm_dicom.cli.report import command
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.series import read_series
from salm_dicom.dicom.voi import display_window
from salm_dicom.report import Preset, Scene, series_page
from salm_dicom.volume import StoredPixels, Volume
from tests.nifti_files import write_nifti_file
from tests.synthetic import write_ct_series
from tests.synthetic_frames import ColourRecipe, EnhancedRecipe, stack, write_colour, write_enhanced
from tests.unit.test_report import HOSTILE, Page, protect, run, sheet

VENDOR = Path(__file__).parents[2] / "salm_dicom" / "report" / "vendor"
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
EVERYTHING = 10**9


def images(data: dict | Scene) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Return source and difference of a page's data, read by nibabel."""
    texts = (data["source"], data["difference"]) if isinstance(data, dict) else (
        data.source, data.difference
    )  # fmt: skip
    return tuple(
        nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text))) for text in texts
    )


def stack_of(before, after, *, slope=1.0, intercept=0.0, affine=None, **volume) -> Stack:
    slices = len(before)
    pixels = StoredPixels(
        values=before, slope=np.broadcast_to(np.float64(slope), (slices,)).copy(),
        intercept=np.broadcast_to(np.float64(intercept), (slices,)).copy(), bits_stored=16,
        signed=before.dtype.kind == "i",
    )  # fmt: skip
    first = Volume(
        pixels=pixels, affine=np.eye(4) if affine is None else affine,
        **{"modality": "CT"} | volume,
    )  # fmt: skip
    return Stack(
        first=first, volumes=1, before=before, after=after, mask=np.ones(before.shape, bool),
        has_after=np.ones(slices, bool), slope=pixels.slope, intercept=pixels.intercept,
        slices=(None,) * slices, intensity_range=None,
    )  # fmt: skip


def scene(text: str = "HU") -> Scene:
    return Scene(
        source="", difference="", shape=(2, 2, 2), whole=(2, 2, 2), steps=(1, 1, 1),
        affine=((1.0, 0.0, 0.0, 0.0),), units=text, is_inverted=False,
        presets=(Preset(text, 0.0, 1.0),), least=1.0, largest=1.0, whole_bytes=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def journey(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Source, output and pages of an oblique CT series and of one slice."""
    place = tmp_path_factory.mktemp("niivue")
    source, output, pages = (place / name for name in ("in", "out", "pages"))
    write_ct_series(
        source / "a", slices=4, rows=48, columns=56, orientation=OBLIQUE, spacing_mm=2.5
    )
    write_ct_series(source / "b", slices=1, seed=3, patient_id="SYN002")
    protect(source, output)
    done = run("report", output, "--source", source, "-o", pages, "--viewer=niivue",
               "--progress=none")  # fmt: skip
    assert done.exit_code == 0, done.output
    return source, output, pages


def test_the_command_line_offers_the_viewers_that_there_are():
    (option,) = (one for one in command.params if one.name == "viewer")
    assert tuple(option.type.choices) == VIEWERS
    assert option.default == VIEWERS[0]
    assert run("report", ".", "--source", ".", "-o", "x", "--viewer=other").exit_code == 2


def page_of(pages: Path, number: int) -> Page:
    (path,) = pages.glob(f"patient-000{number}-*.html")
    return Page(path.read_bytes())


def test_the_vendored_file_is_the_one_that_was_published_and_its_licence_lies_beside_it():
    stated = tomllib.loads((VENDOR / "niivue.toml").read_text(encoding="utf-8"))
    code = gzip.decompress((VENDOR / stated["file"]).read_bytes())
    assert len(code) == stated["bytes"]
    assert hashlib.sha256(code).hexdigest() == stated["sha256"]
    assert f'"{stated["version"]}"'.encode() in code
    # either would end the element that holds the code
    assert not re.search(rb"</script|<!--", code, re.IGNORECASE)
    licence = (VENDOR / "LICENSE-niivue.txt").read_text(encoding="utf-8")
    assert licence.startswith("NiiVue: BSD 2-Clause License\n\nCopyright (c) 2021, Niivue")
    assert "*/" not in licence
    assert stated["licence"] == "BSD-2-Clause"


def test_the_volumes_of_a_page_have_the_values_and_the_place_of_the_files(journey):
    source, output, pages = journey
    data = page_of(pages, 1).data
    before, difference = images(data)
    assert (before.shape, data["shape"], data["whole"]) == ((56, 48, 4), [56, 48, 4], [56, 48, 4])
    assert np.allclose(before.affine, data["affine"])
    assert np.array_equal(before.affine, difference.affine)
    assert np.array_equal(before.get_sform(), before.affine)
    assert np.allclose(before.get_qform(), before.affine, atol=1e-5)
    checked = 0
    protected = before.get_fdata() + difference.get_fdata()
    for folder, image in (
        (source / "a", before.get_fdata()),
        (output / "patient-0001", protected),
    ):
        (inner,) = {path.parent for path in folder.rglob("*.dcm")}
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(inner)))
        judge = reader.Execute()
        for voxel in np.ndindex(before.shape):
            if sum(voxel) % 7:
                continue
            x, y, z = (before.affine @ [*voxel, 1])[:3]
            index = judge.TransformPhysicalPointToIndex([-x, -y, z])
            assert image[voxel] == judge.GetPixel(index)
            checked += 1
    assert checked > 3000
    assert (difference.get_fdata() != 0).any()


def test_the_header_of_a_volume_holds_no_text(journey):
    header = images(page_of(journey[2], 1).data)[0].header
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        assert bytes(header[field]).strip(b"\0") == b""


def test_a_page_with_a_volume_allows_no_more_than_one_without(journey):
    pages = journey[2]
    with_volume, slices = page_of(pages, 1), page_of(pages, 2)
    rules = []
    for page in (with_volume, slices):
        (policy,) = (
            one["content"] for tag, one in page.elements
            if one.get("http-equiv") == "Content-Security-Policy"
        )  # fmt: skip
        (script,) = page.code["script"]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}';" in policy
        rules.append(policy.replace(digest, "DIGEST"))
        for _, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert not {"src", "srcset", "action"} & set(attributes)
    assert rules[0] == rules[1]
    assert "Copyright (c) 2021, Niivue" in with_volume.code["script"][0]
    assert "Niivue" not in slices.code["script"][0]


def test_what_is_no_volume_is_shown_slice_by_slice_and_the_page_says_why(journey):
    page = page_of(journey[2], 2)
    assert "NiiVue shows volumes; this is shown slice by slice, for it is no more than one" in (
        page.text
    )
    assert page.data["slices"] == 1
    assert "niivue" not in {one.get("id") for _, one in page.elements}
    values = np.zeros((3, 4, 5), np.int16)
    whole = stack_of(values, values)
    assert why_no_scene(whole) == ""
    lacking = replace(whole, has_after=np.array([True, False, True]))
    assert why_no_scene(lacking) == "some slices have no protected counterpart"
    assert why_no_scene(replace(whole, volumes=2)) == "the file holds 2 volumes"
    uneven = replace(whole, first=replace(whole.first, irregular="slices are 1 to 3 mm apart"))
    assert why_no_scene(uneven) == "it is no regular volume (slices are 1 to 3 mm apart)"
    flat = stack_of(values, values, affine=np.diag([1.0, 1.0, 0.0, 1.0]))
    assert why_no_scene(flat) == "its slices have no place in space"


def test_the_same_export_gives_the_same_page(journey, tmp_path):
    source, output, pages = journey
    again = tmp_path / "again"
    run("report", output, "--source", source, "-o", again, "--viewer=niivue", "--progress=none")
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in pages.iterdir())
    for path in again.iterdir():
        assert path.read_bytes() == (pages / path.name).read_bytes()


def test_a_page_with_a_volume_holds_no_value_of_any_patient_attribute(journey):
    source, _, pages = journey
    page = page_of(pages, 1)
    texts = "".join(page.texts) + "".join(str(page.data[key]) for key in page.data)
    for path in (source / "a").rglob("*.dcm"):
        for element in pydicom.dcmread(path).iterall():
            if element.VR in ("PN", "LO", "SH", "UI", "DA", "TM", "LT", "AS"):
                for value in map(str, [element.value] if not element.VM > 1 else element.value):
                    assert len(value) <= 4 or value not in texts, element.keyword


def test_hostile_text_beside_a_volume_becomes_no_element():
    plain, hostile = (
        Page(series_page(replace(sheet(text), scene=scene(text)))) for text in ("x", HOSTILE)
    )
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert hostile.code["script"] == plain.code["script"]
    assert hostile.data["units"] == HOSTILE
    assert "{{7*7}}${7*7}\\u202egnp.exe" in hostile.text


SHAPES = st.tuples(st.integers(2, 4), st.integers(2, 6), st.integers(2, 5))


@settings(max_examples=60)
@given(st.data())
def test_any_stored_values_come_back_out_of_the_volumes(data):
    kind = data.draw(st.sampled_from(["u1", "i2", "u2", "i4"]))
    low, high = (-(2**22), 2**22) if kind == "i4" else (np.iinfo(kind).min, np.iinfo(kind).max)
    shape = data.draw(SHAPES)
    before, after = (
        data.draw(arrays(kind, shape, elements=st.integers(int(low), int(high)))) for _ in range(2)
    )
    source, difference = images(scene_of(stack_of(before, after), EVERYTHING))
    assert source.get_data_dtype() == difference.get_data_dtype()
    whole = np.asanyarray(source.dataobj), np.asanyarray(difference.dataobj)
    assert np.array_equal(whole[0].T, before)
    # as the page adds them: in the data type of the files
    summed = source.dataobj.get_unscaled() + difference.dataobj.get_unscaled()
    assert summed.dtype == source.get_data_dtype()
    assert np.array_equal(summed.T, after)


def test_slopes_that_differ_by_slice_give_modality_values_in_single_precision():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 30000, (3, 8, 8), dtype=np.int16)
    after = before + rng.integers(-6, 7, before.shape, dtype=np.int16)
    slope = np.array([0.37, 1.9, 4.25])
    found = stack_of(before, after, slope=slope, modality="PT")
    shown = scene_of(found, EVERYTHING)
    source, difference = (np.asanyarray(one.dataobj).T for one in images(shown))
    assert source.dtype == np.float32
    assert np.allclose(source, before * slope[:, None, None], rtol=1e-6)
    assert np.allclose(source + difference, after * slope[:, None, None], rtol=1e-6)
    assert (shown.least, shown.units) == (0.37, "units")
    assert any("single precision" in note for note in notes_of_scene(found, shown, EVERYTHING))


@pytest.mark.parametrize("share", [0.6, 0.2, 0.03])
def test_a_cap_is_kept_and_what_is_left_out_is_said(share):
    rng = np.random.default_rng(0)
    before = rng.integers(-1000, 1000, (12, 40, 30), dtype=np.int16)
    after = before + rng.integers(-6, 7, before.shape, dtype=np.int16)
    affine = np.array([[0.0, 0, 5, 1], [0.8, 0, 0, 2], [0, 0.8, 0, 3], [0, 0, 0, 1]])
    found = stack_of(before, after, affine=affine)
    whole = scene_of(found, EVERYTHING)
    assert [*notes_of_scene(found, whole, EVERYTHING)] == [
        "Every voxel of every slice is in this page"
    ]
    cap = int(whole.whole_bytes * share)
    some = scene_of(found, cap)
    assert len(some.source) + len(some.difference) <= cap
    columns, rows, slices = some.steps
    assert max(some.steps) > 1
    assert min(columns, rows) >= slices  # the finest axes first
    kept = before[::slices, ::rows, ::columns]
    source, difference = images(some)
    assert np.array_equal(np.asanyarray(source.dataobj).T, kept)
    assert np.array_equal(
        np.asanyarray(difference.dataobj).T, (after - before)[::slices, ::rows, ::columns]
    )
    assert some.shape == kept.shape[::-1]
    last = np.array(some.shape) - 1
    assert np.allclose(source.affine @ [*last, 1], affine @ [*(last * some.steps), 1], atol=1e-4)
    note, *_ = notes_of_scene(found, some, cap)
    assert f"{' x '.join(map(str, some.shape))} of 30 x 40 x 12 voxels" in note
    assert f"all would take about {whole.whole_bytes / 1e6:.3g} MB and the cap is" in note
    assert ("slices" in note) == (slices > 1)


def test_enhanced_and_nifti_volumes_have_pages_with_their_own_values(tmp_path):
    source = tmp_path / "in"
    write_enhanced(source / "enhanced.dcm", EnhancedRecipe(frames=stack(3)))
    write_nifti_file(source / "ct.nii.gz")
    write_colour(source / "colour.dcm", ColourRecipe())
    write_ct_series(source / "mr", modality="MR", slices=3, photometric="MONOCHROME1")
    protect(source, tmp_path / "out")
    done = run("report", tmp_path / "out", "--source", source, "-o", tmp_path / "p",
               "--viewer=niivue", "--progress=none")  # fmt: skip
    assert done.exit_code in (0, 5), done.output
    found = {path.stem: Page(path.read_bytes()) for path in (tmp_path / "p").glob("[!i]*.html")}
    assert len(found) == 4
    volumes = {stem: page for stem, page in found.items() if "whole" in page.data}
    assert len(volumes) == 3
    assert sum(page.data["inverted"] for page in volumes.values()) == 1
    given = nib.load(source / "ct.nii.gz")
    mine, _ = images(volumes["nifti-0001"].data)
    here = nib.as_closest_canonical(mine)
    there = nib.as_closest_canonical(given)
    assert np.array_equal(here.get_fdata(), there.get_fdata())
    assert np.allclose(here.affine, there.affine, atol=1e-3)


@pytest.mark.parametrize(
    ("center", "width", "ends"),
    [
        ([40, -600], [400, 1600], (-160, 240)),
        ("50.5", "101", (0, 101)),
        ("40", "0", None),
        ("40", "", None),
        ("nan", "400", None),
        ("1e400", "400", None),
    ],
)
def test_the_first_window_of_a_file_is_what_it_asks_to_be_shown_with(
    tmp_path, monkeypatch, center, width, ends
):
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
    (path,) = write_ct_series(tmp_path, slices=1)
    dataset = pydicom.dcmread(path)
    del dataset.WindowCenter, dataset.WindowWidth
    assert display_window(read(write(path, dataset))) is None
    for tag, value in ((0x00281050, center), (0x00281051, width)):
        text = "\\".join(map(str, value)) if isinstance(value, list) else value
        dataset.add_new(tag, "LO", text)
    assert display_window(read(write(path, dataset))) == ends


def test_a_frame_has_its_own_window_before_the_one_that_all_share(tmp_path):
    path = write_enhanced(tmp_path / "enhanced.dcm", EnhancedRecipe(frames=stack(2)))
    dataset = pydicom.dcmread(path)
    assert display_window(read(path), 1) is None
    dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [window(30, 100)]
    dataset.PerFrameFunctionalGroupsSequence[1].FrameVOILUTSequence = [window(500, 20)]
    found = read(write(path, dataset))
    assert display_window(found, 0) == (-20, 80)
    assert display_window(found, 1) == (490, 510)


def test_a_series_is_shown_first_with_the_window_of_its_middle_slice(tmp_path):
    paths = write_ct_series(tmp_path / "in", slices=3)
    for path, center in zip(paths, (10, 20, 30), strict=True):
        dataset = pydicom.dcmread(path)
        dataset.WindowCenter, dataset.WindowWidth = center, 100
        write(path, dataset)
    assert read_series(paths[::-1]).volume.window == (-30, 70)
    protect(tmp_path / "in", tmp_path / "out")
    for viewer in ("canvas", "niivue"):
        run("report", tmp_path / "out", "--source", tmp_path / "in", "-o", tmp_path / viewer,
            "--viewer", viewer, "--progress=none")  # fmt: skip
        first, second, *_ = page_of(tmp_path / viewer, 1).data["presets"]
        assert first == {"name": "DICOM window", "low": -30, "high": 70}
        assert second["name"] == "soft tissue"


def window(center: float, width: float) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.WindowCenter, item.WindowWidth = center, width
    return item


def write(path: Path, dataset: pydicom.Dataset) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path
