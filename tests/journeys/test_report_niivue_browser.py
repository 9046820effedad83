"""A page with a volume, opened from disk in a browser with and without WebGL 2."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from salm_dicom.cli.main import main
from tests.chromium import Chromium
from tests.synthetic import write_ct_series

NAME = "<script>alert(1)</script>{{7*7}}\u202e"
ROWS, COLUMNS, SLICES = 96, 128, 6
READY = "document.getElementById('readout').textContent.startsWith('slice')"
READOUT = "document.getElementById('readout').textContent"
# The picture as it is: the graphics keep none, so it is taken in the frame that draws it.
PICTURE = (
    "new Promise((done) => { window.dispatchEvent(new Event('resize'));"
    " requestAnimationFrame(() => done(document.getElementById('scene').toDataURL())); })"
)
# How blue and how orange it is, all pixels together.
TINTS = (
    f"{PICTURE}.then((address) => new Promise((done) => {{ const image = new Image();"
    " image.onload = () => { const c = document.createElement('canvas');"
    " c.width = image.width; c.height = image.height; const context = c.getContext('2d');"
    " context.drawImage(image, 0, 0); const found = [0, 0];"
    " const { data } = context.getImageData(0, 0, c.width, c.height);"
    " for (let i = 0; i < data.length; i += 4) {"
    " const warm = data[i] - data[i + 2]; found[Number(warm > 0)] += Math.abs(warm); }"
    " done(found); }; image.src = address; }))"
)


@pytest.fixture(scope="module")
def journey(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Source, output and page of a series in a folder of a hostile name."""
    place = tmp_path_factory.mktemp("browser")
    export, out, pages = (place / name for name in ("export", "out", "pages"))
    write_ct_series(export, slices=SLICES, rows=ROWS, columns=COLUMNS)
    protect = ["protect", export, "-o", out, "--method=random", "-j1", "--progress=none"]
    assert CliRunner().invoke(main, [*map(str, protect)]).exit_code == 0
    (out / "patient-0001" / "study-01" / "series-001").rename(out / NAME.replace("/", ""))
    report = ["report", out, "--source", export, "-o", pages, "--viewer=niivue", "--progress=none"]
    assert CliRunner().invoke(main, [*map(str, report)]).exit_code == 0
    (page,) = (path for path in pages.iterdir() if path.name != "index.html")
    return export, out, page


def hounsfield(folder: Path) -> np.ndarray:
    """Return the values in HU, (slices, rows, columns)."""
    files = [pydicom.dcmread(path) for path in folder.rglob("*.dcm")]
    files.sort(key=lambda one: one.ImagePositionPatient[2])
    return np.stack(
        [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in files]
    )


def said(before: np.ndarray, after: np.ndarray, slice_: int, row: int, column: int) -> str:
    a, b = (f"{one[slice_, row, column]:g}".replace("-", "\u2212") for one in (before, after))
    change = after[slice_, row, column] - before[slice_, row, column]
    sign = "+" if change > 0 else ""
    return (
        f"slice {slice_ + 1}, row {row + 1}, column {column + 1}: source {a} \u2192 protected {b} "
        f"HU, change {sign}{change:g}".replace("-", "\u2212")
        + " HU"
    )


def read_out(browser: Chromium) -> tuple[int, int, int]:
    """Return slice, row and column of the crosshair, from 0."""
    found = re.match(r"slice (\d+), row (\d+), column (\d+): ", browser.value(READOUT))
    assert found
    slice_, row, column = (int(text) - 1 for text in found.groups())
    return slice_, row, column


def set_to(browser: Chromium, element: str, value: object, event: str) -> None:
    browser.value(
        f"(() => {{ const e = document.getElementById('{element}'); e.value = {value!r};"
        f" e.dispatchEvent(new Event('{event}')); }})()"
    )


