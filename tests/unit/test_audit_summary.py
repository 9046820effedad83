"""What an audit concludes: how much was lost, what restores it, and when nothing can be said."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from salm_dicom.audit.dataset import Dataset, Side
from salm_dicom.audit.document import write_document
from salm_dicom.audit.experiment import Found, Settings, Spec, planned
from salm_dicom.audit.images import Images
from salm_dicom.audit.interval import Draws, Interval
from salm_dicom.audit.plots import draw
from salm_dicom.audit.run import Audit
from salm_dicom.audit.subjects import View
from salm_dicom.audit.summary import CLEAN_CHOICE, Summary, judged, sentence, summarise
from salm_dicom.audit.trial import Trial
from salm_dicom.cli.audit_text import lines
from salm_dicom.plan import ProtectionPlan

SETTINGS = Settings(
    victims=("convnet", "resnet-10"), countermeasures=("jpeg10", "blur1"), seeds=2, coverage=(50,)
)
PATIENTS = 40


def side() -> Side:
    labels = torch.arange(PATIENTS) % 2
    images = Images(pixels=torch.zeros(PATIENTS, 1, 4, 4), labels=labels)
    return Side(clean=images, protected=images, patients=torch.arange(PATIENTS), late=None)


DATA = Dataset(train=side(), validation=side(), test=side(), classes=("a", "b"))


def right(score: float) -> Tensor:
    """Return which of the test images a victim of this balanced accuracy recognises."""
    return torch.arange(PATIENTS) < round(score * PATIENTS)


def trials(**scores: float) -> list[Found]:
    """Return trials whose clean victims score 0.9, and others what is said for their kind."""

    def score(spec: Spec) -> float:
        kind = f"{spec.countermeasure}_{spec.coverage}"
        return scores.get(kind, 0.9 if spec.coverage == 0 else 0.5)

    return [
        Found(
            spec=spec,
            trial=Trial(
                selected=0, clean_selected=0, last=0, best=0, train=1, auc=score(spec) + 0.05
            ),
            evidence=right(score(spec)),
            evidence_by_clean=right(scores.get("by_clean", score(spec))),
            evidence_protected=None if spec.coverage else right(scores.get("use", 0.9)),
            epochs=3,
            seconds=1.0,
        )
        for spec in planned(SETTINGS, DATA)
    ]


def summary(**scores: float) -> Summary:
    return summarise(trials(**scores), DATA)


def audit(**scores: float) -> Audit:
    found = trials(**scores)
    return Audit(
        settings=SETTINGS,
        view=View(plan=ProtectionPlan()),
        jobs=1,
        data=DATA,
        planned=len(found),
        not_measured={"late arrival": "a reason"},
        weights={},
        found=tuple(found),
        summary=summarise(found, DATA),
    )


def test_a_row_says_what_was_lost_and_a_countermeasure_what_it_restores():
    none, by_clean, jpeg, blur = summary(jpeg10_100=0.8, blur1_100=0.4).countermeasures
    assert none.protection.value == pytest.approx(1)
    assert sentence(none).startswith("protected: 100 %")
    assert jpeg.restored == pytest.approx(0.75)
    assert sentence(jpeg).startswith("restores 75 % of the loss; weakly protected: 25 %")
    assert sentence(blur).startswith("restores nothing of the loss; protected")
    assert by_clean.countermeasure == CLEAN_CHOICE
    assert len(none.of_runs) == 4


def test_where_nothing_was_lost_nothing_is_restored():
    none, *others = summary(none_100=0.88, jpeg10_100=0.9, blur1_100=0.9).countermeasures
    assert none.word == "not protected"
    assert [row.restored for row in others] == [None] * 3


def test_a_countermeasure_is_compared_with_clean_victims_that_use_it_too():
    _, _, jpeg, _ = summary(jpeg10_0=0.7, jpeg10_100=0.7).countermeasures
    assert jpeg.protection.value == pytest.approx(0)
    assert jpeg.word == "not protected"


def test_nothing_is_said_of_clean_victims_at_chance():
    none, _, jpeg, _ = summary(jpeg10_0=0.55, jpeg10_100=0.5).countermeasures
    assert none.word == "protected"
    assert jpeg.word == "nothing can be said"
    assert jpeg.protection is None
    assert "chance is 0.50" in jpeg.verdict
    assert sentence(jpeg) == jpeg.verdict


def test_a_spread_larger_than_the_effect_is_said_to_be_so():
    clean = Interval(value=0.9, low=0.8, high=1.0)
    for found in (
        Interval(value=0.4, low=-0.1, high=0.9),
        Interval(value=0.1, low=-0.6, high=0.7),
    ):
        assert judged(clean, found, 0.5).startswith("cannot be told")
    certain = judged(clean, Interval(value=0.05, low=-0.2, high=0.3), 0.5)
    assert certain == "not protected: 5 % of what could be learned was lost (-20 to 30 %)"
    assert judged(clean, Interval(value=0.5, low=0.2, high=0.8), 0.5).startswith("partly")


def test_two_test_patients_of_a_label_prove_nothing_however_alike_they_are():
    clean, none = Interval(value=0.9, low=0.9, high=0.9), Interval(value=0.0, low=0.0, high=0.0)
    assert judged(clean, none, 0.5, patients=3).startswith("not protected")
    verdict = judged(clean, none, 0.5, patients=2)
    assert verdict == (
        "cannot be told: a label has 2 patients to test on, at least 3 are needed "
        "(15 patients in all)"
    )


def test_victims_that_disagree_make_the_interval_wide():
    found = trials()
    lucky = [
        replace(one, evidence=right(0.9)) if one.spec.victim == "convnet" else one for one in found
    ]
    none = summarise(lucky, DATA).countermeasures[0]
    assert none.protection.value == pytest.approx(0.5)
    assert none.protection.low < 0.1
    assert none.word == "cannot be told"
    victims = summarise(lucky, DATA).victims
    assert [row.word for row in victims.values()] == ["not protected", "protected"]
    assert list(victims) == ["convnet", "resnet-10"]


def test_images_of_one_patient_do_not_make_an_interval_narrower():
    labels, patients = torch.arange(PATIENTS) % 2, torch.arange(PATIENTS)
    correct = (torch.arange(PATIENTS) % 4 < 2)[None]
    one = Interval.of(Draws(labels=labels, patients=patients).scores(correct))
    many = Draws(labels=labels.repeat(9), patients=patients.repeat(9))
    again = Interval.of(many.scores(correct.repeat(1, 9)))
    assert again == one
    assert one.value == 0.5
    # four standard errors of 40 tosses are 0.31
    assert 0.2 < one.high - one.low < 0.4


def test_coverage_rows_are_without_countermeasure_and_compared_with_clean_victims():
    full, half = summary(none_50=0.9).coverage
    assert (full.coverage, half.coverage) == (100, 50)
    assert half.protection.value == pytest.approx(0)


def test_the_change_of_a_clean_models_score_is_in_points():
    assert summary(use=0.85).utility.mean == pytest.approx(-5)
    assert summary(use=0.9).utility.largest == pytest.approx(0)


def test_a_requirement_is_reached_when_every_row_reaches_it_and_can_be_believed():
    assert audit().reaches(0.9)
    assert not audit(jpeg10_100=0.8).reaches(0.5)
    assert not audit(blur1_0=0.5).reaches(0.1)
    assert not audit(by_clean=0.9).reaches(0.5)


def test_the_text_can_be_read_by_somebody_who_does_not_know_the_method():
    text = "\n".join(lines(audit(jpeg10_100=0.8, use=0.85)))
    for part in (
        "Labels: a, b. Guessing scores 0.50, a perfect model 1.00",
        "test:       40 patients, 40 images",
        "JPEG, quality 10:\n      restores 75 % of the loss; weakly protected: 25 %",
        "changes by -5.0 points; at most 1 wanted: NOT kept",
        "\n  convnet ",
        "\n  resnet-10 ",
        "Not measured: late arrival (a reason)",
        "50 %",
    ):
        assert part in text
    assert "Take care" not in text


def test_few_test_patients_are_warned_of():
    few = replace(DATA, test=side().part(torch.arange(PATIENTS) < 6))
    found = [
        replace(
            one,
            evidence=one.evidence[:6],
            evidence_by_clean=one.evidence_by_clean[:6],
            evidence_protected=None if one.evidence_protected is None else one.evidence[:6],
        )
        for one in trials()
    ]
    text = "\n".join(lines(replace(audit(), data=few, summary=summarise(found, few))))
    assert "Take care: a label has 3 test patients only" in text


def test_the_document_has_every_trial_and_is_whole_at_any_time(tmp_path):
    path = tmp_path / "audit.json"
    done = audit(jpeg10_0=0.5)
    write_document(replace(done, found=done.found[:5], summary=None), {}, path)
    half = json.loads(path.read_text())
    assert (half["is_complete"], len(half["trials"]), half["trials_planned"]) == (False, 5, 28)
    write_document(done, {"E_NOT_DICOM": 2}, path)
    whole = json.loads(path.read_text())
    assert whole["is_complete"]
    assert len(whole["trials"]) == whole["trials_planned"]
    assert whole["data"]["sides"]["test"]["images_by_label"] == {"a": 20, "b": 20}
    assert whole["data"]["left_out"] == {"E_NOT_DICOM": 2}
    assert whole["machine"]["threads_of_a_job"] == 1
    assert whole["made_by"]["torch"] == torch.__version__
    assert whole["settings"]["countermeasures"]["jpeg10"] == "JPEG, quality 10"
    (jpeg,) = (row for row in whole["countermeasures"] if row["countermeasure"] == "jpeg10")
    assert jpeg["protection"] is None
    assert jpeg["sentence"].startswith("nothing can be said")
    assert [p.name for p in tmp_path.iterdir()] == ["audit.json"]


def test_plots_are_svg_with_every_countermeasure_and_always_the_same(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib (salm_dicom[report]) is not installed")
    found = summary(jpeg10_0=0.5)
    files = draw(found, tmp_path / "one")
    assert [path.name for path in files] == ["countermeasures.svg", "coverage.svg"]
    for path in files:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        again = Path(str(path).replace("one", "two"))
        draw(found, again.parent)
        assert again.read_bytes() == path.read_bytes()
    text = files[0].read_text()
    for name in ("none", "jpeg10", "blur1", "clean victims learn nothing"):
        assert name in text


def test_the_area_under_the_curve_of_clean_and_protected_victims_is_stated():
    none = summary().countermeasures[0]
    assert (none.clean_auc, none.protected_auc) == pytest.approx((0.95, 0.55))
    assert "learned clean 0.95, learned protected 0.55" in "\n".join(lines(audit()))
    by_clean = summary().countermeasures[1]
    assert by_clean.protected_auc is None
