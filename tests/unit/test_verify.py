"""`verify` as a function: what it reads, and how often."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.verify import verify
from salm_dicom.dicom import part10
from salm_dicom.fidelity import Limits
from salm_dicom.plan import ProtectionPlan
from tests.synthetic import write_ct_series


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
