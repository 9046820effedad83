"""Sheet and Summary to HTML: nothing runs in a page but the one script it was written with.

Every text goes through `shown` and is then escaped; script and style are allowed by their SHA-256,
which holds for pages at file:// too, and everything else, the network included, is refused.

References: W3C Content Security Policy Level 3, 2.3.1 (hash sources) and 3.3 (the meta element).
"""

from __future__ import annotations

import gzip
import hashlib
import unicodedata
from base64 import b64encode
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from salm_dicom import __version__
from salm_dicom.report.charts import HEIGHT, WIDTH
from salm_dicom.report.sheet import Preset, Scene, Sheet, Summary, View

# Of these categories nothing has a shape of its own: controls, formats (bidirectional marks among
# them), lone surrogates, private use; separators of lines and paragraphs.
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def series_page(sheet: Sheet) -> bytes:
    """Return the page of one series, UTF-8."""
    script, data = "", None
    if sheet.scene is not None:
        script, data = _niivue() + _file("niivue.js"), _scene_data(sheet.scene)
    elif sheet.view is not None:
        script, data = _file("pixels.js") + _file("viewer.js"), _data(sheet.view)
    script += _file("review.js") if sheet.asked else ""
    return _rendered("series.html", script, sheet=sheet, data=data)


def index_page(summary: Summary) -> bytes:
    """Return the page that lists every series, UTF-8."""
    return _rendered("index.html", "", summary=summary)


def shown(text: str) -> str:
    r"""Return text whose every character is seen: a mark of direction becomes `\u202e`."""
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in _INVISIBLE else c for c in text)


def _rendered(name: str, script: str, **values: Any) -> bytes:
    style = _file("page.css")
    text = _ENVIRONMENT.get_template(name).render(
        style=Markup(style),  # our own files, not anybody's text
        script=Markup(script),
        policy=_policy(style, script),
        version=__version__,
        **values,
    )
    return text.encode("utf-8")


def _policy(style: str, script: str) -> str:
    """Return the content security policy that allows this style and this script, and no more."""
    scripts = f"'sha256-{_digest(script)}'" if script else "'none'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'sha256-{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _data(view: View) -> dict[str, Any]:
    """Return what viewer.js reads."""
    pixels = view.pixels
    return {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "step": pixels.step,
        "slices": pixels.slices,
        "kept": pixels.kept,
        "source": {"least": pixels.source.least, "size": pixels.source.size},
        "change": {"least": pixels.change.least, "size": pixels.change.size},
        "blocks": pixels.blocks,
        "slope": view.slope,
        "intercept": view.intercept,
        "absent": view.absent,
        "units": view.units,
        "inverted": view.is_inverted,
        "aspect": view.aspect,
        "largest": view.largest,
        "presets": _presets(view.presets),
    }


def _scene_data(scene: Scene) -> dict[str, Any]:
    """Return what niivue.js reads."""
    return {
        "source": scene.source,
        "difference": scene.difference,
        "shape": scene.shape,
        "whole": scene.whole,
        "steps": scene.steps,
        "affine": scene.affine,
        "units": scene.units,
        "inverted": scene.is_inverted,
        "least": scene.least,
        "largest": scene.largest,
        "presets": _presets(scene.presets),
    }


def _presets(presets: Iterable[Preset]) -> list[dict[str, Any]]:
    return [{"name": p.name, "low": p.low, "high": p.high} for p in presets]


def _niivue() -> str:
    """Return NiiVue as it was published, below its licences."""
    vendor = files("salm_dicom.report") / "vendor"
    licence = (vendor / "LICENSE-niivue.txt").read_text(encoding="utf-8")
    code = gzip.decompress((vendor / "niivue.umd.js.gz").read_bytes()).decode("utf-8")
    return f"/*\n{licence}*/\n{code}"


def _file(name: str) -> str:
    return (files("salm_dicom.report") / "templates" / name).read_text(encoding="utf-8")


def _finalize(value: object) -> object:
    """Return what an expression of a template becomes before it is escaped."""
    if isinstance(value, Markup):
        return value
    return shown(value) if isinstance(value, str) else value


_ENVIRONMENT = Environment(
    loader=FunctionLoader(_file),
    autoescape=True,
    finalize=_finalize,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals.update(chart_width=WIDTH, chart_height=HEIGHT)