@pytest.mark.programs("chromium")
def test_a_reader_walks_through_a_volume_and_every_value_read_is_that_of_the_files(
    journey, tmp_path
):
    export, out, page = journey
    before, after = hounsfield(export), hounsfield(out)
    with Chromium(tmp_path / "profile", webgl=True) as browser:
        browser.open(page)
        browser.wait_for(READY)
        middle = (SLICES // 2, ROWS // 2, COLUMNS // 2)
        assert browser.value(READOUT) == said(before, after, *middle)
        window = "document.getElementById('window').textContent"
        assert browser.value(window) == "level 40, width 400"
        preset = "document.getElementById('preset').value"
        assert browser.value(preset) == "DICOM window"

        for index in (0, 4):
            set_to(browser, "slice", index, "input")
            assert browser.value(READOUT) == said(before, after, index, *middle[1:])

        # the axial plane is all that is seen: a click anywhere in it moves row and column
        set_to(browser, "layout", "AXIAL", "change")
        box = browser.value(
            "(() => { const e = document.getElementById('scene'); e.scrollIntoView();"
            " const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
        )
        seen, changed = set(), 0
        for across, down in ((-0.12, 0.05), (0.1, 0.2), (0.05, -0.22), (-0.2, -0.1), (0.02, 0.3)):
            x, y = box[0] + box[2] / 2 + across * box[3], box[1] + box[3] * (0.5 + down)
            for kind in ("mousePressed", "mouseReleased"):
                browser.mouse(kind, x, y, button="left", clickCount=1)
            slice_, row, column = read_out(browser)
            assert browser.value(READOUT) == said(before, after, slice_, row, column)
            assert slice_ == 4
            # row 1 is at the top, column 1 (the patient's right) at the left
            scale = box[3] / max(ROWS, COLUMNS * box[3] / box[2])
            assert abs(row - (ROWS / 2 + down * box[3] / scale)) < 3
            assert abs(column - (COLUMNS / 2 + across * box[3] / scale)) < 3
            seen.add((row, column))
            changed += before[slice_, row, column] != after[slice_, row, column]
        assert len(seen) == 5

        # what the wheel does over the plane
        browser.mouse("mouseWheel", box[0] + box[2] / 2, box[1] + box[3] / 2, deltaX=0, deltaY=-60)
        browser.wait_for(f"!{READOUT}.startsWith('slice 5,')")
        assert browser.value(READOUT) == said(before, after, *read_out(browser))

        # every voxel of a slice, by its own search for one that changed
        changes = np.argwhere(before != after)
        for slice_, row, column in changes[:: len(changes) // 4]:
            set_to(browser, "slice", int(slice_), "input")
            x = box[0] + box[2] / 2 + (column + 0.5 - COLUMNS / 2) * scale
            y = box[1] + box[3] / 2 + (row + 0.5 - ROWS / 2) * scale
            for kind in ("mousePressed", "mouseReleased"):
                browser.mouse(kind, x, y, button="left", clickCount=1)
            assert read_out(browser) == (slice_, row, column)
            assert browser.value(READOUT) == said(before, after, slice_, row, column)
        assert browser.complaints == []
        assert all(re.match("file:|about:|data:image/", one) for one in browser.asked_for)
        assert browser.value("document.title").startswith("<script>alert(1)<script>{{7*7}}\\u202e")


@pytest.mark.programs("chromium")
def test_a_reader_sees_the_difference_the_other_volume_and_another_window(journey, tmp_path):
    export, out, page = journey
    before, after = hounsfield(export), hounsfield(out)
    middle = (SLICES // 2, ROWS // 2, COLUMNS // 2)
    with Chromium(tmp_path / "profile", 1280, 720, webgl=True) as browser:
        browser.open(page)
        browser.wait_for(READY)
        coloured = browser.value(PICTURE)
        assert len(coloured) > 10_000
        browser.click("#overlay")
        plain = browser.value(PICTURE)
        assert plain != coloured
        browser.click("#overlay")
        assert browser.value(PICTURE) == coloured
        tints = {}
        for opacity in (1, 0.25, 0):
            set_to(browser, "opacity", opacity, "input")
            tints[opacity] = browser.value(TINTS)
        assert browser.value(PICTURE) == plain
        for rising in (True, False):  # as strong as it is set to, whichever way a voxel went
            whole, quarter = (tints[share][rising] - tints[0][rising] for share in (1, 0.25))
            assert whole > 1000
            assert 0.1 < quarter / whole < 0.4

        browser.click("#swap")
        assert browser.value("document.getElementById('named').textContent") == "Source"
        source = browser.value(PICTURE)
        assert source != plain
        set_to(browser, "slice", 1, "input")
        set_to(browser, "slice", middle[0], "input")
        assert browser.value(READOUT) == said(before, after, *middle)
        browser.click("#flicker")
        for name in ("Protected", "Source", "Protected"):
            browser.wait_for(f"document.getElementById('named').textContent === '{name}'")
        browser.click("#flicker")
        assert browser.value("document.getElementById('named').textContent") == "Protected"
        assert browser.value(PICTURE) == plain

        x, y = browser.value(
            "(() => { const b = document.getElementById('scene').getBoundingClientRect();"
            " return [b.x + b.width / 4, b.y + b.height / 2]; })()"
        )
        browser.mouse("mousePressed", x, y, button="right", clickCount=1)
        for step in range(1, 4):
            browser.mouse("mouseMoved", x + 5 * step, y + 3 * step, button="right", buttons=2)
        browser.mouse("mouseReleased", x + 15, y + 9, button="right", clickCount=1)
        assert browser.value("document.getElementById('preset').value") == ""
        by_hand = browser.value("document.getElementById('window').textContent")
        assert re.fullmatch(r"level -?[\d.]+, width [\d.]+", by_hand)
        assert by_hand != "level 40, width 400"
        assert browser.value(PICTURE) != plain

        set_to(browser, "preset", "lung", "change")
        window = "document.getElementById('window').textContent"
        assert browser.value(window) == "level -600, width 1500"
        assert browser.value(PICTURE) != plain
        for layout in ("AXIAL", "CORONAL", "SAGITTAL", "RENDER"):
            last = browser.value(PICTURE)
            set_to(browser, "layout", layout, "change")
            assert browser.value(PICTURE) != last
        assert browser.value("document.getElementById('fault').hidden")
        assert browser.complaints == []


@pytest.mark.programs("chromium")
def test_a_browser_without_webgl_gets_a_sentence_and_the_rest_of_the_page(journey, tmp_path):
    *_, page = journey
    with Chromium(tmp_path / "profile") as browser:
        browser.open(page)
        browser.wait_for("!document.getElementById('fault').hidden")
        assert "this browser has no WebGL 2" in browser.value(
            "document.getElementById('fault').textContent"
        )
        assert browser.value("document.getElementById('scene').offsetHeight") == 0
        assert "Fidelity, measured from disk" in browser.value("document.body.innerText")
        browser.click("#review-save")
        browser.wait_for("document.getElementById('review-said').textContent !== ''")
        assert browser.complaints == []


@pytest.mark.programs("chromium")
def test_a_volume_that_is_spoilt_gets_a_sentence_too(journey, tmp_path):
    *_, page = journey
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_bytes(
        re.sub(rb'"source": "[^"]{40}', b'"source": "' + b"A" * 40, page.read_bytes())
    )
    assert spoilt.read_bytes() != page.read_bytes()
    with Chromium(tmp_path / "profile", webgl=True) as browser:
        browser.open(spoilt)
        browser.wait_for("!document.getElementById('fault').hidden")
        said = browser.value("document.getElementById('fault').textContent")
        assert said.startswith("The volume cannot be shown: ")
        assert browser.complaints == []
