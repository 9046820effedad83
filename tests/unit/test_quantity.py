"""Measurements are refused case by case, and changed only when that was asked for, and said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner, Result
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    NuclearMedicineImageStorage,
    ParametricMapStorage,
    PositronEmissionTomographyImageStorage,
    RealWorldValueMappingStorage,
)

from salm_dicom.cli.main import main
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.scan import scan
from salm_dicom.errors import MismatchError, Quantitative
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.quantity import MAPPED, RULES
from salm_dicom.transforms import SALM, LoadVolume, VolumeReader
from tests.nifti_files import sidecar, write_nifti_file
from tests.synthetic import write_ct_series
from tests.synthetic_frames import EnhancedRecipe, stack, write_enhanced

WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
Edit = Callable[[Dataset], object]


def given(**values: object) -> Edit:
    def edit(dataset: Dataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID

    return edit


def image_type(*values: str) -> Edit:
    return given(ImageType=["DERIVED", "PRIMARY", *values])


def edited(paths: list[Path], edit: Edit) -> list[Path]:
    for path in paths:
        dataset = pydicom.dcmread(path)
        edit(dataset)
        dataset.save_as(path)
    return paths


def pet(folder: Path, **recipe: object) -> list[Path]:
    kind = given(SOPClassUID=PositronEmissionTomographyImageStorage, Modality="PT", Units="BQML")
    return edited(write_ct_series(folder, intercept=0.0, signed=False, **recipe), kind)


# Why, by what makes an ordinary series a measurement.
CASES: dict[str, tuple[str, Edit]] = {
    "PET": ("PET measures uptake", given(Modality="PT")),
    "the PET class": (
        "PET measures uptake", given(SOPClassUID=PositronEmissionTomographyImageStorage)),
    "nuclear medicine": ("nuclear medicine counts decays", given(Modality="NM")),
    "its class": (
        "nuclear medicine counts decays", given(SOPClassUID=NuclearMedicineImageStorage)),
    "a dose under an image class": ("the values are radiation dose", given(Modality="RTDOSE")),
    "a parametric map": (
        "the object is a parametric map", given(SOPClassUID=ParametricMapStorage)),
    "a mapping in the image": (
        "the values are mapped to real-world quantities",
        given(RealWorldValueMappingSequence=[Dataset()])),
    "units": ("the values have units", given(Units="GML")),
    "ADC": ("Image Type says that it is a map", image_type("DIFFUSION", "ADC", "ND")),
    "a T1 map, as Siemens writes": ("Image Type says that it is a map", image_type("T1 MAP")),
    "perfusion": ("Image Type says that it is a map", image_type("PERFUSION", "CBF")),
    "an iodine image": ("Image Type says that it is a map", image_type("AXIAL", "MAT_SPECIFIC")),
    "mg/ml": ("Rescale Type names a physical quantity", given(RescaleType="MGML")),
    "effective atomic number": ("Rescale Type names a physical quantity",
                                given(RescaleType="Z_EFF")),
}  # fmt: skip
ORDINARY: dict[str, Edit] = {
    "HU": given(RescaleType="HU"),
    "no name for it": given(RescaleType="US"),
    "a reformatted CT": image_type("REFORMATTED", "AVERAGE"),
    "a diffusion image": image_type("DIFFUSION", "NONE", "TRACEW"),
    "monoenergetic": image_type("AXIAL", "MONO_ENERGETIC"),
}


def test_every_rule_has_a_case():
    assert {why for why, _ in CASES.values()} == RULES.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_measurement_is_refused_and_found_when_it_is_allowed(tmp_path, name):
    why, edit = CASES[name]
    files = edited(write_ct_series(tmp_path, slices=2, rows=32, columns=32), edit)
    found = scan(tmp_path)
    assert not found.series
    assert {(e.code, e.reason.split(";")[0]) for e in found.left_out} == {("E_QUANTITATIVE", why)}
    assert all("--allow-quantitative" in e.reason for e in found.left_out)
    allowed = scan(tmp_path, allow_quantitative=True)
    if name == "a parametric map":  # an enhanced class: this one has no functional groups
        assert {e.code for e in allowed.left_out} == {"E_MISSING_TAG"}
    else:
        assert [(one.quantity, sorted(one.paths)) for one in allowed.series] == [(why, files)]


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_image_is_no_measurement(tmp_path, name):
    edited(write_ct_series(tmp_path, slices=2, rows=32, columns=32), ORDINARY[name])
    (series,) = scan(tmp_path).series
    assert series.quantity == ""


def test_a_frame_type_or_rescale_type_of_a_functional_group_says_it(tmp_path):
    recipe = EnhancedRecipe(frames=stack(3), sop_class=EnhancedMRImageStorage)
    for name, edit in {
        "type": lambda d: setattr(
            d.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0], "FrameType",
            ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]),
        "unit": lambda d: setattr(
            d.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence[0],
            "RescaleType", "PCT"),
        "map": lambda d: setattr(
            d.PerFrameFunctionalGroupsSequence[2], "RealWorldValueMappingSequence", [Dataset()]),
    }.items():  # fmt: skip
        edited([write_enhanced(tmp_path / name / "a.dcm", recipe)], edit)
        assert [e.code for e in scan(tmp_path / name).left_out] == ["E_QUANTITATIVE"]
        (series,) = scan(tmp_path / name, allow_quantitative=True).series
        assert LoadVolume(allow_irregular=True, allow_quantitative=True)(
            series.paths[0]).meta["modality"] == "MR"  # fmt: skip


def write_mapping(path: Path, images: list[Path]) -> None:
    """Write an object that maps a series to real-world values, as a workstation does."""
    mapping = pydicom.dcmread(images[0], stop_before_pixels=True)
    references = []
    for image in map(pydicom.dcmread, images):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
            image.SOPClassUID, image.SOPInstanceUID)  # fmt: skip
        references.append(item)
    for tag in [e.tag for e in mapping if e.tag.group in (0x0028, 0x7FE0)]:
        del mapping[tag]
    mapping.SOPClassUID = mapping.file_meta.MediaStorageSOPClassUID = RealWorldValueMappingStorage
    mapping.SOPInstanceUID = mapping.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    mapping.SeriesInstanceUID, mapping.Modality = "1.2.3.4", "RWV"
    group = Dataset()
    group.ReferencedImageSequence = references
    group.RealWorldValueMappingSequence = [Dataset()]
    mapping.ReferencedImageRealWorldValueMappingSequence = [group]
    mapping.save_as(path)


def test_an_image_that_an_object_of_the_export_maps_is_refused(tmp_path):
    mapped = write_ct_series(tmp_path / "a", slices=2, rows=32, columns=32, modality="MR")
    free = write_ct_series(tmp_path / "b", slices=2, rows=32, columns=32, seed=2, patient_id="B")
    write_mapping(tmp_path / "rwv.dcm", mapped)
    found = scan(tmp_path)
    assert [sorted(one.paths) for one in found.series] == [free]
    assert {(e.path, e.code, e.reason.split(";")[0]) for e in found.left_out} == {
        (path, "E_QUANTITATIVE", MAPPED) for path in mapped
    }
    assert [one.path for one in found.objects] == [tmp_path / "rwv.dcm"]
    run("protect", tmp_path, "-o", tmp_path.parent / "out", "--method=random", status=3)
    protected = run("protect", tmp_path, "-o", tmp_path.parent / "both", "--method=random",
                    "--allow-quantitative", "--json")  # fmt: skip
    warned = [json.loads(line).get("warnings") for line in protected.stdout.splitlines()]
    assert [f"W_QUANTITATIVE: {MAPPED}; changed all the same, as was asked"] in warned


def run(*words: object, status: int = 0) -> Result:
    names = [str(word) for word in words]
    if words[0] in ("protect", "verify"):
        names.append("--progress=none")
    if words[0] == "protect":
        names.append("-j1")
    found = CliRunner().invoke(main, names)
    assert found.exit_code == status, found.output
    return found


def test_pet_is_protected_only_when_asked_for_and_files_and_manifest_say_so(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    pet(source / "pet")
    write_ct_series(source / "ct", patient_id="B", seed=2)
    words = ["protect", source, "-o", out, "--method=random"]
    assert "E_QUANTITATIVE" in run("scan", source, status=3).output
    assert "W_QUANTITATIVE" in run("scan", source, "--allow-quantitative").output
    run(*words, status=3)
    run("verify", source, out)  # PET that is not in OUT is as it should be
    refused = run(*words, "--allow-quantitative", status=6)
    assert "other settings" in refused.output
    asked = tmp_path / "asked"
    run("protect", source, "-o", asked, "--method=random", "--allow-quantitative")
    run("protect", source, "-o", asked, "--method=random", status=6)
    assert "2 series: every attribute" in run("verify", source, asked).output
    manifest = json.loads((asked / "manifest.json").read_text())
    said = {one["modality"]: one.get("quantitative") for one in manifest["series"]}
    assert said == {"PT": "PET measures uptake", "CT": None}
    for path in asked.rglob("*.dcm"):
        text = pydicom.dcmread(path).DerivationDescription
        is_pet = read(path).value(0x00080060) == b"PT"
        assert ("do not measure on this image" in text) == is_pet
    run("restore", asked, "-o", tmp_path / "back")


def test_the_override_is_a_setting_like_others(tmp_path, monkeypatch):
    pet(tmp_path / "in", slices=2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "salm-dicom.toml").write_text("[scan]\nallow-quantitative = true\n")
    run("scan", tmp_path / "in")
    (tmp_path / "salm-dicom.toml").unlink()
    monkeypatch.setenv("SALM_SCAN_ALLOW_QUANTITATIVE", "1")
    run("scan", tmp_path / "in")
    monkeypatch.delenv("SALM_SCAN_ALLOW_QUANTITATIVE")
    run("scan", tmp_path / "in", status=4)


def test_a_dose_is_copied_untouched_whatever_is_allowed(tmp_path):
    write_ct_series(tmp_path / "in" / "ct", slices=2)
    dose = tmp_path / "in" / "dose.dcm"
    dose.write_bytes((WHEEL / "rtdose_1frame.dcm").read_bytes())
    for name, more in {"plain": [], "allowed": ["--allow-quantitative"]}.items():
        run("protect", tmp_path / "in", "-o", tmp_path / name, "--method=random", *more)
        copies = [read(path) for path in (tmp_path / name).rglob("*.dcm")]
        (copy,) = [file for file in copies if file.value(0x00080060) == b"RTDOSE"]
        assert copy.value(0x7FE00010) == read(dose).value(0x7FE00010)


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"Modality": "PT", "Units": "Bq/mL"}, "PET measures uptake"),
        ({"Modality": "MR", "ImageType": ["DERIVED", "PRIMARY", "ADC"]}, "Image Type says"),
        ({"Modality": "MR", "Units": "ms"}, "the values have units"),
    ],
)
def test_a_sidecar_says_that_a_nifti_image_measures(tmp_path, about, why):
    path = write_nifti_file(tmp_path / "in" / "a.nii", modality=None)
    sidecar(path).write_text(json.dumps(about))
    assert why in run("scan", path.parent, status=4).output
    run("protect", path.parent, "-o", tmp_path / "out", "--method=random", "--allow-quantitative",
        status=3)  # fmt: skip
    said = json.loads(next((tmp_path / "out").rglob("image.json")).read_text())
    assert said["SalmDicom"]["QuantitativeValuesChanged"].startswith(why)
    assert "quantitative values were changed" in said["Description"]
    run("verify", path.parent, tmp_path / "out")


def test_monai_loads_a_measurement_and_protects_it_only_when_that_is_allowed(tmp_path):
    pet(tmp_path, slices=4)
    with pytest.raises(Quantitative):
        LoadVolume()(tmp_path)
    salm = SALM(Protector(plan=ProtectionPlan(method="random")))
    record = json.loads(salm(LoadVolume(allow_quantitative=True)(tmp_path)).meta["salm_record"])
    assert record["quantity"] == "PET measures uptake"
    from monai.transforms import LoadImage

    image = LoadImage(reader=VolumeReader, image_only=True, ensure_channel_first=True)(tmp_path)
    assert image.shape == (1, 64, 64, 4)
    with pytest.raises(MismatchError, match="E_QUANTITATIVE"):
        salm(image)
    reader = VolumeReader(allow_quantitative=True)
    allowed = LoadImage(reader=reader, image_only=True, ensure_channel_first=True)(tmp_path)
    assert salm(allowed).meta["salm_record"]


def test_real_measurements_are_refused_and_protected_when_asked_for(shared, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for path in (
        shared / "data" / "pt_dx_small" / "pt_qin_headneck.dcm",
        shared / "data" / "pydicom_variety" / "JPEG-LL.dcm",
        shared / "data" / "pydicom_variety" / "eCT_Supplemental.dcm",
    ):
        (source / path.name).write_bytes(path.read_bytes())
    assert {e.code for e in scan(source).left_out} == {"E_QUANTITATIVE"}
    run("protect", source, "-o", tmp_path / "out", "--method=random", "--allow-quantitative")
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 3
    run("verify", source, tmp_path / "out", "--rows=1,2")  # fidelity limits are another matter
