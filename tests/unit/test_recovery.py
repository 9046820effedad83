"""The way back inside the file: envelopes that key holders open, and nobody else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.filereader import read_dataset
from pydicom.pixels import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.recover import recover
from salm_dicom.dicom import envelope, recovery
from salm_dicom.dicom.conformance import check_header
from salm_dicom.dicom.derive import ENCRYPTED, derived
from salm_dicom.dicom.encode import is_exactly
from salm_dicom.dicom.items import items_of
from salm_dicom.dicom.part10 import Part10, parse, read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.restore import restored
from salm_dicom.dicom.splice import EXPLICIT_LITTLE
from salm_dicom.errors import MismatchError, PlanError, UnsafeError
from salm_dicom.plan import ProtectionPlan
from tests import keys
from tests.command import run
from tests.synthetic import RAW_SYNTAXES, SYNTAXES, write_ct_series
from tests.synthetic_frames import (
    ColourRecipe,
    EnhancedRecipe,
    stack,
    write_colour,
    write_enhanced,
)
from tests.unit.derivations import DERIVATION, derive

ARCHIVE, OTHER = keys.pem("Archive"), keys.pem("Other")
FOR_ARCHIVE = replace(DERIVATION, recipients=envelope.recipients(ARCHIVE[1]))
CASES = {syntax.name: {"transfer_syntax": syntax} for syntax in SYNTAXES}


def key_of(pair: tuple[bytes, bytes]) -> envelope.Key:
    return envelope.read_key(*pair, lambda: "")


def ct(tmp_path: Path, **recipe) -> Part10:
    return read(write_ct_series(tmp_path / "source", slices=1, **recipe)[0])


def came_back(source: Part10, protected: Part10) -> bytes:
    """Restore a file from its own envelope and return it; it has the source's pixels."""
    data, is_source = restored(protected, recovery.recovered(protected, key_of(ARCHIVE)))
    assert is_source == (data == source.data)
    assert is_exactly(parse(data), source, np.zeros(stored_values(source).shape, int))
    return data


@pytest.mark.parametrize("recipe", CASES.values(), ids=CASES)
def test_a_key_holder_restores_the_source_from_the_file_alone(tmp_path, recipe):
    source = ct(tmp_path, icon=True, pixel_range=True, **recipe)
    data = came_back(source, derive(source, FOR_ARCHIVE))
    assert data == source.data or source.transfer_syntax.is_encapsulated


@pytest.mark.parametrize(
    "recipe",
    [
        ColourRecipe(photometric="RGB", planar=1),
        ColourRecipe(photometric="YBR_FULL_422"),
        ColourRecipe(photometric="MONOCHROME2", transfer_syntax=DeflatedExplicitVRLittleEndian),
        ColourRecipe(photometric="RGB", frames=3),
    ],
    ids=lambda r: f"{r.photometric} {r.frames} {r.transfer_syntax.name}",
)
def test_colour_frames_and_deflated_files_come_back_too(tmp_path, recipe):
    source = read(write_colour(tmp_path / "a.dcm", recipe))
    values = stored_values(source).copy()
    values[..., 12:14, 12:14] += 1
    came_back(source, parse(derived(source, values, FOR_ARCHIVE)))


def test_an_enhanced_image_comes_back_byte_for_byte(tmp_path):
    source = read(write_enhanced(tmp_path / "a.dcm", EnhancedRecipe(frames=stack(4))))
    values = stored_values(source).copy()
    values[:, 20, 18] += 1
    assert came_back(source, parse(derived(source, values, FOR_ARCHIVE))) == source.data


