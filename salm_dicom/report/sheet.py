"""Sheet and Summary: what a page shows, as plain values; no patient attribute has a place here."""

from __future__ import annotations

from dataclasses import dataclass

from salm_dicom.report.charts import Chart
from salm_dicom.report.pixels import Embedded

# LESS is within its limit and not what is wanted.
RIGHT, LESS, MISSED, WRONG = "right", "less", "missed", "wrong"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: its name, its texts, and whether it is right, missed or wrong."""

    name: str
    texts: tuple[str, ...]
    state: str = ""


@dataclass(frozen=True, slots=True)
class Preset:
    """Modality values that a display shows as black and white."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How the pixels of a series are shown.

    Parameters
    ----------
    pixels
        What is embedded.
    slope, intercept
        Of each embedded slice: modality value = slope * stored + intercept.
    absent
        Of the embedded slices, the places of those without a protected counterpart.
    units
        Name of the modality units, `HU` for CT.
    is_inverted
        Whether high values are dark (MONOCHROME1).
    aspect
        Width of a voxel, as a multiple of its height.
    presets
        The first is shown at the beginning.
    largest
        Largest absolute change in modality units: the ends of the scale of the difference.
    """

    pixels: Embedded
    slope: tuple[float, ...]
    intercept: tuple[float, ...]
    absent: tuple[int, ...]
    units: str
    is_inverted: bool
    aspect: float
    presets: tuple[Preset, ...]
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A volume and its change, as NiiVue shows them.

    Parameters
    ----------
    source, difference
        NIfTI-1 files of one data type and size, gzip, base64; the protected values are their sum.
    shape
        Embedded columns, rows, slices.
    whole
        Columns, rows, slices of the series.
    steps
        Every how many columns, rows and slices are embedded; 1 is all.
    affine
        (4, 4), embedded (column, row, slice, 1) to RAS millimetres.
    least, largest
        Smallest absolute change there can be, and the largest there is, in modality units.
    whole_bytes
        How much text all voxels take.
    units, is_inverted, presets
        As in `View`.
    """

    source: str
    difference: str
    shape: tuple[int, int, int]
    whole: tuple[int, int, int]
    steps: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    units: str
    is_inverted: bool
    presets: tuple[Preset, ...]
    least: float
    largest: float
    whole_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a reviewer is asked about, as their review names it.

    Parameters
    ----------
    schema
        Of the review.
    folder, digest
        Which series in OUT, and of which pixels.
    file
        Name of the file that the page gives.
    """

    schema: str
    folder: str
    digest: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The page of one series.

    Parameters
    ----------
    name
        Folder in OUT.
    facts
        Short words beside the name: modality, size.
    verdict, state
        A sentence, and one of RIGHT, MISSED, WRONG.
    problems
        What is wrong or missed, a sentence each.
    fidelity
        Rows of numbers with limits: what, value, where it is worst, limit, verdict.
    record
        What was done: as stated by the run, as measured.
    charts
        Each with a caption.
    view, scene
        Slices for the viewer of the page, or a volume for NiiVue; both None where the pixels
        cannot be compared.
    notes
        What a reader must know of the pixels shown.
    asked
        What the reviewer's decision is about; None where nothing can be decided.
    """

    name: str
    facts: tuple[str, ...]
    verdict: str
    state: str
    problems: tuple[str, ...]
    fidelity: tuple[Row, ...]
    record: tuple[Row, ...]
    charts: tuple[tuple[Chart, str], ...]
    view: View | None
    notes: tuple[str, ...]
    asked: Asked | None = None
    scene: Scene | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the index: a page, and what it says in short."""

    name: str
    page: str
    row: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The index.

    Parameters
    ----------
    head
        Names of the columns of the entries' rows.
    remarks
        What is in neither page: absent series, strange files, objects.
    about, plan
        The run and its settings, as OUT's manifest states them.
    """

    verdict: str
    state: str
    head: tuple[str, ...]
    entries: tuple[Entry, ...]
    remarks: tuple[Row, ...]
    about: tuple[Row, ...]
    plan: tuple[Row, ...]
