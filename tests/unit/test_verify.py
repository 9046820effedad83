"""`verify` as a function: what it reads, and how often."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless

from salm_dicom.batch import beside as beside_module
from salm_dicom.batch import verify as verify_module
from salm_dicom.batch.looking import Beheld, Look, Looked
from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.verify import Shares, effort, verify
from salm_dicom.cli.main import main
from salm_dicom.dicom import part10
from salm_dicom.dicom.scan import scan
from salm_dicom.errors import UnevenSpacing, Unreadable
from salm_dicom.fidelity import Limits
from salm_dicom.plan import ProtectionPlan
from tests.synthetic import write_ct_series
from tests.synthetic_frames import EnhancedRecipe, stack, write_enhanced


def protected(export: Path) -> Path:
    """Return the protected copy of an export."""
    output = export.parent / "out"
    protect(
        Request(
            source=export, output=output, vault=export.parent / "vault",
            plan=ProtectionPlan(method="random"), protector=None, labels=None,
            created=datetime(2026, 1, 2, tzinfo=UTC), site_key=b"k" * 16,
        )
    )  # fmt: skip
    return output


def test_each_image_of_both_copies_is_read_whole_once(export, monkeypatch):
    output = protected(export)
    read, original = Counter(), part10.read_bytes
    monkeypatch.setattr(part10, "read_bytes", lambda p: read.update([p]) or original(p))
    found = verify(export, output, Limits())
    images = [*export.rglob("*.dcm"), *output.rglob("*.dcm")]
    assert len(images) == 12
    assert {path: read[path] for path in images} == dict.fromkeys(images, 1)
    assert [one.findings for one in found.series] == [(), ()]


def test_what_comes_of_a_series_does_not_hang_on_the_order_of_its_files(export):
    """The names of the files are not in the order of the slices."""
    output = protected(export)
    before = verify(export, output, Limits()).series
    paths = sorted((export / "a").iterdir())
    for path in paths:
        path.rename(path.with_name(f"moved_{path.name}"))
    for path, other in zip(paths, reversed(paths), strict=True):
        path.with_name(f"moved_{path.name}").rename(other)
    assert verify(export, output, Limits()).series == before


def with_block(folder: Path, level: int, block: np.ndarray, rest: int = 4095) -> None:
    """Write a block of values, and nothing above `rest` elsewhere, into the slices of a folder."""
    for path in folder.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        pixels = np.minimum(image.pixel_array, rest)
        pixels[20 : 20 + len(block), 20 : 20 + block.shape[1]] = level + block
        image.PixelData = pixels.astype(np.uint16).tobytes()
        image.save_as(path)


@pytest.mark.parametrize(("level", "rest"), [(4090, 4095), (3000, 3005)])
@pytest.mark.parametrize("planted", [0, 5])
def test_values_clipped_at_an_end_of_the_range_are_counted(tmp_path, level, rest, planted):
    """At the end of 12 bits, and at the largest value that the source uses."""
    write_ct_series(
        tmp_path / "export", slices=2, rows=64, columns=64, bits_stored=12, signed=False
    )
    block = np.zeros((6, 6), dtype=int)
    block[0, 0] = 5  # lies at the end in the source already
    with_block(tmp_path / "export", level, block, rest)
    output = protected(tmp_path / "export")
    for path in output.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        uid = image.SourceImageSequence[-1].ReferencedSOPInstanceUID
        sources = map(pydicom.dcmread, (tmp_path / "export").rglob("*.dcm"))
        (source,) = (one for one in sources if one.SOPInstanceUID == uid)
        pixels = source.pixel_array.copy()
        pixels[23, 20 : 20 + planted] = level + 5
        image.PixelData = pixels.tobytes()
        image.save_as(path)
    (found,) = verify(tmp_path / "export", output, Limits()).series
    (clipped,) = (one for one in found.checks if one.name == "clipped")
    assert clipped.value == 2 * planted
    assert found.findings == ()
    assert found.verdicts[2] == ("not as wanted" if planted else "met")
    assert not found.missed


@pytest.fixture
def four(tmp_path) -> Path:
    """An export of four patients, one series each."""
    for number in range(4):
        folder = tmp_path / "export" / str(number)
        write_ct_series(folder, slices=3, patient_id=f"P{number}", seed=number)
    return tmp_path / "export"


def spoil_a_background_voxel(output: Path) -> None:
    path = min(output.rglob("*.dcm"))
    image = pydicom.dcmread(path)
    pixels = image.pixel_array.copy()
    pixels[0, 0] += 1
    image.PixelData = pixels.tobytes()
    image.save_as(path)


def test_what_verify_says_does_not_hang_on_how_many_processes_work(four):
    output = protected(four)
    spoil_a_background_voxel(output)
    words = ["verify", str(four), str(output), "--json", "--progress=none"]
    one, two = (CliRunner().invoke(main, [*words, f"--jobs={jobs}"]) for jobs in (1, 2))
    assert one.exit_code == two.exit_code == 9
    assert "BACKGROUND_CHANGED" in one.output
    assert one.output == two.output


class Deadly(Look):
    """Dies of the third series."""

    def __call__(self, one: Beheld) -> Looked:
        if one.series.headers[0].patient_id == "P2":
            os._exit(9)
        return super().__call__(one)


def test_a_series_that_kills_its_worker_is_an_entry_with_a_code(four, monkeypatch):
    output = protected(four)
    whole = verify(four, output, Limits())
    monkeypatch.setattr(verify_module, "Look", Deadly)
    found = verify(four, output, Limits(), jobs=2)
    codes = [[finding.code for finding in one.findings] for one in found.series]
    assert sorted(codes) == [[], [], [], ["E_CRASH"]]
    dead = codes.index(["E_CRASH"])
    assert found.series[dead].name == whole.series[dead].name
    assert [one for one in found.series if not one.findings] == [
        one for number, one in enumerate(whole.series) if number != dead
    ]


def test_an_interrupted_verify_ends_with_130_and_leaves_no_process(four):
    output = protected(four)
    command = [sys.executable, "-m", "salm_dicom", "verify", str(four), str(output), "--jobs=2"]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, process_group=0, stdout=subprocess.DEVNULL
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "verify: 0 of 4\n"
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(60) == 130
    assert "interrupted" in running.stderr.read()  # ends when nobody holds stderr any more


def test_an_error_of_ours_comes_whole_from_another_process():
    error = UnevenSpacing((1.0, 2.0))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (UnevenSpacing, str(error))
    assert again.gaps_mm == (1.0, 2.0)


# --- slices of one series, shared


@pytest.fixture
def sharing(monkeypatch) -> None:
    """Small slices are worth sharing."""
    monkeypatch.setattr(verify_module, "_ENOUGH_VOXELS", 10 * 64**2)


@pytest.fixture
def long(tmp_path, sharing) -> Path:
    """An export of one series of many slices, and of one that has few."""
    write_ct_series(tmp_path / "export" / "long", slices=40)
    write_ct_series(tmp_path / "export" / "short", slices=3, patient_id="P2", seed=1)
    return tmp_path / "export"


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_what_verify_says_does_not_hang_on_how_many_share_the_slices(tmp_path, syntax):
    write_ct_series(tmp_path / "export", slices=30, transfer_syntax=syntax, padding=-2000)
    output = protected(tmp_path / "export")
    if syntax == ExplicitVRLittleEndian:
        spoil_a_background_voxel(output)
    words = ["verify", str(tmp_path / "export"), str(output), "--json", "--progress=none"]
    said = [CliRunner().invoke(main, [*words, f"--jobs={jobs}"]).output for jobs in (1, 2, 3)]
    assert ("BACKGROUND_CHANGED" in said[0]) == (syntax == ExplicitVRLittleEndian)
    assert len(said[0].splitlines()) == 2
    assert said[1:] == said[:1] * 2


@pytest.mark.usefixtures("sharing")
def test_multi_frame_files_are_shared_too(tmp_path):
    frames = (*stack(15, echo=30.0)[::-1], *stack(15, echo=10.0))
    recipe = EnhancedRecipe(frames=frames, sop_class=EnhancedMRImageStorage, rows=64, columns=64)
    (tmp_path / "export").mkdir()
    write_enhanced(tmp_path / "export" / "a.dcm", recipe)
    output = protected(tmp_path / "export")
    one, two = (verify(tmp_path / "export", output, Limits(), jobs=jobs) for jobs in (1, 2))
    assert one.series[0].slices == 30
    assert one == two


def test_an_unreadable_slice_ends_a_shared_verify_as_it_ends_one_alone(long, monkeypatch):
    output, whole = protected(long), beside_module.read_file

    def unreadable(path: Path) -> object:
        if path.name in ("IM00030.dcm", "IM00035.dcm"):
            raise Unreadable(f"{path.name} cannot be read")
        return whole(path)

    monkeypatch.setattr(beside_module, "read_file", unreadable)
    for jobs in (1, 2, 3):
        with pytest.raises(Unreadable, match=r"IM00030\.dcm cannot be read"):
            verify(long, output, Limits(), jobs=jobs)


def test_a_series_one_of_whose_copies_dies_is_an_entry_with_a_code(long, monkeypatch):
    output, whole = protected(long), beside_module.read_file
    before = verify(long, output, Limits())
    monkeypatch.setattr(
        beside_module,
        "read_file",
        lambda path: os._exit(9) if path.name == "IM00035.dcm" else whole(path),
    )
    found = verify(long, output, Limits(), jobs=2)
    codes = [[finding.code for finding in one.findings] for one in found.series]
    assert sorted(codes) == [[], ["E_CRASH"]]
    kept = codes.index([])
    assert found.series[kept] == before.series[kept]


def test_an_interrupt_ends_copies_that_share_slices(long):
    """They wait for ever, so that nothing but the interrupt ends them."""
    output = protected(long)
    code = (
        "import os\n"
        "from salm_dicom.batch import beside, verify\n"
        "from salm_dicom.cli.main import main\n"
        "whole, (never, _) = beside.read_file, os.pipe()\n"
        "wait = lambda path: os.read(never, 1)\n"
        "beside.read_file = lambda p: (whole if p.name == 'IM00001.dcm' else wait)(p)\n"
        "verify._ENOUGH_VOXELS = 10 * 64**2\n"
        "main()\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, "verify", str(long), str(output), "--jobs=2"],
        stderr=subprocess.PIPE, text=True, process_group=0, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert running.stderr is not None
    assert running.stderr.readline() == "verify: 0 of 2\n"
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(60) == 130
    assert "interrupted" in running.stderr.read()  # ends when nobody holds stderr any more


@pytest.mark.parametrize(
    ("slices", "jobs", "series", "each"),
    [
        ([300], 1, 0, 1),  # this process alone
        ([300], 2, 1, 2),
        ([300], 16, 1, 4),
        ([300] * 8, 16, 4, 4),
        ([1] * 50, 2, 2, 1),  # nothing to share in a series
        ([50], 2, 0, 1),  # nor anything to share
        ([], 2, 0, 1),
    ],
)
def test_who_does_what_follows_the_work_there_is(slices, jobs, series, each, monkeypatch):
    monkeypatch.setattr(verify_module, "effort", lambda count: count * 512**2)
    shares = Shares.of(slices, jobs)
    assert (shares.series, shares.slices) == (series, each)


def test_compressed_series_are_more_work(tmp_path):
    for number, syntax in enumerate((ExplicitVRLittleEndian, JPEG2000Lossless)):
        write_ct_series(tmp_path / str(number), slices=2, transfer_syntax=syntax, seed=number)
    raw, compressed = (
        effort(Beheld(series=scan(tmp_path / str(number)).series[0], pairs={})) for number in (0, 1)
    )
    assert raw == 2 * 64 * 64
    assert compressed == 8 * raw
