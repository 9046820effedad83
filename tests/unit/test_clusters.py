"""Label-free: clusters of series that look alike take the place of labels, for late series too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from salm_dicom.errors import PlanError
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector, load, save
from salm_dicom.protector.clusters import k_means
from salm_dicom.protector.fit import Study, fit
from salm_dicom.volume import Part, Volume
from tests.command import run
from tests.synthetic import write_ct_series
from tests.unit.volumes import phantom_volume

PLAN = ProtectionPlan(
    label_free=True, clusters=2, rounds=1, batches=2, batch_size=2, steps=2, slice_size=(32, 32)
)


def volume(seed: int, slices: int = 1) -> Volume:
    """Return a chest (odd) or an abdomen (even)."""
    return phantom_volume(slices=slices, lungs=bool(seed % 2), seed=seed, rows=32, columns=32)


def studies(count: int = 12) -> list[Study]:
    return [Study(load=lambda seed=seed: volume(seed)) for seed in range(count)]


@pytest.fixture(scope="module")
def protector(tmp_path_factory: pytest.TempPathFactory) -> Protector:
    return fit(studies(), PLAN, tmp_path_factory.mktemp("fit"))


def groups(seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    middles = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    return (middles[:, None] + 0.3 * torch.randn((3, 20, 2), generator=rng)).reshape(-1, 2)


def test_k_means_finds_the_groups_and_the_same_ones_again():
    points = groups()
    centroids, places = k_means(points, 3, torch.Generator().manual_seed(1))
    assert [len(set(places[part : part + 20].tolist())) for part in (0, 20, 40)] == [1, 1, 1]
    assert len(set(places.tolist())) == 3
    for number in range(3):
        assert torch.allclose(centroids[number], points[places == number].mean(0), atol=1e-5)
    again, _ = k_means(points, 3, torch.Generator().manual_seed(1))
    assert torch.equal(again, centroids)


def test_k_means_takes_points_that_are_all_the_same():
    centroids, places = k_means(torch.ones(6, 4), 3, torch.Generator().manual_seed(0))
    assert torch.equal(centroids, torch.ones(3, 4))
    assert places.shape == (6,)


def test_a_fit_without_labels_tells_what_looks_different_apart(protector):
    assert protector.classes == ("cluster 0", "cluster 1")
    assert protector.clusters is not None
    late = {
        seed: protector.clusters.name_of(volume(seed, slices=2), PLAN) for seed in range(20, 32)
    }
    for kind in (0, 1):
        assert len({name for seed, name in late.items() if seed % 2 == kind}) == 1
    assert late[20] != late[21]


def test_a_late_series_is_protected_as_its_cluster_whatever_label_it_comes_with(protector):
    late = volume(40)
    one = protector.apply(late, series_uid="1.2.3")
    other = protector.apply(late, series_uid="1.2.3", label="anything")
    assert one.delta.any()
    assert np.array_equal(one.delta, other.delta)
    assert one.record.digest == other.record.digest == protector.digest_for(None)
    shown = protector.clusters.name_of(late, PLAN)
    named = Protector(
        plan=ProtectionPlan(**{**PLAN.to_dict(), "label_free": False}),
        classes=protector.classes, surrogates=protector.surrogates,
    )  # fmt: skip
    by_label = {name: named.apply(late, series_uid="1.2.3", label=name) for name in named.classes}
    assert np.array_equal(by_label[shown].delta, one.delta)
    (another,) = set(named.classes) - {shown}
    assert not np.array_equal(by_label[another].delta, one.delta)


def test_encoder_and_centroids_are_saved_without_pickle_and_belong_to_the_digest(
    protector, tmp_path
):
    save(protector, tmp_path)
    assert {"encoder.safetensors", "centroids.safetensors"} <= {p.name for p in tmp_path.iterdir()}
    again = load(tmp_path)
    assert again.digest == protector.digest
    assert np.array_equal(
        again.apply(volume(50), series_uid="1").delta,
        protector.apply(volume(50), series_uid="1").delta,
    )
    file = tmp_path / "centroids.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(PlanError, match="digest does not fit"):
        load(tmp_path)
    file.unlink()
    with pytest.raises(PlanError, match="no protector that can be read"):
        load(tmp_path)


def test_two_fits_with_one_seed_are_the_same(protector, tmp_path):
    assert fit(studies(), PLAN, tmp_path).digest == protector.digest
    assert list(tmp_path.iterdir()) == []


def test_series_that_cannot_be_read_are_told_of_and_too_few_are_refused(tmp_path):
    def broken():
        raise PlanError("gone")

    told: list[tuple[int, str]] = []

    def failed(index: int, code: str, reason: str) -> None:
        told.append((index, reason))

    fit([Study(load=broken), *studies(4)], PLAN, tmp_path, failed=failed)
    assert set(told) == {(0, "gone")}
    with pytest.raises(PlanError, match="2 clusters need at least as many series; 1 can be used"):
        fit(studies(1), PLAN, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"clusters": 1}, {"objective": "segmentation"}, {"objective": "multilabel"}],
)
def test_what_makes_no_sense_without_labels_is_refused(wrong):
    with pytest.raises(PlanError):
        ProtectionPlan(label_free=True, **wrong)


def test_a_texture_for_each_cluster_needs_no_surrogate(tmp_path):
    plan = replace(PLAN, method="one_sided")
    made = fit(studies(), plan, tmp_path)
    assert made.surrogates == {}
    save(made, tmp_path / "p")
    deltas = [load(tmp_path / "p").apply(volume(s), series_uid=f"{s}").delta.any() for s in (1, 2)]
    assert True in deltas


def test_an_export_without_labels_is_protected_only_when_asked_and_audited_with_labels(tmp_path):
    rows = ["key,label"]
    for number in range(16):
        place = "early" if number < 8 else "late"
        write_ct_series(
            tmp_path / place / str(number), patient_id=f"CANARY{number}", slices=1, rows=32,
            columns=32, lungs=bool(number % 2), seed=number,
        )  # fmt: skip
        rows.append(f"CANARY{number},{'chest' if number % 2 else 'abdomen'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    labels = ["--labels", tmp_path / "labels.csv", "--labels-by=patient"]
    quick = ["--rounds=1", "--steps=2", "--progress=none"]
    asked = run("fit", tmp_path / "early", "-o", tmp_path / "no", *quick)
    assert asked.exit_code == 2
    assert "--label-free" in asked.output
    free = ["--label-free", "--clusters=2", *quick]
    both = run("fit", tmp_path / "early", "-o", tmp_path / "no", *free, *labels)
    assert both.exit_code == 2
    assert "leave out --labels and --masks" in both.output
    fitted = run("fit", tmp_path / "early", "-o", tmp_path / "p", *free)
    assert fitted.exit_code == 0, fitted.output
    assert "fitted on 8 series with labels cluster 0, cluster 1" in fitted.output
    settings = ["--protector", tmp_path / "p", "--progress=none", "-j1"]
    done = run("protect", tmp_path / "late", "-o", tmp_path / "out", *settings)
    assert done.exit_code == 0, done.output
    assert "Protected 8 series" in done.output
    assert run("verify", tmp_path / "late", tmp_path / "out", "--rows=1,2").exit_code == 0
    again = run("protect", tmp_path / "late", "-o", tmp_path / "out", *settings)
    assert "8 of them by an earlier run" in again.output
    audit = run("audit", tmp_path / "late", tmp_path / "out", *labels, "--victims=convnet",
                "--seeds=1", "--epochs=1", "--countermeasures=none", "--coverage=100", "--size=32",
                "--progress=none", "--json", tmp_path / "a.json")  # fmt: skip
    assert audit.exit_code == 0, audit.output
    assert json.loads((tmp_path / "a.json").read_text())["data"]["labels"] == ["abdomen", "chest"]
    assert "CANARY" not in audit.output


def test_multi_frame_files_are_looked_at_volume_by_volume(protector):
    both = volume(60, slices=2)
    parts = tuple(Part(start=n, stop=n + 1, affine=both.affine, irregular="") for n in (0, 1))
    found = protector.apply(replace(both, parts=parts), series_uid="1")
    assert found.delta.any()
    assert found.record.digest == protector.digest_for(None)


def test_the_names_of_files_are_those_of_the_protector(protector, tmp_path: Path):
    save(protector, tmp_path)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())
