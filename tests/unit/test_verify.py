"""`verify` as a function: what it reads, and how often."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.verify import verify
from salm_dicom.dicom import part10
from salm_dicom.fidelity import Limits
from salm_dicom.plan import ProtectionPlan


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
