"""How far two groupings of the same things agree: adjusted Rand index and purity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def adjusted_rand(labels: Sequence[Any], clusters: Sequence[Any]) -> float:
    """Return the adjusted Rand index of two groupings: 1 the same, 0 as by chance.

    References
    ----------
    Hubert and Arabie, *Comparing partitions*, Journal of Classification 2 (1985).
    """
    table = _table(labels, clusters)
    both, rows, columns, pairs = (
        _pairs(part) for part in (table, table.sum(1), table.sum(0), table.sum())
    )
    expected, most = rows * columns / pairs, (rows + columns) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def purity(labels: Sequence[Any], clusters: Sequence[Any]) -> float:
    """Return the share of members whose label is the most frequent one of their cluster."""
    table = _table(labels, clusters)
    return float(table.max(0).sum() / table.sum())


def _table(labels: Sequence[Any], clusters: Sequence[Any]) -> NDArray[np.float64]:
    """Return how many have a label and a cluster, (labels, clusters)."""
    (known, rows), (found, columns) = (
        np.unique(np.asarray(one), return_inverse=True) for one in (labels, clusters)
    )
    table = np.zeros((len(known), len(found)))
    np.add.at(table, (rows, columns), 1)
    return table


def _pairs(counts: NDArray[np.float64]) -> float:
    return float((counts * (counts - 1) / 2).sum())


def agreement(labels: Sequence[Any], clusters: Sequence[Any]) -> dict[str, float]:
    """Return both measures by name."""
    return {"adjusted_rand": adjusted_rand(labels, clusters), "purity": purity(labels, clusters)}