@pytest.mark.parametrize("syntax", RAW_SYNTAXES, ids=lambda s: s.name)
def test_an_envelope_is_all_that_differs_and_holds_what_the_standard_says(tmp_path, syntax):
    source = ct(tmp_path, transfer_syntax=syntax)
    plain, with_envelope = derive(source), derive(source, FOR_ARCHIVE)
    assert with_envelope.element_bytes([ENCRYPTED]) == plain.element_bytes()
    assert check_header(source, with_envelope) == []
    dataset = pydicom.dcmread(BytesIO(with_envelope.data))
    (item,) = dataset.EncryptedAttributesSequence
    assert item.EncryptedContentTransferSyntaxUID == "1.2.840.10008.1.2.1"
    content = envelope.opened(item.EncryptedContent, key_of(ARCHIVE))
    (original,) = parse_content(content).ModifiedAttributesSequence
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "ImageType", "SeriesNumber"):
        assert original[name].value == source.dataset[name].value


def test_another_key_opens_nothing(tmp_path):
    protected = derive(ct(tmp_path), FOR_ARCHIVE)
    with pytest.raises(MismatchError, match="cannot be opened with this key"):
        recovery.recovered(protected, key_of(OTHER))


def test_each_of_several_recipients_opens_the_envelope(tmp_path):
    both = envelope.recipients(ARCHIVE[1] + OTHER[1])
    protected = derive(ct(tmp_path), replace(DERIVATION, recipients=both))
    one, other = (recovery.recovered(protected, key_of(pair)) for pair in (ARCHIVE, OTHER))
    assert one.sha256 == other.sha256
    assert one.head == other.head


def test_envelopes_of_the_source_are_kept_before_ours(tmp_path):
    path = write_ct_series(tmp_path / "source", slices=1)[0]
    dataset = pydicom.dcmread(path)
    theirs = pydicom.Dataset()
    theirs.EncryptedContentTransferSyntaxUID = "1.2.840.10008.1.2.1"
    theirs.EncryptedContent = b"\x30\x02\x05\x00"
    dataset.EncryptedAttributesSequence = [theirs]
    dataset.save_as(path)
    source = read(path)
    protected = derive(source, FOR_ARCHIVE)
    assert len(items_of(protected, ENCRYPTED)) == 2
    assert check_header(source, protected) == []
    assert came_back(source, protected) == source.data
    findings = check_header(source, derive(ct(tmp_path / "other"), FOR_ARCHIVE))
    assert any("(0400,0500)" in finding.text for finding in findings)


def test_references_that_were_mapped_come_back_as_they_were(tmp_path):
    path = write_ct_series(tmp_path / "source", slices=1)[0]
    dataset = pydicom.dcmread(path)
    one = pydicom.Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = dataset.SOPClassUID, "1.2.3"
    dataset.ReferencedImageSequence = [one]
    dataset.save_as(path)
    source = read(path)
    how = replace(FOR_ARCHIVE, references=lambda uid: {"1.2.3": "1.2.3.4"}.get(uid, uid))
    protected = derive(source, how)
    (there,) = protected.dataset.ReferencedImageSequence
    assert there.ReferencedSOPInstanceUID == "1.2.3.4"
    assert came_back(source, protected) == source.data


def test_a_file_whose_pixels_were_changed_since_is_not_restored(tmp_path):
    protected = derive(ct(tmp_path), FOR_ARCHIVE)
    changed = bytearray(protected.data)
    changed[-2] ^= 1
    file = parse(bytes(changed))
    with pytest.raises(MismatchError, match="was changed"):
        restored(file, recovery.recovered(file, key_of(ARCHIVE)))


def sealed_file(tmp_path, content: bytes) -> Part10:
    """Return a protected file whose envelope, in its right place, holds `content`."""
    protected = derive(ct(tmp_path), FOR_ARCHIVE)
    code = EXPLICIT_LITTLE
    sealed = envelope.sealed(content, FOR_ARCHIVE.recipients)
    item = code.item((code.element(0x04000520, "OB", sealed),))
    span = next(span for span in protected.spans if span.tag == ENCRYPTED)
    data = protected.data
    return parse(data[: span.start] + code.element(ENCRYPTED, "SQ", item) + data[span.stop :])


