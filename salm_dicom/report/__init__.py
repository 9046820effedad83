"""Plain values and pixels to self-contained HTML: one page for each series, and an index."""

from salm_dicom.report.page import index_page, series_page
from salm_dicom.report.pixels import Embedded, embed
from salm_dicom.report.sheet import Asked, Entry, Preset, Row, Scene, Sheet, Summary, View

__all__ = [
    "Asked", "Embedded", "Entry", "Preset", "Row", "Scene", "Sheet", "Summary", "View", "embed",
    "index_page", "series_page",
]  # fmt: skip
