"""The benchmarks' measures of how far clusters follow labels: known cases, and laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.agreement import adjusted_rand, agreement, purity
from benchmarks.clusters import table as table_of_clusters
from benchmarks.method import pooled, table

groupings = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30)


@pytest.mark.parametrize(
    ("labels", "clusters", "index", "share"),
    [
        ([0, 0, 1, 1], ["b", "b", "a", "a"], 1.0, 1.0),
        # examples of scikit-learn's documentation
        ([0, 0, 1, 2], [0, 0, 1, 1], 4 / 7, 3 / 4),
        ([0, 0, 1, 1], [0, 0, 1, 2], 4 / 7, 1.0),
        ([0, 0, 0, 0], [0, 1, 2, 3], 0.0, 1.0),
        # Manning, Raghavan and Schuetze, Introduction to Information Retrieval, figure 16.4
        (
            [*"xxxxxo", *"xooood", *"xxddd"],
            [0] * 6 + [1] * 6 + [2] * 5,
            0.2429,
            12 / 17,
        ),
    ],
)
def test_agreement_of_known_groupings(labels, clusters, index, share):
    assert adjusted_rand(labels, clusters) == pytest.approx(index, abs=1e-4)
    assert purity(labels, clusters) == pytest.approx(share)


@given(groupings)
def test_names_and_order_of_members_do_not_matter(pairs):
    labels, clusters = zip(*pairs, strict=True)
    renamed = [f"cluster {3 - one}" for one in reversed(clusters)]
    assert agreement(labels[::-1], renamed) == pytest.approx(agreement(labels, clusters))
    assert adjusted_rand(clusters, labels) == pytest.approx(adjusted_rand(labels, clusters))
    assert adjusted_rand(labels, labels) == purity(labels, labels) == 1


def test_the_table_of_methods_says_how_far_clusters_follow_labels():
    found = agreement([0, 0, 1, 2], [0, 0, 1, 1])
    row = {
        "method": "salm, label-free", "set": "early", "fit_seed": 3, "psnr": 37.0, "changed": 0.2,
        "ssim": 0.9, "passes": 40.0, "fit_seconds": 10.0, "apply_seconds": 1.0,
        "victim": "convnet", "victim_seed": 100, "trial": {"auc": 0.75}, "clusters": found,
        "np": dict.fromkeys(("selected", "clean_selected", "last", "best"), 0.1),
    }  # fmt: skip
    lines = list(table({"rows": [row], "robust": [], "clean": {"convnet/none/100": {"auc": 0.95}}}))
    assert "| salm, label-free | 3 | 0.57 | 0.75 |" in lines
    assert len(list(table({"rows": [], "robust": [], "clean": {}}))) == 2


def test_the_table_of_several_runs_has_the_means_of_all_their_rows():
    rules = ("selected", "clean_selected", "last", "best")
    runs = [
        {
            "clean": {f"convnet/none/{seed}": {"auc": 0.9}},
            "robust": [
                {
                    "method": "a", "countermeasure": "half", "victim": "convnet",
                    "np": {"selected": protection},
                }
            ],
            "rows": [
                {
                    "method": "a", "set": "early", "fit_seed": seed, "psnr": 37.0, "changed": 0.2,
                    "passes": 0.0, "fit_seconds": 0.0, "apply_seconds": 1.0, "victim": "convnet",
                    "victim_seed": seed, "trial": {"auc": 0.5}, "np": dict.fromkeys(rules, 0.5),
                }
            ],
        }
        for seed, protection in ((0, 0.2), (1, 0.6))
    ]  # fmt: skip
    lines = list(table(pooled(runs)))
    assert "| 0.90 ± 0.00 | 0.50 ± 0.00 | 37.0 | nan |" in lines[2]
    assert "| a | early | 0 1 | 0.50 0.50 | 0.50 0.50 |" in lines
    assert lines[-1] == "| half | 0.40 ± 0.28 (0.20 0.60) |"
    said = "unet, none, seed 1: learns nothing from clean images"
    assert (
        list(table(pooled([*runs, runs[0] | {"left_out": [said]}])))[-1] == f"\nLeft out: {said}."
    )


def test_methods_are_compared_in_pairs_of_the_same_seeds_and_victim():
    def row(method: str, seed: int, selected: float, last: float) -> dict[str, object]:
        rules = {"selected": selected, "clean_selected": 0.0, "last": last, "best": 0.0}
        return {
            "method": method, "set": "early", "fit_seed": seed, "psnr": 37.0, "changed": 0.2,
            "passes": 0.0, "fit_seconds": 0.0, "apply_seconds": 1.0, "victim": "convnet",
            "victim_seed": seed, "trial": {"auc": 0.5}, "np": rules,
        }  # fmt: skip

    rows = [
        *(row("salm", seed, one, 0.9) for seed, one in enumerate((0.5, 0.7, 0.6))),
        *(row("dense", seed, one, 0.1 * seed) for seed, one in enumerate((0.4, 0.5, 0.7))),
        row("dense", 7, 9.0, 9.0),  # nothing to compare it with
    ]
    clean = {f"convnet/none/{seed}": {"auc": 0.9} for seed in (0, 1, 2, 7)}
    (line,) = (
        one
        for one in table({"rows": rows, "robust": [], "clean": clean})
        if one.startswith("| salm less dense")
    )
    # by hand: differences 0.1, 0.2 and -0.1 of mean 0.0667 and standard deviation 0.1528
    assert line.startswith("| salm less dense | 0.07 ± 0.15 | 2 of 3 | 0.8 | 0.529 | 0.80 ± 0.10 |")


def test_the_table_of_clusters_has_the_mean_of_the_seeds_and_each():
    ways = ("fit", "late", "pixels", "pixels, late", "chance")
    rows = [
        {"data": "mednist"} | {way: {"adjusted_rand": index, "purity": 0.5} for way in ways}
        for index in (-0.001, 0.4)
    ]
    lines = table_of_clusters(rows).splitlines()
    assert lines[2] == "| mednist | label-free fit | 0.20 (0.00, 0.40) | 0.50 (0.50, 0.50) |"
    assert "| mednist | chance | 0.40 | 0.50 |" in table_of_clusters(rows[1:])
