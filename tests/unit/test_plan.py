"""The plan: settings that make no sense are refused, and the digest follows every setting."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from salm_dicom.cli import plan_options
from salm_dicom.errors import PlanError
from salm_dicom.foreground import foreground
from salm_dicom.intensity import CT_RANGE_HU, intensity_range
from salm_dicom.perturb import BY_LABEL, METHODS, OneSided, Random
from salm_dicom.perturb.salm import Salm
from salm_dicom.plan import ProtectionPlan
from tests.unit.volumes import phantom_volume

# Another lawful value for every setting.
OTHERS = {
    "momentum": 0.25,
    "eot": ("blur",),
    "block": 2,
    "grain": "coarse",
    "precision": "bfloat16",
    "preprocessing": '[{"_target_": "NormalizeIntensity"}]',
    "swap": 0.5,
    "surrogates": "fresh",
    "spare_one": True,
    "method": "dense",
    "epsilon": "8/255",
    "rho": 0.3,
    "steps": 11,
    "step_size": 0.1,
    "schedule": "step",
    "label_free": True,
    "clusters": 3,
    "objective": "segmentation",
    "mask": "roi_band",
    "band_mm": 3.0,
    "extent": "volume",
    "patches": True,
    "between_slices": 0.5,
    "intensity_range": (-100.0, 200.0),
    "zero_mean": False,
    "region_mm": 12.0,
    "slice_size": (64, 64),
    "volume_size": (8, 64, 64),
    "rounds": 9,
    "batches": 11,
    "batch_size": 4,
    "seed": 1,
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"method": "magic"},
            "method 'magic' is unknown; known are one_sided, hybrid, salm, dense",
        ),
        ({"extent": "patient"}, "extent 'patient' is unknown; known are slice, volume"),
        ({"schedule": "never"}, "schedule 'never' is unknown; known are round, step, once"),
        ({"grain": "huge"}, "grain 'huge' is unknown; known are fine, coarse"),
        ({"precision": "8bit"}, "precision '8bit' is unknown; known are float32, bfloat16"),
        ({"surrogates": "many"}, "surrogates 'many' is unknown; known are one, fresh"),
        (
            {"surrogates": "fresh", "method": "targeted"},
            "surrogates fresh goes with methods salm, dense, random_mask, low_gradient; method "
            "targeted does not minimise",
        ),
        ({"spare_one": True, "method": "random"}, "spare_one goes with methods salm, dense"),
        ({"eot": ("half",), "method": "one_sided"}, "method one_sided follows none"),
        ({"block": 2, "method": "random"}, "method random knows no squares; leave it out"),
        (
            {"spare_one": True, "objective": "segmentation"},
            "spare_one needs one label for each series, and objective segmentation has none",
        ),
        ({"epsilon": "six"}, "epsilon 'six' is not understood"),
        ({"epsilon": "2"}, "whole intensity range"),
        ({"rho": 0.0}, "rho is 0;"),
        ({"rho": -0.1}, "rho is -0.1;"),
        ({"rho": 1.01}, "rho is 1.01;"),
        ({"rho": float("nan")}, "rho is nan;"),
        ({"step_size": 0.0}, "step size is 0;"),
        ({"step_size": 1.5}, "step size is 1.5;"),
        ({"steps": 0}, "steps is 0;"),
        ({"rounds": 0}, "rounds is 0;"),
        ({"batches": -1}, "batches is -1;"),
        ({"batch_size": 0}, "batch_size is 0;"),
        ({"region_mm": 0}, "region_mm is 0;"),
        ({"band_mm": -1}, "band_mm is -1;"),
        ({"patches": True}, "patches and between_slices need extent volume"),
        ({"between_slices": 0.5}, "patches and between_slices need extent volume"),
        ({"between_slices": 2.0, "extent": "volume"}, "between_slices is 2;"),
        ({"objective": "detection"}, "objective 'detection' is unknown; known are classification"),
        ({"mask": "roi"}, "mask 'roi' is unknown; known are gradient, roi_band, gradient & roi"),
        ({"mask": "roi_band"}, "mask 'roi_band' needs masks: give objective segmentation"),
        ({"objective": "segmentation", "method": "random", "mask": "roi_band"}, "needs masks"),
        ({"objective": "segmentation", "method": "texture"}, "texture makes a pattern for each"),
        ({"objective": "multilabel", "method": "texture"}, "knows no series of several labels"),
        (
            {"label_free": True, "objective": "multilabel"},
            "label_free gives each series one label; objective multilabel",
        ),
        ({"label_free": True, "clusters": 1}, "clusters is 1; at least 2 are needed"),
        ({"objective": "segmentation", "eot": ("blur", "flip")}, "eot flip moves the image and"),
        ({"region_mm": float("inf")}, "region_mm is inf;"),
        ({"intensity_range": (240.0, -160.0)}, "intensity range 240 to -160 is empty"),
        ({"intensity_range": (1.0, 1.0)}, "is empty"),
        ({"intensity_range": (float("nan"), 1.0)}, "is empty"),
        ({"intensity_range": (0.0, float("inf"))}, "is empty"),
    ],
    ids=repr,
)
def test_a_setting_out_of_range_is_refused_with_what_is_needed(wrong, message):
    with pytest.raises(PlanError) as refused:
        ProtectionPlan(**wrong)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slice_size": (0, 32)},
        {"slice_size": (32,)},
        {"volume_size": (32, 32)},
        {"volume_size": (8, -32, 32)},
        {"steps": 2.5},
        {"rho": "a lot"},
        {"intensity_range": (1.0, 2.0, 3.0)},
    ],
    ids=repr,
)
def test_a_setting_of_the_wrong_size_or_kind_is_refused(wrong):
    with pytest.raises(PlanError):
        ProtectionPlan.from_dict(wrong)


@pytest.mark.parametrize("value", [0.001, 1.0])
def test_the_ends_of_a_range_are_accepted(value):
    assert ProtectionPlan(rho=value, step_size=value).rho == value


def test_every_setting_has_another_value_in_this_test():
    assert set(OTHERS) == {field.name for field in fields(ProtectionPlan)}


@pytest.mark.parametrize("name", OTHERS)
def test_every_setting_is_part_of_the_digest(name):
    objective = "segmentation" if name == "mask" else "classification"
    of_volumes = name in ("patches", "between_slices")
    plan = ProtectionPlan(objective=objective, extent="volume" if of_volumes else "slice")
    assert replace(plan, **{name: OTHERS[name]}).digest() != plan.digest()


def test_equal_plans_have_equal_digests_and_surrogates_are_part_of_them():
    assert ProtectionPlan(rho=0.3).digest() == ProtectionPlan(rho=0.3).digest()
    digests = {ProtectionPlan().digest(text) for text in ("", "a", "b")}
    assert len(digests) == 3
    assert all(len(one) == 64 and int(one, 16) for one in digests)


@pytest.mark.parametrize(
    "plan",
    [
        ProtectionPlan(),
        ProtectionPlan(**OTHERS | {"label_free": False, "preprocessing": "", "spare_one": False}),
        ProtectionPlan(preprocessing=OTHERS["preprocessing"]),
    ],
)
def test_a_plan_survives_json_with_its_digest(plan):
    back = ProtectionPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert back == plan
    assert back.digest() == plan.digest()


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(PlanError, match=r"unknown settings \['epsilonn', 'rhoo'\]; known are"):
        ProtectionPlan.from_dict({"rhoo": 0.2, "epsilonn": "4/255", "seed": 1})


def test_a_setting_that_is_not_given_has_its_default():
    assert ProtectionPlan.from_dict({"rho": 0.5}) == ProtectionPlan(rho=0.5)


def test_the_command_line_offers_every_method():
    assert set(plan_options.METHODS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_only_methods_that_depend_on_the_label_need_a_fit(name):
    assert ProtectionPlan(method=name).needs_surrogate == (name not in ("random", "uniform"))


def test_a_method_gets_the_settings_of_its_plan():
    plan = ProtectionPlan(
        method="one_sided", rho=0.3, steps=4, step_size=0.5, schedule="once", zero_mean=False
    )
    assert plan.build_method(2) == OneSided(rho=0.3, place=2, grid=(128, 128))
    volumetric = replace(plan, extent="volume", block=3, grain="coarse").build_method()
    assert volumetric == OneSided(rho=0.3, cell=3, grain="coarse", grid=(96, 96))
    plan = replace(plan, method="salm")
    assert plan.build_method() == Salm(
        rho=0.3, steps=4, step_size=0.5, schedule="once", balanced=False
    )
    assert replace(plan, method="random").build_method() == Random(rho=0.3)
    dense = replace(plan, method="dense").build_method()
    assert (dense.rho, dense.steps, dense.step_size) == (1.0, 4, 0.5)


def test_the_range_that_is_asked_for_wins():
    volume = phantom_volume()
    plan = ProtectionPlan(intensity_range=(-1000.0, 500.0))
    assert intensity_range(plan, volume, lambda _: pytest.fail("not asked")) == (-1000.0, 500.0)


def test_ct_has_a_soft_tissue_range_and_its_foreground_is_not_looked_at():
    volume = phantom_volume()
    found = intensity_range(ProtectionPlan(), volume, lambda _: pytest.fail("not asked"))
    assert found == CT_RANGE_HU == (-160.0, 240.0)


def test_other_modalities_have_the_percentiles_of_their_foreground():
    volume = phantom_volume(modality="MR", slices=3)
    mask = foreground(volume.pixels, "MR")
    found = intensity_range(ProtectionPlan(), volume, mask.__getitem__)
    wanted = np.percentile(volume.pixels.values[mask].astype(np.float64), (0.5, 99.5))
    assert found == pytest.approx(tuple(wanted), abs=1e-3)


def test_a_foreground_of_one_value_has_no_range():
    volume = phantom_volume(modality="MR")
    flat = replace(volume, pixels=replace(volume.pixels, values=volume.pixels.values * 0 + 5))
    with pytest.raises(PlanError, match="one value only"):
        intensity_range(ProtectionPlan(), flat, lambda _: np.ones((64, 64), bool))


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_make_something_for_each_label_take_no_masks(method):
    if method in BY_LABEL:
        with pytest.raises(PlanError, match="knows no masks"):
            ProtectionPlan(method=method, objective="segmentation")
    else:
        plan = ProtectionPlan(method=method, objective="segmentation")
        assert plan.needs_masks == plan.build_method().needs_gradient
