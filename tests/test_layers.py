"""Holds the package to its layers: who may import whom, and which part owns which heavy library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "salm_dicom"

# Lowest first. A part imports itself and the rows above its own; parts of one row are siblings.
LAYERS = (
    ("errors",),
    ("plots", "shared", "networks"),
    (
        "volume",
        "difference",
        "grid",
        "record",
        "quantity",
        "folder",
        "trace",
        "objectives",
        "checks",
        "crew",
        "patches",
    ),
    (
        "dicom",
        "nifti",
        "foreground",
        "perturb",
        "preprocessing",
        "learning",
        "victims",
        "fidelity",
        "report",
    ),
    ("plan",),
    ("intensity",),
    ("protector",),
    ("transforms",),
    ("batch", "audit"),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {part: level for level, row in enumerate(LAYERS) for part in row}
OWNERS = {
    "pydicom": {"dicom"},
    "highdicom": {"dicom"},
    "dicomanonymizer": {"dicom"},
    "pynetdicom": {"dicom"},
    "dicomweb_client": {"dicom"},
    "requests": {"dicom"},
    "cryptography": {"dicom"},
    "nibabel": {"nifti"},
    "SimpleITK": {"foreground", "fidelity"},
    "click": {"cli"},
    "jinja2": {"report"},
    "monai": {
        "networks",
        "objectives",
        "preprocessing",
        "victims",
        "fidelity",
        "transforms",
        "audit",
    },
    "matplotlib": {"plots"},
    "mirp": {"fidelity"},
    "distributed": {"batch"},
    "torch": {
        "perturb",
        "networks",
        "objectives",
        "patches",
        "preprocessing",
        "learning",
        "victims",
        "fidelity",
        "protector",
        "transforms",
        "batch",
        "audit",
    },
}
MOST_LINES = 300


def violations(package: Path) -> Iterator[str]:
    """Yield a sentence for each rule that a module of `package` breaks."""
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package)
        part = where.parts[0].removesuffix(".py")
        if part == "demo_data":
            continue
        source = path.read_text(encoding="utf-8")
        if len(source.splitlines()) > MOST_LINES:
            yield f"{where} has more than {MOST_LINES} lines"
        if part not in LEVEL:
            yield f"{where} has no place in LAYERS"
            continue
        for name in imported(source, (package.name, *where.with_suffix("").parts)):
            yield from (f"{where} {fault}" for fault in faults(part, name.split(".")))


def faults(part: str, name: list[str]) -> Iterator[str]:
    """Yield what is wrong with `part` importing the module or object `name`."""
    library, other = name[0], name[1] if len(name) > 1 else ""
    if part not in OWNERS.get(library, {part}):
        yield f"imports {library}, which belongs to {', '.join(sorted(OWNERS[library]))}"
    if library != PACKAGE.name or other not in LEVEL or other == part:
        return
    if LEVEL[other] == LEVEL[part]:
        yield f"imports its sibling {other}"
    elif LEVEL[other] > LEVEL[part]:
        yield f"imports {other}, which is above it"


def imported(source: str, module: tuple[str, ...]) -> Iterator[str]:
    """Yield the full name of everything that `source` imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module[: len(module) - node.level] if node.level else ()
            origin = ".".join([*base, node.module] if node.module else base)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def test_every_module_keeps_to_its_layer_its_libraries_and_its_length():
    assert list(violations(PACKAGE)) == []


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("errors.py", "import salm_dicom.volume", "imports volume, which is above it"),
        ("volume.py", "from salm_dicom.cli.main import main", "imports cli, which is above it"),
        ("grid.py", "from salm_dicom import volume", "imports its sibling volume"),
        ("dicom/scan.py", "from ..nifti import read", "imports its sibling nifti"),
        ("dicom/scan.py", "from .. import plan", "imports plan, which is above it"),
        ("batch/job.py", "def f():\n    import salm_dicom.audit", "imports its sibling audit"),
        ("cli/main.py", "from pydicom.uid import UID", "imports pydicom, which belongs to dicom"),
        ("batch/job.py", "import click", "imports click, which belongs to cli"),
        ("plan.py", "from torch import Tensor", "imports torch, which belongs to audit, batch"),
        ("volume.py", "x = 1\n" * 301, "has more than 300 lines"),
        ("utils.py", "", "has no place in LAYERS"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, source, fault):
    path = tmp_path / PACKAGE.name / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = violations(tmp_path / PACKAGE.name)
    assert found.startswith(f"{file} {fault}")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "dicom/scan.py",
            "import pydicom\nfrom salm_dicom.dicom import pixels\nfrom . import sort",
        ),
        ("cli/main.py", "import click\nfrom salm_dicom import __version__, batch, errors"),
        ("demo_data/odd.py", "import salm_dicom.cli, pydicom"),
    ],
)
def test_an_allowed_import_is_not_a_violation(tmp_path, file, source):
    path = tmp_path / PACKAGE.name / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert list(violations(tmp_path / PACKAGE.name)) == []


@pytest.mark.parametrize("module", ["salm_dicom", "salm_dicom.cli.main"])
def test_importing_the_package_and_its_command_line_loads_no_heavy_library(module):
    code = f"import sys, {module}; print(*{{'torch', 'monai', 'SimpleITK'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr


def test_a_process_that_does_jobs_does_not_wait_for_highdicom():
    late = {"highdicom", "torch", "monai"}
    code = f"import sys, salm_dicom.batch.job; print(*{late} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr
