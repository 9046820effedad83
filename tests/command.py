"""The command line as tests call it, in their own process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from salm_dicom.cli.main import main


def run(*words: object, stdin: str | None = None) -> Result:
    """Return what `salm-dicom` says and how it ends; it may never end in a traceback."""
    result = CliRunner().invoke(main, [str(word) for word in words], input=stdin)
    assert "Traceback" not in result.output
    return result
