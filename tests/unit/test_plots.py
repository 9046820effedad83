"""Figures of volumes and of what a protector found: what is drawn, and what happens without."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from salm_dicom import plots
from salm_dicom.errors import PlanError
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.protector.protected import Protected
from salm_dicom.volume import Volume
from tests.unit.volumes import phantom_volume


@pytest.fixture
def volume() -> Volume:
    return phantom_volume(slices=4, rows=64, columns=48)


@pytest.fixture
def found(volume) -> Protected:
    protector = Protector(plan=ProtectionPlan(method="random"))
    return protector.apply(volume, series_uid="1.2")


def drawn(figure) -> list[np.ndarray]:
    return [image.get_array().data for axes in figure.axes for image in axes.images]


def test_a_volume_shows_the_slice_asked_for_in_modality_units(volume):
    values = volume.pixels.modality_values()
    (middle,) = drawn(volume.plot())
    assert np.array_equal(middle, values[2])
    (last,) = drawn(volume.plot(-1, window=(-600, 1500)))
    assert np.array_equal(last, values[3])
    (image,) = volume.plot(0, window=(-600, 1500)).axes[0].images
    assert image.get_clim() == (-600, 1500)
    assert volume.plot(0).axes[0].images[0].get_clim() == (-160, 240)
    with pytest.raises(PlanError, match="no slice 4; there are 4"):
        volume.plot(4)


def test_high_values_of_monochrome1_are_dark_and_other_modalities_find_their_window():
    mr = phantom_volume(modality="MR", photometric="MONOCHROME1", rows=64, columns=48)
    (image,) = mr.plot(0).axes[0].images
    assert image.get_cmap().name == "gray_r"
    values = mr.pixels.modality_values()[0]
    assert image.get_clim() == pytest.approx(tuple(np.percentile(values, (1, 99))))


def test_a_result_shows_source_protected_and_the_difference_between_them(volume, found):
    source, protected, difference = drawn(found.plot(1))
    before, after = volume.pixels.modality_values()[1], found.volume.pixels.modality_values()[1]
    assert np.array_equal(source, before)
    assert np.array_equal(protected, after)
    assert np.array_equal(difference, after - before)
    assert difference.any()
    low, high = found.plot(1).axes[2].images[0].get_clim()
    assert -low == high == np.abs(difference).max()
    most = int(np.argmax((found.delta.astype(float) ** 2).sum(axis=(1, 2))))
    assert np.array_equal(drawn(found.plot())[0], volume.pixels.modality_values()[most])


def test_a_histogram_has_a_bar_for_each_integer_and_counts_every_foreground_voxel(found):
    (axes,) = found.histogram().axes
    changes = found.delta[found.mask]
    bars = {round(b.get_x() + b.get_width() / 2): b.get_height() for b in axes.patches}
    values, counts = np.unique(changes, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        assert bars[value] == pytest.approx(100 * count / changes.size)
    assert sum(bars.values()) == pytest.approx(100)


def test_the_histogram_of_a_volume_leaves_padding_out():
    padded = phantom_volume(slices=1, rows=64, columns=48, padding=-2000)
    assert padded.pixels.is_padding().any()
    (axes,) = padded.histogram().axes
    real = padded.pixels.modality_values()[~padded.pixels.is_padding()]
    assert min(b.get_x() for b in axes.patches) == pytest.approx(real.min())


def test_curves_have_a_point_for_each_slice(found):
    psnr, shift, changed = (axes.lines[0].get_ydata() for axes in found.curves().axes)
    assert len(psnr) == len(shift) == len(changed) == 4
    assert (np.asarray(psnr) > 35).all()
    share = 100 * (found.delta[0] != 0).sum() / found.mask[0].sum()
    assert changed[0] == pytest.approx(share)
    inside = found.mask[2]
    assert shift[2] == pytest.approx(found.delta[2][inside].mean(), abs=1e-4)


@pytest.mark.parametrize("kind", ["volume", "found"])
def test_a_notebook_shows_facts_and_a_picture_and_without_matplotlib_facts(
    kind, volume, found, monkeypatch
):
    shown = {"volume": volume, "found": found}[kind]
    html = shown._repr_html_()
    assert "data:image/png;base64," in html
    assert ("4 x 64 x 48" if kind == "volume" else "6 HU") in html
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "<img" not in shown._repr_html_()
    assert "<table>" in shown._repr_html_()


def test_facts_are_escaped():
    assert "<b>" not in plots.as_html({"<b>": "<b>"}, None)


def test_without_matplotlib_a_plot_is_refused_with_what_to_install(volume, found, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (volume.plot, volume.histogram, found.plot, found.histogram, found.curves):
        with pytest.raises(PlanError, match=r"pip install 'salm_dicom\[report\]'"):
            draw()
