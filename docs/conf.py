"""How the documentation is built: `make docs`; nothing is fetched, every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from generate import write_pages  # noqa: E402

from salm_dicom import __version__  # noqa: E402

project = "salm_dicom"
release = version = __version__
author = "the authors of salm_dicom"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = f"salm_dicom {version}"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_copy_source = False
myst_heading_anchors = 3
nitpicky = True
# Objects of others, whose inventories would have to be fetched. `make docs` fetches nothing.
nitpick_ignore_regex = [
    ("py:class", r"(numpy|torch|monai|pydicom|pathlib|datetime|collections|concurrent)\..+"),
    ("py:exc", "SafetensorError"),
]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

write_pages(HERE / "generated")
