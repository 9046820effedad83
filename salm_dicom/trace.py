"""Where an exception happened, without any value that it may quote: for log files."""

from __future__ import annotations

import os
import sys
import traceback


def frames() -> str:
    """Return where the current exception happened, without any value it may quote."""
    error = sys.exception()
    stack = traceback.extract_tb(error.__traceback__ if error else None)
    lines = [f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in stack]
    return f"{type(error).__name__}: " + " < ".join(reversed(lines))
