"""The report: pixels that come back exactly, pages that run nothing, places it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import stat
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from salm_dicom.batch.report import Request, report
from salm_dicom.batch.review import digest_of_series
from salm_dicom.errors import UnsafeError
from salm_dicom.fidelity import Limits, metrics
from salm_dicom.report import (
    Asked,
    Entry,
    Preset,
    Row,
    Sheet,
    Summary,
    embed,
    index_page,
    series_page,
)
from salm_dicom.report.charts import curve, histogram
from salm_dicom.report.page import shown
from salm_dicom.report.sheet import RIGHT, View
from tests.command import run
from tests.nifti_files import write_nifti_file
from tests.synthetic import write_ct_series
from tests.synthetic_frames import ColourRecipe, EnhancedRecipe, stack, write_colour, write_enhanced

HOSTILE = "</script><img src=x onerror=alert(1)>{{7*7}}${7*7}\u202egnp.exe\x1b[31m\"'--><!--"


class Page(HTMLParser):
    """What a browser sees of a page: texts, elements with their attributes, inline code."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.code: dict[str, list[str]] = {"script": [], "style": [], "data": []}
        self._inside = ""
        self.feed(html.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = "data" if dict(attrs).get("id") == "pixels" else tag
            self.code[self._inside].append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data):
        if self._inside:
            self.code[self._inside][-1] += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> dict:
        (text,) = self.code["data"]
        return json.loads(text)


def stored(data: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return source and protected stored values of a page's data, by a reader of its own."""
    found = []
    for block in data["blocks"]:
        pair = []
        for text, word in zip(block, (data["source"], data["change"]), strict=True):
            raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
            planes = raw.reshape(word["size"], data["rows"], data["columns"]).astype(np.int64)
            pair.append(sum(plane << (8 * i) for i, plane in enumerate(planes)))
        above = np.cumsum(pair[0], axis=1) % (1 << (8 * data["source"]["size"]))
        before = above + data["source"]["least"]
        found.append((before, before + pair[1] + data["change"]["least"]))
    return np.stack([before for before, _ in found]), np.stack([after for _, after in found])


def view(before: np.ndarray, after: np.ndarray, cap: int = 10**9, first: int = 0) -> View:
    pixels = embed(before, after, cap=cap, first=first)
    ones = (1.0,) * len(pixels.kept)
    return View(
        pixels=pixels, slope=ones, intercept=(0.0,) * len(ones), absent=(), units="HU",
        is_inverted=False, aspect=1.0, presets=(Preset("all", 0.0, 1.0),), largest=1.0,
    )  # fmt: skip


def sheet(text: str = "x", shows: View | None = None) -> Sheet:
    row = Row(text, (text, text, text), RIGHT)
    chart = replace(curve([1.0, 2.0, np.inf, 4.0], title=text, y_label=text), x_label=text)
    bars = histogram([(-1, -1, 2.0), (0, 0, 0.0), (1, 1, 1.0)], title=text, x_label="", y_label="")
    return Sheet(
        name=text, facts=(text,), verdict=text, state=RIGHT, problems=(text,), fidelity=(row,),
        record=(row,), charts=((chart, text), (bars, text)), view=shows, notes=(text,),
        asked=Asked(schema=text, folder=text, digest=text, file=text) if shows else None,
    )  # fmt: skip


def protect(source: Path, output: Path, *more: object) -> None:
    done = run("protect", source, "-o", output, "--method=random", "--progress=none", "-j1", *more)
    assert done.exit_code in (0, 3), done.output


@pytest.fixture
def protected(export, tmp_path) -> tuple[Path, Path]:
    """Source and output of a protection."""
    protect(export, tmp_path / "out")
    return export, tmp_path / "out"


@pytest.fixture
def pages(protected, tmp_path) -> Path:
    source, output = protected
    done = run("report", output, "--source", source, "-o", tmp_path / "pages", "--progress=none")
    assert done.exit_code == 0, done.output
    assert f"Report, to keep private: {tmp_path / 'pages' / 'index.html'}" in done.output
    return tmp_path / "pages"


STACKS = st.sampled_from(["u1", "i2", "u2", "i4"]).flatmap(
    lambda kind: st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 7)).flatmap(
        lambda shape: st.tuples(
            *[arrays(kind, shape, elements=st.integers(*ends(kind))) for _ in range(2)]
        )
    )
)


def ends(kind: str) -> tuple[int, int]:
    if kind == "i4":
        return -(2**23), 2**23 - 1  # as many bits as NIfTI volumes may have
    found = np.iinfo(kind)
    return int(found.min), int(found.max)


@settings(max_examples=60)
@given(STACKS)
def test_any_stored_values_come_back_out_of_a_page_exactly(found):
    before, after = found
    page = Page(series_page(sheet(shows=view(before, after))))
    for read, meant in zip(stored(page.data), (before, after), strict=True):
        assert np.array_equal(read, meant)


