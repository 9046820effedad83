"""A report opened from disk in a browser: what a reader does, and what the page must not do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner

from salm_dicom.cli.main import main
from tests.chromium import Chromium
from tests.synthetic import write_ct_series

NAME = "<script>alert(1)</script>{{7*7}}\u202e"
PICTURE = "document.querySelector('#pane-{} canvas').toDataURL()"


@pytest.fixture
def journey(tmp_path) -> tuple[Path, Path, Path]:
    """Source, output and pages of a series of five slices in a folder of a hostile name."""
    export, out, pages = (tmp_path / name for name in ("export", "out", "pages"))
    write_ct_series(export, slices=5, rows=96, columns=128)
    protect = ["protect", export, "-o", out, "--method=random", "-j1", "--progress=none"]
    assert CliRunner().invoke(main, [*map(str, protect)]).exit_code == 0
    (out / "patient-0001" / "study-01" / "series-001").rename(out / NAME.replace("/", ""))
    report = ["report", out, "--source", export, "-o", pages, "--progress=none"]
    assert CliRunner().invoke(main, [*map(str, report)]).exit_code == 0
    return export, out, pages


def place_of(browser: Chromium, pane: str, row: int, column: int) -> tuple[float, float]:
    """Return where a voxel of the 96 x 128 image, fitted in the middle of its pane, is."""
    left, top, width, height = browser.value(
        f"(() => {{ const canvas = document.querySelector('#pane-{pane} canvas');"
        " const b = canvas.getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })()"
    )
    scale = min(width / 128, height / 96)
    return (
        left + width / 2 + (column + 0.5 - 64) * scale,
        top + height / 2 + (row + 0.5 - 48) * scale,
    )


def hounsfield(folder: Path) -> dict[float, tuple]:
    """Return the values of each slice in HU by where it lies."""
    found = {}
    for path in folder.rglob("*.dcm"):
        one = pydicom.dcmread(path)
        values = one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
        found[float(one.ImagePositionPatient[2])] = values
    return dict(sorted(found.items()))


@pytest.mark.programs("chromium")
def test_a_reader_opens_a_report_and_reads_flickers_and_windows(journey, tmp_path):
    export, out, pages = journey
    before, after = (list(hounsfield(folder).values()) for folder in (export, out))
    with Chromium(tmp_path / "profile") as browser:
        browser.open(pages / "index.html")
        assert browser.value("document.querySelectorAll('table.list tbody tr').length") == 1
        assert "<script>alert(1)<script>{{7*7}}\\u202e" in browser.value("document.body.innerText")
        (page,) = (path for path in pages.iterdir() if path.name != "index.html")
        link = browser.value("document.querySelector('table.list a').getAttribute('href')")
        assert link == page.name
        browser.open(page)
        browser.wait_for("document.getElementById('place').textContent === '3 of 5'")

        for index, row, column, pane in ((2, 40, 70, "source"), (2, 71, 33, "protected"),
                                         (3, 50, 64, "difference")):  # fmt: skip
            if index == 3:
                browser.value("document.getElementById('slice').focus()")
                browser.key("ArrowRight", 39)
                browser.wait_for("document.getElementById('place').textContent === '4 of 5'")
            browser.mouse("mouseMoved", *place_of(browser, pane, row, column))
            start = f"slice {index + 1}, row {row + 1}, column {column + 1}: "
            browser.wait_for(
                f"document.getElementById('readout').textContent.startsWith({start!r})"
            )
            a, b = before[index][row, column], after[index][row, column]
            said = browser.value("document.getElementById('readout').textContent")
            change = f"{b - a:+g}" if b != a else "0"
            assert said.startswith(
                f"{start}source {a:g} \u2192 protected {b:g} HU, change {change} HU"
            )

        window = browser.value("document.getElementById('window').textContent")
        assert window == "level 40, width 400"
        first = browser.value(PICTURE.format("source"))
        x, y = place_of(browser, "source", 48, 64)
        browser.mouse("mousePressed", x, y, button="left", clickCount=1)
        browser.mouse("mouseMoved", x + 50, y + 25, button="left", buttons=1)
        browser.mouse("mouseReleased", x + 50, y + 25, button="left", clickCount=1)
        browser.wait_for("document.getElementById('window').textContent === 'level 80, width 480'")
        browser.wait_for(f"{PICTURE.format('source')} !== {first!r}")

        plain = browser.value(PICTURE.format("protected"))
        browser.click("#overlay")
        browser.wait_for(f"{PICTURE.format('protected')} !== {plain!r}")
        browser.click("#overlay")
        browser.wait_for(f"{PICTURE.format('protected')} === {plain!r}")

        browser.click("#flicker")
        for name in ("Source", "Protected", "Source"):
            browser.wait_for(f"document.getElementById('named').textContent === '{name}'")
        assert browser.value("document.querySelector('#pane-source').offsetWidth") == 0
        browser.click("#flicker")
        browser.wait_for("document.querySelector('#pane-source').offsetWidth > 0")
        browser.value(
            "document.getElementById('preset').value = 'lung'; "
            "document.getElementById('preset').dispatchEvent(new Event('change'))"
        )
        browser.wait_for(
            "document.getElementById('window').textContent === 'level -600, width 1500'"
        )
        assert browser.value("document.title").startswith("<script>alert(1)<script>{{7*7}}\\u202e")
        assert browser.value("document.getElementById('fault').hidden")
        assert browser.complaints == []
        assert all(re.match("file:|about:", address) for address in browser.asked_for)
        assert len(browser.asked_for) >= 2


@pytest.mark.programs("chromium")
def test_a_reader_rejects_a_series_in_the_page_and_the_file_takes_it_out_of_the_output(
    journey, tmp_path
):
    export, out, _ = journey
    (out / NAME.replace("/", "")).rename(out / "patient-0001" / "study-01" / "series-001")
    pages, downloads = tmp_path / "reviewed", tmp_path / "downloads"
    report = ["report", out, "--source", export, "-o", pages, "--progress=none"]
    assert CliRunner().invoke(main, [*map(str, report)]).exit_code == 0
    name = "patient-0001-study-01-series-001"
    with Chromium(tmp_path / "profile") as browser:
        browser.downloads(downloads)
        browser.open(pages / f"{name}.html")
        said = "document.getElementById('review-said').textContent"
        browser.click("#review-save")
        browser.wait_for(f"{said}.startsWith('Choose accept, reject')")
        browser.click("#review input[value=reject]")
        browser.click("#review-comment")
        browser.call("Input.insertText", text="stripes <b>\u00fcber</b> the liver")
        browser.click("#review-save")
        browser.wait_for(f"{said} === '{name}.review.json is in your downloads.'")
        path = browser.downloaded(downloads / f"{name}.review.json")
        assert browser.complaints == []
        assert all(re.match("file:|about:|blob:", address) for address in browser.asked_for)
    review = json.loads(path.read_text(encoding="utf-8"))
    assert review["comment"] == "stripes <b>\u00fcber</b> the liver"
    assert (review["decision"], review["reviewer"]) == ("reject", "")
    done = CliRunner().invoke(main, ["review", "apply", str(path), str(out)])
    assert (done.exit_code, done.stdout.split()[1]) == (0, "REJECTED:")
    assert [place.name for place in out.iterdir()] == ["manifest.json"]
    path.write_text(path.read_text().replace('"reject"', '"accept"'))
    assert CliRunner().invoke(main, ["review", "apply", str(path), str(out)]).exit_code == 0
    assert len(hounsfield(out)) == 5


@pytest.mark.programs("chromium")
def test_a_slice_without_a_protected_counterpart_is_not_shown_as_one(journey, tmp_path):
    export, out, _ = journey
    (third,) = (
        path
        for path in out.rglob("*.dcm")
        if pydicom.dcmread(path).ImagePositionPatient[2] == sorted(hounsfield(export))[2]
    )
    third.unlink()
    pages = tmp_path / "wrong"
    report = ["report", out, "--source", export, "-o", pages, "--progress=none"]
    assert CliRunner().invoke(main, [*map(str, report)]).exit_code == 9
    (page,) = (path for path in pages.iterdir() if path.name != "index.html")
    with Chromium(tmp_path / "profile") as browser:
        browser.open(page)
        browser.wait_for("!document.getElementById('none-protected').hidden")
        assert not browser.value("document.getElementById('none-difference').hidden")
        browser.mouse("mouseMoved", *place_of(browser, "protected", 40, 70))
        browser.wait_for("document.getElementById('readout').textContent.includes('no protected')")
        assert "\u2192" not in browser.value("document.getElementById('readout').textContent")
        black = browser.value(
            "document.querySelector('#pane-protected canvas').getContext('2d')"
            ".getImageData(0, 0, 100, 100).data.every((v, i) => v === 0 || i % 4 === 3)"
        )
        assert black
        browser.value("document.getElementById('slice').focus()")
        browser.key("ArrowRight", 39)
        browser.wait_for("document.getElementById('none-protected').hidden")
        assert browser.complaints == []


@pytest.mark.programs("chromium")
def test_the_policy_of_a_page_stops_code_that_is_not_its_own(journey, tmp_path):
    *_, pages = journey
    (page,) = (path for path in pages.iterdir() if path.name != "index.html")
    planted = tmp_path / "planted.html"
    planted.write_bytes(
        page.read_bytes().replace(b"</main>", b"<script>window.ran = 1</script></main>")
    )
    with Chromium(tmp_path / "profile") as browser:
        browser.open(planted)
        browser.wait_for("document.getElementById('place').textContent === '3 of 5'")
        assert browser.value("window.ran === undefined")
        browser.value("fetch('https://example.org/').catch(() => 0)")
        assert [text for text in browser.complaints if "Content Security Policy" in text]
