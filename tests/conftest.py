"""Fixtures: the optional folder of real data, outside programs, and a small export made in code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from tests.synthetic import write_ct_series

ROOT = Path(__file__).parent.parent
_PROGRAMS = ("dciodvfy", "dcmdump", "gdcmconv")
# How long an example takes says how busy the machine is.
settings.register_profile("salm", deadline=None)
settings.load_profile("salm")

_REQUIRED = os.environ.get("SALM_REQUIRE_PROGRAMS") == "1"


def _missing(what: str) -> None:
    """Skip with a reason; where everything must be there (CI), fail."""
    if _REQUIRED:
        pytest.fail(f"{what}, and SALM_REQUIRE_PROGRAMS=1")
    pytest.skip(what)


@pytest.fixture(autouse=True)
def _programs(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("programs")
    names = (*_PROGRAMS, *marker.args) if marker else ()
    absent = [name for name in names if not (shutil.which(name) or Path(name).exists())]
    if absent:
        _missing(f"programs {', '.join(absent)} are not installed")


@pytest.fixture(scope="session")
def cornerstone() -> Path:
    """Folder of the script that decodes as a Cornerstone viewer does, its packages installed."""
    folder = ROOT / "tests" / "cornerstone"
    if shutil.which("node") is None:
        _missing("node is not installed")
    if not (folder / "node_modules").is_dir():
        _missing(f"no packages in {folder.relative_to(ROOT)}: run `npm ci` in it")
    return folder


@pytest.fixture
def shared() -> Path:
    """Folder with more real data and the independent judge: SALM_SHARED, or the neighbour's."""
    folder = Path(os.environ.get("SALM_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        _missing("no folder of shared test data (SALM_SHARED)")
    return folder


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Two patients' CT series of three slices each, different enough to be told apart."""
    folder = tmp_path / "export"
    write_ct_series(folder / "a", patient_id="SYN001", seed=1, icon=True, pixel_range=True)
    write_ct_series(folder / "b", patient_id="SYN002", seed=2, lungs=False, padding=-2000)
    return folder
