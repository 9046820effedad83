"""The pages of docs/reference name every code, command and exit status that there is."""

from __future__ import annotations

import re
from pathlib import Path

from salm_dicom import errors
from salm_dicom.batch import review  # noqa: F401, its errors
from salm_dicom.cli import console
from salm_dicom.cli.main import COMMANDS
from salm_dicom.dicom.derive import REMOVED

PAGES = Path(__file__).parent.parent.parent / "docs" / "reference"
TEXT = "\n".join(page.read_text() for page in sorted(PAGES.glob("*.md")))


def codes(kind: type[errors.SalmDicomError]) -> set[str]:
    """Return the codes of an error and of all below it that can stand beside a file."""
    return {kind.code}.union(*(codes(one) for one in kind.__subclasses__()))


def test_every_code_of_a_file_that_is_left_out_has_a_line():
    listed = set(re.findall(r"^\| `(E_\w+)` \|", TEXT, flags=re.MULTILINE))
    # the base class has no code of its own; slices of a gap are protected one by one instead
    raised = codes(errors.InputError) - {"E_INPUT", "E_SPACING"}
    assert raised | {"E_PLAN", "E_MISMATCH"} == listed


def test_every_command_and_exit_status_has_a_line():
    for name in COMMANDS:
        assert f"| `{name} " in TEXT
    statuses = set(re.findall(r"^\| (\d+) \|", TEXT, flags=re.MULTILINE))
    assert statuses == {*map(str, range(console.MISMATCH + 1)), str(console.INTERRUPTED)}


def test_every_attribute_that_is_removed_is_named():
    table = TEXT.lower()
    for name in REMOVED.values():
        assert name.lower().removesuffix(" sequence").removesuffix(" lengths") in table
