"""What benchmarks share: one measured process, its environment, and the head of their JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured process; `work_seconds` is what it printed last, if it was told to."""

    seconds: float
    peak_mb: float
    work_seconds: float | None = None


def shared_file(name: str) -> Path:
    """Return a file below data/ of the folder that SALM_SHARED names, else ../shared."""
    path = Path(os.environ.get("SALM_SHARED", ROOT.parent / "shared")) / "data" / name
    if not path.exists():
        raise SystemExit(f"{path.name} was not found; SALM_SHARED=FOLDER names its place")
    return path


def compile_bytecode() -> None:
    """Write our bytecode, which installing a package does; else every start would make it again.

    Some environments forbid a process to write it as it goes.
    """
    places = [str(ROOT / name) for name in ("salm_dicom", "benchmarks")]
    places += [str(path) for path in (ROOT / "tests").glob("*.py")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *places], check=True)


def run(command: Sequence[str | Path], *, timed: bool = False) -> Run:
    """Run a process to its end; its peak is that of its largest process (children included)."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=messages, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        messages.seek(0)
        if process.returncode:
            raise SystemExit(
                f"{command} ended with {process.returncode}:\n{messages.read()[-2000:]}"
            )
        inside = float(output.read().split()[-1]) if timed else None
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return Run(seconds=seconds, peak_mb=usage.ru_maxrss / unit, work_seconds=inside)


def arguments(doc: str, name: str, *, repeats: int = 3) -> argparse.ArgumentParser:
    """Return the arguments of a benchmark, with --repeats and --json for its numbers."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    shown = f"of each measurement ({repeats})"
    parser.add_argument("--repeats", type=int, default=repeats, help=shown)
    target = ROOT / "benchmarks" / "results" / f"{name}.json"
    parser.add_argument("--json", type=Path, default=target)
    return parser


def write_results(path: Path, libraries: Sequence[str], **numbers: Any) -> None:
    """Write numbers as JSON under when, on what machine and with which versions."""
    from salm_dicom.audit.document import processor  # brings torch along

    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "os": platform.system()},
        "versions": {"python": platform.python_version()} | {n: version(n) for n in libraries},
    }
    path.write_text(json.dumps(about | numbers, indent=2) + "\n", encoding="utf-8")