def modified(tmp_path, **changes: bytes) -> bytes:
    """Return the content of a good envelope with values of our private block replaced."""
    source = ct(tmp_path / "good")
    change = np.zeros(stored_values(source).shape, int)
    change[3, 3] = 1
    content = parse_content(recovery._content(source, change))
    for name, value in changes.items():
        content.ModifiedAttributesSequence[0][getattr(recovery, name)].value = value
    out = BytesIO()
    pydicom.dcmwrite(out, content, implicit_vr=False, little_endian=True)
    return out.getvalue()


def parse_content(content: bytes) -> pydicom.Dataset:
    return read_dataset(BytesIO(content), is_implicit_VR=False, is_little_endian=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"_OWNER_": b""},
        {"_FILE": zlib.compress(bytes(1 << 28))},
        {"_CHANGE": zlib.compress(bytes(1 << 28))},
        {"_WHERE": zlib.compress(b"")},
        {"_WHERE": b"no zlib stream!!"},
        {"_SHAPE": [1 << 31, 1 << 31]},
        {"_SHAPE": [64, 63]},
        {"_SIZES": [1, 2, 3]},
    ],
    ids=str,
)
def test_an_envelope_with_something_else_in_it_is_refused(tmp_path, changes):
    content = b"nothing" if "_OWNER_" in changes else modified(tmp_path, **changes)
    with pytest.raises(MismatchError, match="does not hold"):
        recovery.recovered(sealed_file(tmp_path, content), key_of(ARCHIVE))


def test_the_envelope_that_is_changed_above_is_otherwise_good(tmp_path):
    kept = recovery.recovered(sealed_file(tmp_path, modified(tmp_path)), key_of(ARCHIVE))
    assert kept.delta[3, 3] == 1


@pytest.fixture(scope="module")
def protected(tmp_path_factory) -> Part10:
    return derive(ct(tmp_path_factory.mktemp("a"), rows=16, columns=16), FOR_ARCHIVE)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=200)
def test_a_damaged_envelope_is_a_mismatch_or_harmless(protected, place, bit):
    data = bytearray(protected.data)
    span = next(span for span in protected.spans if span.tag == ENCRYPTED)
    sealed = protected.data.index(b"\x30\x82", span.value)
    data[sealed + int(place * (span.stop - sealed))] ^= 1 << bit
    file = parse(bytes(data))
    try:
        back, is_source = restored(file, recovery.recovered(file, key_of(ARCHIVE)))
    except MismatchError:
        return
    assert is_source
    assert np.array_equal(stored_values(parse(back)).shape, stored_values(file).shape)


def request(export: Path, *certificates: bytes) -> Request:
    return Request(
        source=export,
        output=export.parent / "out",
        vault=export.parent / "vault",
        plan=ProtectionPlan(method="random"),
        protector=None,
        labels=None,
        created=datetime(2026, 1, 2, tzinfo=UTC),
        site_key=b"k" * 16,
        recipients=envelope.recipients(b"".join(certificates)) if certificates else (),
    )


def test_an_output_is_restored_without_its_vault(export):
    protect(request(export, ARCHIVE[1]))
    shutil.rmtree(export.parent / "vault")
    out, back = export.parent / "out", export.parent / "back"
    found = recover(out, key_of(ARCHIVE), back)
    assert (found.identical, found.recompressed, found.failed) == (6, 0, ())
    sources = {path.read_bytes() for path in export.rglob("*.dcm")}
    assert {path.read_bytes() for path in back.rglob("*.dcm")} == sources
    assert {path.stat().st_mode & 0o777 for path in back.rglob("*.dcm")} == {0o600}


def test_without_recipients_no_file_has_an_envelope(export):
    protect(request(export))
    out, back = export.parent / "out", export.parent / "back"
    assert all(ENCRYPTED not in read(path) for path in out.rglob("*.dcm"))
    found = recover(out, key_of(ARCHIVE), back)
    assert {reason.split(";")[0] for _, reason in found.failed} == {"E_MISMATCH: has no envelope"}
    assert len(found.failed) == 6
    assert not back.exists()


