"""A real PACS (Orthanc, on loopback) keeps protected studies and gives the same bytes back.

Stored over DIMSE, every byte of every data set comes back, over DICOMweb and over C-MOVE; only the
file meta information is the receiver's own, as PS3.10 says. Stored over DICOMweb, whole files do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import (
    RLELossless,
)

from salm_dicom.batch.protect import Request, protect
from salm_dicom.dicom.envelope import recipients
from salm_dicom.dicom.header import STUDY_UID, identity_of, text_of
from salm_dicom.dicom.part10 import Part10, parse
from salm_dicom.plan import ProtectionPlan
from tests import keys
from tests.orthanc import PLUGIN, Orthanc
from tests.synthetic import SYNTAXES, write_ct_series
from tests.synthetic_frames import (
    ColourRecipe,
    EnhancedRecipe,
    stack,
    write_colour,
    write_enhanced,
)
from tests.unit.derivations import DERIVATION

pytestmark = [pytest.mark.loopback, pytest.mark.programs("Orthanc", PLUGIN, "storescu", "movescu")]

# Group length, and which program wrote the file.
META = {0x00020000, 0x00020012, 0x00020013}


@pytest.fixture
def orthanc(tmp_path) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path)
    yield server
    server.process.terminate()
    server.process.wait(60)


def protected(source: Path, folder: Path) -> dict[str, list[Path]]:
    """Protect an export with envelopes; return the files of each study."""
    request = Request(
        source=source, output=folder / "out", vault=folder / "vault", protector=None, labels=None,
        plan=ProtectionPlan(method="random"), created=DERIVATION.created, site_key=b"k" * 16,
        recipients=recipients(keys.pem("Archive")[1]),
    )  # fmt: skip
    protect(request)
    studies = defaultdict(list)
    for path in sorted((folder / "out").rglob("*.dcm")):
        studies[text_of(parse(path.read_bytes()), STUDY_UID)].append(path)
    return studies


def data_set(file: Part10) -> bytes:
    return file.data[file.spans[0].start :]


def check_same(files: list[Path], found: list[bytes]) -> None:
    """Fail unless every data set is there, byte for byte, and the meta says nothing else."""
    theirs = {identity_of(file).sop_uid: file for file in map(parse, found)}
    assert len(theirs) == len(found) == len(files)
    for ours in (parse(path.read_bytes()) for path in files):
        file = theirs[identity_of(ours).sop_uid]
        assert data_set(file) == data_set(ours)
        assert file.data[:132] == ours.data[:132]
        changed = {t for t in ours.meta.keys() | file.meta if ours.meta.get(t) != file.meta.get(t)}
        assert changed <= META


def write_sources(folder: Path) -> None:
    for number, syntax in enumerate(SYNTAXES):
        write_ct_series(
            folder / f"{number}", slices=2, seed=number, patient_id=f"P{number}",
            transfer_syntax=syntax, icon=True, pixel_range=True,
        )  # fmt: skip
    frames = EnhancedRecipe(frames=stack(4), transfer_syntax=RLELossless, seed=7)
    write_enhanced(folder / "frames" / "a.dcm", frames)
    write_colour(folder / "colour" / "a.dcm", ColourRecipe(seed=8, rows=64, columns=64))


def check_there_and_back(orthanc: Orthanc, studies: dict[str, list[Path]], folder: Path) -> None:
    orthanc.store([path for files in studies.values() for path in files])
    for number, (study, files) in enumerate(studies.items()):
        check_same(files, orthanc.fetch_web(study))
        check_same(files, orthanc.fetch(study, folder / f"moved-{number}"))


def test_studies_of_every_syntax_come_back_byte_for_byte(orthanc, tmp_path):
    write_sources(tmp_path / "export")
    studies = protected(tmp_path / "export", tmp_path)
    assert len(studies) == len(SYNTAXES) + 2
    check_there_and_back(orthanc, studies, tmp_path)


@pytest.mark.parametrize("name", ["mr_siemens_mprage", "ct_siemens_j2k_series"])
def test_real_studies_come_back_byte_for_byte(orthanc, shared, tmp_path, name):
    check_there_and_back(orthanc, protected(shared / "data" / name, tmp_path), tmp_path)


def test_whole_files_stored_over_dicomweb_come_back_as_they_are(orthanc, tmp_path):
    write_sources(tmp_path / "export")
    for study, files in protected(tmp_path / "export", tmp_path).items():
        orthanc.store_web(files)
        found = orthanc.fetch_web(study)
        assert sorted(found) == sorted(path.read_bytes() for path in files)
