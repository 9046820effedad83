"""Rows 7 and 8: SSIM and VIF as other libraries have them; the JPEG 2000 that sets limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sewar
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity import Window, measure, windows
from salm_dicom.fidelity.structure import ssim, vif
from salm_dicom.fidelity.windows import _compressed, against_jpeg2000
from tests.subjects import body, changed, pixels


def images(rows: int, columns: int, noise: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    source = 0.5 + 0.3 * np.sin(9 * x) * np.cos(7 * y) + 0.05 * rng.normal(size=(rows, columns))
    other = source + noise * rng.normal(size=source.shape)
    return (np.clip(one, 0, 1).astype(np.float32) for one in (source, other))


@settings(max_examples=25)
@given(
    rows=st.integers(16, 90),
    columns=st.integers(16, 90),
    noise=st.floats(0.001, 0.5),
)
def test_ssim_is_that_of_scikit_image(rows, columns, noise):
    source, other = images(rows, columns, noise)
    expected = structural_similarity(
        *(one.astype(np.float64) for one in (source, other)),
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True,
    )  # fmt: skip
    found = ssim(source, other)
    assert found.mean() == pytest.approx(expected[0], abs=2e-4)
    # scikit-image keeps the rim, where the window leaves the image
    np.testing.assert_allclose(found, expected[1][5:-5, 5:-5], atol=2e-3)


@settings(max_examples=25)
@given(
    rows=st.integers(64, 120),
    columns=st.integers(64, 120),
    noise=st.floats(0.001, 0.5),
)
def test_vif_is_that_of_sewar(rows, columns, noise):
    source, other = images(rows, columns, noise)
    expected = sewar.vifp(*(255 * one.astype(np.float64) for one in (source, other)))
    assert vif(source, other) == pytest.approx(expected, rel=2e-3)


def test_a_flat_image_has_all_its_information_and_so_has_the_source_itself():
    source, other = images(80, 80, 0.1)
    assert vif(source, source) == pytest.approx(1.0, abs=1e-4)
    assert ssim(source, source) == pytest.approx(np.ones((70, 70)))
    assert vif(np.full_like(source, 0.5), other) == 1.0
    assert vif(source[:9, :9], other[:9, :9]) > 0  # the first scale does not fit


def test_psnr_is_that_of_scikit_image_in_the_stated_range():
    subject = body(slices=1)
    rng = np.random.default_rng(0)
    after = changed(subject, 6 * rng.choice([-1, 1], size=subject.mask.shape))
    shown = [
        (np.clip(at(0), -160, 240) + 160) / 400 for at in (after.source_at, after.protected_at)
    ]
    found = {one.name: one for one in measure(after).readings if one.name == "psnr"}["psnr"]
    expected = peak_signal_noise_ratio(*(one.astype(np.float64) for one in shown), data_range=1)
    assert found.value == pytest.approx(expected, abs=1e-3)
    assert found.where == "-160..240 HU"


@pytest.mark.parametrize("ratio", [5.0, 8.0, 15.0])
def test_the_compressed_image_has_the_size_that_was_asked_for(ratio, monkeypatch):
    sizes = []
    original = windows.decode
    monkeypatch.setattr(windows, "decode", lambda data: sizes.append(len(data)) or original(data))
    stored = body(slices=1, size=256, noise=30).pixels.values[0]
    found = _compressed(stored, ratio)
    bits = (int(stored.max()) - int(stored.min())).bit_length()
    assert 0.99 * ratio < stored.size * bits / 8 / sizes[0] < 1.12 * ratio
    assert 0 < np.abs(found - stored).std() < 30


def test_more_compression_asks_for_less():
    subject = changed(
        body(slices=1, noise=20), 4 * np.random.default_rng(0).normal(size=(128, 128))
    )
    margins = []
    for ratio in (4.0, 8.0, 16.0):
        found = against_jpeg2000(replace(subject, ratio=ratio))
        margins.append({one.name: one.value for one in found}["vif_margin"])
    assert margins == sorted(margins)
    assert margins[0] < margins[2]


def test_padding_does_not_loosen_the_limit():
    subject = body(slices=1, noise=20)
    stored = subject.pixels.values.copy()
    corner = np.zeros(stored.shape, dtype=bool)
    corner[:, :12, :12] = True
    stored[corner] = stored[~corner].min()
    padded = np.where(corner, np.int16(-30_000), stored)
    numbers = []
    for values, padding in ((stored, None), (padded, (-30_000, -30_000))):
        source = replace(subject.pixels, values=values, padding=padding)
        one = replace(subject, pixels=source, after=values, mask=subject.mask & ~corner)
        after = changed(one, 4 * np.random.default_rng(0).normal(size=(1, 128, 128)))
        numbers.append({(r.name, r.where): r.value for r in against_jpeg2000(after)})
    assert numbers[0] == numbers[1]


def test_a_window_that_shows_nothing_of_a_slice_is_left_out():
    windows = (Window(name="soft", low=-160, high=240), Window(name="metal", low=5000, high=9000))
    subject = replace(body(slices=1), windows=windows)
    assert {one.where for one in against_jpeg2000(subject)} == {"soft window"}
    with pytest.raises(Unmeasurable, match="no clinical window"):
        list(against_jpeg2000(replace(subject, windows=windows[1:])))


def refuses(*_: object, **__: object) -> bytes:
    raise RuntimeError("failure result from 'opj_start_compress()'")


def test_small_images_and_wide_values_have_no_jpeg_2000(monkeypatch):
    with pytest.raises(Unmeasurable, match="less than 32 rows"):
        list(against_jpeg2000(body(size=24)))
    monkeypatch.setattr(windows, "encode_array", refuses)
    with pytest.raises(Unmeasurable, match="library refuses"):
        list(against_jpeg2000(body(slices=1)))
    monkeypatch.undo()
    subject = body(slices=1)
    stored = subject.pixels.values.astype(np.int32)
    stored[0, 0, 0] = 1_000_000
    wide = replace(subject, pixels=pixels(stored), after=stored)
    with pytest.raises(Unmeasurable, match="more than 16 bits"):
        list(against_jpeg2000(wide))


def test_only_some_slices_are_looked_at_closely_the_worst_among_them_unless_all_are_asked_for():
    subject = body(slices=12, size=64)
    delta = np.ones(subject.mask.shape)
    delta[5] *= 8
    found = changed(subject, delta)
    assert len(found.samples) == 4
    assert 5 in found.samples
    assert replace(found, is_full=True).samples == tuple(range(12))
    assert {one.at for one in against_jpeg2000(found) if one.name == "window_psnr"} == {"slice 6"}
    looked_at = [one.ssim is not None for one in measure(found, rows=()).slices]
    assert looked_at == [index in found.samples for index in range(12)]


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (40, 128), (9, 30), (1, 1), (12, 12)])
def test_psnr_and_ssim_are_those_of_whole_slices_though_only_the_foreground_is_looked_at(
    rows, columns
):
    subject = body(slices=1)
    cut = (slice(None), slice(64 - rows // 2, 64 - rows // 2 + rows), slice(0, columns))
    stored = subject.pixels.values[cut]
    mask = np.zeros_like(subject.mask[cut])
    mask[:, rows // 3 : rows // 3 + rows // 4 + 1, columns // 2 :] = True
    small = replace(subject, pixels=replace(subject.pixels, values=stored), after=stored, mask=mask)
    after = changed(small, np.full(mask.shape, 9))
    window = Window(name="", low=-160, high=240)
    before, other = (window.shown(at(0)) for at in (after.source_at, after.protected_at))
    found = measure(after, rows=()).slices[0]
    assert found.ssim == pytest.approx(float(ssim(before, other).mean()), abs=1e-5)
    error = float(np.mean((before - other) ** 2))
    expected = -10 * np.log10(error) if error else np.inf
    assert found.psnr_db == pytest.approx(expected, abs=1e-3)