def test_an_output_is_not_continued_for_other_recipients(export):
    protect(request(export, ARCHIVE[1]))
    for others in ((), (OTHER[1],)):
        with pytest.raises(UnsafeError, match="other settings"):
            protect(request(export, *others))


def test_the_command_line_embeds_and_restores(export, tmp_path):
    private, certificate = keys.pem("Locked", password="open sesame")
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "both.pem").write_bytes(private + certificate)
    out, back = tmp_path / "out", tmp_path / "back"
    options = ("--method=random", "--progress=none", "--embed-recovery", tmp_path / "cert.pem")
    assert run("protect", export, "-o", out, *options).exit_code == 0
    assert run("verify", export, out, "--progress=none").exit_code == 0
    restore = ("restore", out, "-o", back, "--private-key", tmp_path / "both.pem")
    wrong = run(*restore, stdin="guess\n")
    assert (wrong.exit_code, back.exists()) == (2, False)
    found = run(*restore, stdin="open sesame\n")
    assert found.exit_code == 0, found.output
    assert "6 are the source file" in found.output


def test_a_vault_and_a_key_together_or_a_certificate_alone_are_usage_errors(export, tmp_path):
    (tmp_path / "key.pem").write_bytes(b"".join(ARCHIVE))
    restore = ("restore", export, "-o", tmp_path / "back")
    assert run(*restore, "--private-key", tmp_path / "key.pem", "--vault", tmp_path).exit_code == 2
    assert run(*restore, "--certificate", tmp_path / "key.pem").exit_code == 2


@pytest.mark.parametrize(
    ("certificate", "fault"),
    [
        (b"no certificate", "cannot be read"),
        (ARCHIVE[0], "cannot be read"),
        (keys.pem("short", bits=1024)[1], "2048 bits"),
        (keys.pem("curve", bits=0)[1], "no RSA key"),
    ],
    ids=["text", "a private key", "1024 bits", "elliptic curve"],
)
def test_a_certificate_that_cannot_be_used_is_refused(certificate, fault):
    with pytest.raises(PlanError, match=fault):
        envelope.recipients(certificate)


@pytest.mark.parametrize(
    ("key", "certificate", "fault"),
    [
        (b"no key", ARCHIVE[1], "private key cannot be read"),
        (ARCHIVE[0], OTHER[1], "another key's"),
        (ARCHIVE[0], ARCHIVE[0], "certificate cannot be read"),
        (keys.pem("curve", bits=0)[0], ARCHIVE[1], "no RSA key"),
        (keys.pem("Locked", password="open sesame")[0], ARCHIVE[1], "password"),
    ],
    ids=["text", "other certificate", "no certificate", "elliptic curve", "wrong password"],
)
def test_a_key_that_cannot_be_used_is_refused(key, certificate, fault):
    with pytest.raises(PlanError, match=fault):
        envelope.read_key(key, certificate, lambda: "wrong")


def test_without_the_extra_the_error_says_what_to_install():
    code = "import sys; sys.modules['cryptography'] = None; import salm_dicom.dicom.envelope"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'salm_dicom[recovery]'" in done.stderr


@pytest.mark.programs
@pytest.mark.parametrize("recipe", CASES.values(), ids=CASES)
def test_gdcm_opens_the_envelope_and_gives_the_attributes_back(tmp_path, recipe):
    source = ct(tmp_path, **recipe)
    protected = derive(source, FOR_ARCHIVE)
    (tmp_path / "protected.dcm").write_bytes(protected.data)
    for name, pem in zip(("key", "certificate"), ARCHIVE, strict=True):
        (tmp_path / f"{name}.pem").write_bytes(pem)
    command = [
        "gdcmanon", "-d", "-k", "key.pem", "-c", "certificate.pem", "protected.dcm", "back.dcm",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    back, was = pydicom.dcmread(tmp_path / "back.dcm"), source.dataset
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "ImageType", "SeriesNumber"):
        assert back[name].value == was[name].value
    assert back.SOPInstanceUID != protected.dataset.SOPInstanceUID
    assert np.array_equal(pixel_array(back, raw=True), stored_values(protected))
