"""Run MONAI's own tests of readers and writers, with its plug-ins and with ours in their place.

    python tests/monai_suite.py FOLDER [HOW ...]

FOLDER is a checkout of MONAI's repository (its `tests` and their data); `itk`, `parameterized`,
`requests` and `pynrrd` must be installed. Each way of substitution runs in a process of its own;
printed is how many cases passed, and each case that passes with MONAI's plug-ins only.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

FILES = [
    "tests.transforms.test_load_image",
    "tests.transforms.test_load_imaged",
    "tests.transforms.test_save_image",
    "tests.transforms.test_save_imaged",
    "tests.transforms.test_map_transform",
    "tests.data.test_image_rw",
]
READERS = ["NibabelReader", "PydicomReader", "ITKReader"]
WRITERS = ["NibabelWriter", "ITKWriter"]
EXTENSIONS = ["nii", "nii.gz", "dcm"]


def first() -> None:
    """Ask our plug-ins before MONAI's, which stay."""
    from monai.data import image_writer
    from monai.transforms.io.array import SUPPORTED_READERS

    from salm_dicom.transforms import VolumeReader, VolumeWriter

    SUPPORTED_READERS["volumereader"] = VolumeReader
    image_writer.init()
    for extension in EXTENSIONS:
        theirs = image_writer.resolve_writer(extension)
        image_writer.SUPPORTED_WRITERS[extension] = (VolumeWriter, *theirs)


def named(**options: Any) -> None:
    """Put ours under the names of MONAI's readers and writers of NIfTI and DICOM."""
    from monai.data import image_writer
    from monai.transforms.io import array

    from salm_dicom.transforms import VolumeReader, VolumeWriter

    class Reader(VolumeReader):
        """With the options of this run."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **options, **kwargs)

    image_writer.init()
    for name in READERS:
        _rename(name, Reader)
        array.SUPPORTED_READERS[name.lower()] = Reader
    for name in WRITERS:
        _rename(name, VolumeWriter)
    for extension in EXTENSIONS:
        image_writer.SUPPORTED_WRITERS[extension] = (VolumeWriter,)


def _rename(name: str, ours: type) -> None:
    places = ["monai.data", "monai.data.image_reader", "monai.data.image_writer"]
    for place in [*places, "monai.transforms.io.array"]:
        module = importlib.import_module(place)
        if hasattr(module, name):
            setattr(module, name, ours)


HOW: dict[str, Callable[[], None]] = {
    "monai": lambda: None,
    "first": first,
    "named": named,
    "named, allow_irregular": partial(named, allow_irregular=True),
}


class Outcomes(unittest.TextTestResult):
    """Remembers what came of each case."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.of: dict[str, str] = {}

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addSuccess(test)
        self.of[test.id()] = "passed"

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self.of[test.id()] = "skipped"

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self.of[test.id()] = _why(err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self.of[test.id()] = _why(err)


def _why(err: Any) -> str:
    lines = [line for line in str(err[1]).splitlines() if line.strip()]
    return f"{err[0].__name__}: {lines[0] if lines else ''} ... {lines[-1] if lines else ''}"


def run(how: str, output: Path) -> None:
    """Run all files in this process, in the current folder, and write what came of each case."""
    sys.path[0] = os.getcwd()
    HOW[how]()
    suite = unittest.defaultTestLoader.loadTestsFromNames(FILES)
    runner = unittest.TextTestRunner(resultclass=Outcomes)
    result: Any = runner.run(suite)
    output.write_text(json.dumps(result.of))


def main(folder: Path, wanted: list[str]) -> int:
    """Print the table; the status is 1 if a case passes with MONAI's plug-ins only."""
    came = {}
    for how in ["monai", *wanted]:
        with tempfile.TemporaryDirectory() as place:
            output = Path(place) / "outcomes.json"
            command = [sys.executable, str(Path(__file__).resolve()), "--run", how, str(output)]
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if ran.returncode:
                sys.exit(ran.stderr)
            came[how] = json.loads(output.read_text())
    theirs = {case for case, what in came["monai"].items() if what == "passed"}
    for file, count in Counter(case.split(".")[2] for case in came["monai"]).items():
        passed = sum(case.split(".")[2] == file for case in theirs)
        print(f"{file}: {count} cases, {passed} pass with MONAI's plug-ins")
    lost = False
    for how, outcome in came.items():
        passed = {case for case, what in outcome.items() if what == "passed"}
        print(f"{how}: {len(passed)} passed; {len(theirs - passed)} of MONAI's not")
        for case in sorted(theirs - passed):
            print(f"  {case}: {outcome.get(case, 'did not run')}")
            lost = True
    return int(lost)


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        run(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:] or list(HOW)[1:]))
