"""Compare data sets as pydicom decodes them: what else than UIDs differs, and the pairs of UIDs.

Independent of the code that wrote the second one: it shares no line with `references`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from salm_dicom.dicom.uids import KEPT

UidPair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs; never quotes a value of the patient's."""

    code: str
    text: str


def compare(
    before: Dataset, after: Dataset, *, but: Collection[int] = (), gone: Collection[int] = ()
) -> tuple[list[Difference], list[UidPair]]:
    """Return what differs, and the UIDs of both side by side, at every depth.

    Parameters
    ----------
    but
        Top-level tags that are not compared.
    gone
        Tags that must not be in `after`, at any depth, whatever `before` has.
    """
    found: list[Difference] = []
    pairs: list[UidPair] = []
    _compare(before, after, frozenset(but), frozenset(gone), found, pairs)
    return found, pairs


def _compare(
    before: Dataset,
    after: Dataset,
    but: frozenset[int],
    gone: frozenset[int],
    found: list[Difference],
    pairs: list[UidPair],
) -> None:
    old, new = ({int(tag) for tag in one.keys()} - but for one in (before, after))  # noqa: SIM118
    for tag in sorted(old | new):
        name = str(BaseTag(tag))
        if tag in gone:
            if tag in new:
                found.append(Difference("STALE_ATTRIBUTE", f"{name} no longer holds"))
        elif tag & 0xFFFF == 0:
            continue  # retired group length
        elif tag not in new:
            found.append(Difference("ATTRIBUTE_REMOVED", f"{name} is missing"))
        elif tag not in old:
            found.append(Difference("ATTRIBUTE_ADDED", f"{name} was added"))
        else:
            _element(before[tag], after[tag], gone, found, pairs)


def _element(
    before: DataElement,
    after: DataElement,
    gone: frozenset[int],
    found: list[Difference],
    pairs: list[UidPair],
) -> None:
    if before.VR != after.VR:
        found.append(Difference("ATTRIBUTE_CHANGED", f"{before.tag} has another VR"))
    elif before.VR == "UI" and before.tag not in KEPT and before.VM == after.VM:
        pairs.extend(zip(_uids(before), _uids(after), strict=True))
    elif before.VR == "SQ" and len(before.value) == len(after.value):
        for one, other in zip(before.value, after.value, strict=True):
            _compare(one, other, frozenset(), gone, found, pairs)
    elif before != after:
        found.append(Difference("ATTRIBUTE_CHANGED", f"{before.tag} is not the source's"))


def _uids(element: DataElement) -> list[str]:
    if not element.value:
        return []
    return [str(uid) for uid in (element.value if element.VM > 1 else [element.value])]