def test_a_cap_leaves_slices_out_evenly_keeps_the_one_asked_for_and_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    before = rng.integers(0, 4096, (20, 32, 32), dtype=np.int16)
    after = before + rng.integers(-6, 7, before.shape, dtype=np.int16)
    whole = embed(before, after, cap=10**9)
    assert whole.is_whole
    assert whole.kept == tuple(range(20))
    size = sum(len(text) for block in whole.blocks for text in block)
    some = embed(before, after, cap=size // 3, first=7)
    assert some.kept == (0, 4, 7, 8, 12, 16)
    assert not some.is_whole
    assert sum(len(text) for block in some.blocks for text in block) <= size // 3
    read, _ = stored(Page(series_page(sheet(shows=view(before, after, size // 3, 7)))).data)
    assert np.array_equal(read, before[list(some.kept)])
    only = embed(before, after, cap=size // 20 + 400, first=7)
    assert (only.kept, only.step) == ((7,), 1)


def test_a_slice_that_is_too_large_keeps_every_nth_voxel_as_it_is():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 4096, (2, 50, 40), dtype=np.int16)
    after = before + rng.integers(-6, 7, before.shape, dtype=np.int16)
    found = embed(before, after, cap=1500, first=1)
    assert found.step > 1
    assert not found.is_whole
    data = Page(series_page(sheet(shows=view(before, after, 1500, 1)))).data
    for read, meant in zip(stored(data), (before, after), strict=True):
        assert np.array_equal(read[0], meant[found.kept[0], :: found.step, :: found.step])


@pytest.mark.parametrize("kind", ["series", "index"])
def test_hostile_text_in_every_place_is_shown_and_nothing_of_it_becomes_an_element(kind):
    def page(text: str) -> Page:
        if kind == "index":
            row = Row(text, (text, text), RIGHT)
            summary = Summary(
                verdict=text, state=RIGHT, head=(text, text), remarks=(row,), about=(row,),
                plan=(row,), entries=(Entry(name=text, page="a.html", row=row),),
            )  # fmt: skip
            return Page(index_page(summary))
        values = np.arange(12, dtype=np.int16).reshape(1, 3, 4)
        shows = replace(view(values, values + 1), units=text, presets=(Preset(text, 0.0, 1.0),))
        return Page(series_page(sheet(text, shows)))

    plain, hostile = page("x"), page(HOSTILE)
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert hostile.code["script"] == plain.code["script"]
    assert hostile.code["style"] == plain.code["style"]
    visible = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\u001b")
    assert hostile.text.count("{{7*7}}${7*7}\\u202egnp.exe\\u001b[31m") >= 6
    assert " ".join(visible.split()) in hostile.text
    everything = "".join([*hostile.texts, *hostile.code["data"]])
    assert "\u202e" not in everything
    assert "\x1b" not in everything
    if kind == "series":
        assert hostile.data["units"] == HOSTILE  # the viewer sets it as text, never as markup


def test_what_has_no_shape_of_its_own_is_shown_by_its_number():
    text = "a\u2066b\x00\n\ud800 \u00e4\u4e2d"
    assert shown(text) == "a\\u2066b\\u0000\\u000a\\ud800 \u00e4\u4e2d"


def test_the_policy_allows_the_one_script_and_style_by_hash_and_nothing_else(pages):
    for path in pages.iterdir():
        page = Page(path.read_bytes())
        (policy,) = (
            one["content"] for tag, one in page.elements
            if tag == "meta" and one.get("http-equiv") == "Content-Security-Policy"
        )  # fmt: skip
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        hashes = {
            kind: [
                f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
                for code in page.code[kind]
            ]
            for kind in ("script", "style")
        }
        assert rules == {
            "default-src": "'none'", "img-src": "data:", "base-uri": "'none'",
            "form-action": "'none'", "style-src": " ".join(hashes["style"]),
            "script-src": " ".join(hashes["script"]) or "'none'",
        }  # fmt: skip
        for _, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            for name in ("src", "href", "action", "data", "poster", "srcset"):
                assert re.fullmatch(r"[\w-]+\.html", attributes.get(name) or "x.html")


def test_pixels_of_a_page_are_those_of_the_files(protected, pages):
    source, output = protected
    found = sorted(pages.glob("patient-*.html"))
    assert len(found) == 2
    files = {pydicom.dcmread(path).SOPInstanceUID: path for path in source.rglob("*.dcm")}
    for page in found:
        data = Page(page.read_bytes()).data
        folder = output / page.stem.replace("-study", "/study").replace("-series", "/series")
        after = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
        before = [
            pydicom.dcmread(files[one.SourceImageSequence[0].ReferencedSOPInstanceUID])
            for one in after
        ]
        for read, meant in zip(stored(data), (before, after), strict=True):
            assert np.array_equal(read, np.stack([one.pixel_array for one in meant]))
        assert data["slope"] == [float(one.RescaleSlope) for one in before]
        assert data["intercept"] == [float(one.RescaleIntercept) for one in before]
        assert data["units"] == "HU"


def test_pages_and_index_hold_no_value_of_any_patient_attribute(protected, pages):
    source, _ = protected
    texts = "".join("".join(Page(path.read_bytes()).texts) for path in pages.iterdir())
    names = "".join(path.name for path in pages.iterdir())
    checked = 0
    for path in source.rglob("*.dcm"):
        for element in pydicom.dcmread(path).iterall():
            if element.VR in ("PN", "LO", "SH", "UI", "DA", "TM", "DT", "LT", "ST", "AS"):
                for value in map(str, [element.value] if not element.VM > 1 else element.value):
                    if len(value) > 4:
                        checked += 1
                        assert value not in texts + names, element.keyword
    assert checked > 100


def test_a_page_says_what_was_done_and_what_was_measured(protected, pages):
    source, output = protected
    stated = json.loads((output / "manifest.json").read_text())
    verified = run("verify", source, output, "--json").stdout
    rows = [json.loads(line) for line in verified.splitlines()]
    index = Page((pages / "index.html").read_bytes()).text
    for row in rows[:2]:
        text = Page((pages / f"{row['name'].replace('/', '-')}.html").read_bytes()).text
        found = row["fidelity"]
        psnr = (
            f"PSNR, lowest of the slices {found['psnr_db']:.1f} dB -160..240 HU at least 35 dB met"
        )
        assert psnr in text
        assert f"{found['ssim']:.4f} -160..240 HU at least 0.9" in text
        for name in ("shift of means", "noise", "PSNR and SSIM", "just noticeable differences"):
            assert name in text
        assert f"{100 * found['changed_share']:.1f} %" in text
        assert f"largest change, HU 6 {found['largest_change']:g}" in text
        assert "largest change, stored units 6 6" in text
        assert "largest change, of the intensity range 0.015 0.015" in text
        assert stated["digest"] in text
        less = sum(not check["is_wanted"] for check in row["checks"])
        assert less > 1
        assert f"Every check passed, every limit is met; {less} numbers are not as wanted" in text
        assert "Every voxel of every slice is in this page, without loss" in text
        assert row["name"] in index
        assert f"{found['psnr_db']:.1f} dB" in index
    assert stated["digest"] in index
    assert {stat.S_IMODE(path.stat().st_mode) for path in pages.iterdir()} == {0o600}
    assert stat.S_IMODE(pages.stat().st_mode) == 0o700
    assert not list(pages.parent.glob(".pages*"))


def test_a_page_asks_for_a_review_of_the_pixels_it_shows_and_one_without_pixels_too(
    protected, pages
):
    _, output = protected
    for path in pages.glob("patient-*.html"):
        page = Page(path.read_bytes())
        (asked,) = (one for tag, one in page.elements if one.get("id") == "review")
        folder = output / asked["data-folder"]
        assert path.name == f"{asked['data-folder'].replace('/', '-')}.html"
        assert asked["data-digest"] == digest_of_series(folder)
        assert asked["data-schema"] == "salm_dicom review 1"
        assert asked["data-file"] == f"{path.stem}.review.json"
        assert "salm-dicom review apply REVIEW.json OUT" in page.text
    asked = Asked(schema="s", folder=HOSTILE, digest="d", file="f")
    page = Page(series_page(replace(sheet(), asked=asked)))
    assert [tag for tag, one in page.elements if one.get("id") == "review-save"] == ["button"]
    assert len(page.code["script"]) == 1
    assert "review-save" in page.code["script"][0]
    assert not page.code["data"]
    assert "review" not in Page(series_page(sheet())).code["script"]


def test_nothing_is_measured_twice(protected, tmp_path, monkeypatch):
    source, output = protected
    calls = []
    original = metrics.mean_ssim
    monkeypatch.setattr(metrics, "mean_ssim", lambda *a: calls.append(1) or original(*a))
    report(Request(source=source, output=output, target=tmp_path / "pages", limits=Limits()))
    assert len(calls) == 6


def test_a_choice_of_slices_is_said_in_the_page(protected, tmp_path):
    source, output = protected
    arguments = ["report", output, "--source", source, "--progress=none", "-o"]
    assert run(*arguments, tmp_path / "few", "--max-mb=0.015").exit_code == 0
    text = Page(next((tmp_path / "few").glob("patient-*.html")).read_bytes()).text
    assert re.search(r"\d of 3 slices are in this page, evenly chosen, with slice \d, whose", text)
    assert "the cap is 0.015 MB (--max-mb)" in text
    assert "without loss" not in text
    assert run(*arguments, tmp_path / "less", "--max-mb=0.002").exit_code == 0
    text = Page(next((tmp_path / "less").glob("patient-*.html")).read_bytes()).text
    assert re.search(r"One of \d rows and columns is in this page", text)


@pytest.mark.parametrize("place", ["out/report", "export/report", "out", "export", ".", "taken"])
def test_a_place_that_would_mix_source_pixels_into_something_is_refused(protected, tmp_path, place):
    source, output = protected
    (tmp_path / "taken").mkdir()
    before = sorted(tmp_path.rglob("*"))
    request = Request(source=source, output=output, target=tmp_path / place, limits=Limits())
    with pytest.raises(UnsafeError):
        report(request)
    assert sorted(tmp_path.rglob("*")) == before
    done = run("report", output, "--source", source, "-o", tmp_path / place)
    assert done.exit_code == 6


def test_exit_status_and_page_say_what_verify_says(protected, tmp_path):
    source, output = protected
    arguments = ["report", output, "--source", source, "--progress=none", "-o"]
    assert run(*arguments, tmp_path / "strict", "--min-psnr=200").exit_code == 5
    text = Page(next((tmp_path / "strict").glob("patient-*.html")).read_bytes()).text
    assert "A limit of fidelity is missed" in text
    assert re.search(r"limit missed: PSNR [\d.]+ dB < 200 dB", text)
    next(output.rglob("*.dcm")).unlink()
    assert run(*arguments, tmp_path / "wrong").exit_code == 9
    index = Page((tmp_path / "wrong" / "index.html").read_bytes()).text
    assert "Wrong: do not share this" in index
    wrong = [Page(path.read_bytes()) for path in (tmp_path / "wrong").glob("patient-*.html")]
    (page,) = (page for page in wrong if page.data["absent"])
    (absent,) = page.data["absent"]
    said = f"counterpart that could be read, and none is shown: {absent + 1}."
    assert said in page.text
    (tmp_path / "empty").mkdir()
    done = run("report", tmp_path / "empty", "--source", source, "-o", tmp_path / "none")
    assert done.exit_code in (3, 4)
    assert not (tmp_path / "none").exists()


def test_a_manifest_and_a_folder_that_somebody_wrote_are_shown_as_text(protected, tmp_path):
    source, output = protected
    name = "<img src=x onerror=alert(1)>\u202e"
    shutil.move(next(output.glob("patient-0001/study-01/series-001")), output / name)
    manifest = json.loads((output / "manifest.json").read_text())
    manifest["plan"][HOSTILE] = HOSTILE
    manifest["digest"] = [HOSTILE]
    manifest["series"] = [7, {"folder": name, "budget": HOSTILE, "warnings": [HOSTILE]}]
    (output / "manifest.json").write_text(json.dumps(manifest))
    found = report(Request(source=source, output=output, target=tmp_path / "p", limits=Limits()))
    assert {one.name for one in found.series} == {name, "patient-0002/study-01/series-001"}
    for path in (tmp_path / "p").iterdir():
        assert re.fullmatch(r"[\w-]+\.html", path.name)
        page = Page(path.read_bytes())
        assert not {"img", "iframe"} & {tag for tag, _ in page.elements}
        assert "\u202e" not in "".join(page.texts)
    index = Page((tmp_path / "p" / "index.html").read_bytes()).text
    assert "<img src=x onerror=alert(1)>\\u202e" in index
    (output / "manifest.json").write_text("[" * 100_000)
    report(Request(source=source, output=output, target=tmp_path / "q", limits=Limits()))
    assert "not stated" in Page((tmp_path / "q" / "index.html").read_bytes()).text


def test_colour_multi_frame_and_nifti_have_pages_with_their_own_values(tmp_path):
    source = tmp_path / "in"
    write_ct_series(source / "mr", modality="MR", slices=2, photometric="MONOCHROME1")
    write_colour(source / "colour.dcm", ColourRecipe())
    write_enhanced(source / "enhanced.dcm", EnhancedRecipe(frames=stack(3)))
    write_nifti_file(source / "ct.nii.gz")
    protect(source, tmp_path / "out")
    request = Request(
        source=source, output=tmp_path / "out", target=tmp_path / "p", limits=Limits()
    )
    found = report(request)
    assert len(found.series) == 4
    assert not any(one.findings for one in found.series)
    shapes = {}
    for path in (tmp_path / "p").glob("[!i]*.html"):
        data = Page(path.read_bytes()).data
        before, after = stored(data)
        assert (before != after).any()
        assert data["inverted"] == (data["slices"] == 2)
        shapes[path.stem] = (data["units"], before.shape)
    assert ("luminance" in {units for units, _ in shapes.values()}) == 1
    assert shapes["nifti-0001"][0] == "HU"
