"""`salm-dicom doctor`: can this installation do what it is for? Each line is tried."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from salm_dicom import __version__
from salm_dicom.cli import console
from salm_dicom.cli.options import FOLDER, json_option

LIBRARIES = (
    "pydicom", "highdicom", "SimpleITK", "nibabel", "monai", "torch", "numpy", "safetensors",
    "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "python-gdcm",
)  # fmt: skip
# Room that a run should find, in bytes.
_ROOM = 2**30


@click.command("doctor", epilog="Example:  salm-dicom doctor --folder /where/OUT/will/be")
@click.option(
    "--folder", type=FOLDER, default=Path(), help="Where OUT will be. Default: the current folder."
)
@json_option
@console.reports_errors
def command(folder: Path, as_json: bool) -> int:
    """Check this installation: libraries, decoders, processes, and the folder to write to.

    Reads and protects a series made in memory. Exit 1 when something that is needed fails.
    """
    failed = 0
    for name, check in CHECKS.items():
        try:
            found, good = check(folder), True
        except Exception as error:  # whatever is broken is what we are here to say
            found, good = f"{type(error).__name__}: {error}", False
            failed += 1
        if as_json:
            console.emit("check", name=name, ok=good, found=found)
        else:
            click.echo(f"{'ok    ' if good else 'FAILED'}  {name:12} {found}")
    if as_json:
        console.emit("summary", checks=len(CHECKS), failed=failed)
    elif failed:
        console.say(f"{failed} of {len(CHECKS)} checks failed")
    return console.UNEXPECTED if failed else console.DONE


def _python(_: Path) -> str:
    found = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info < (3, 14):
        raise RuntimeError(f"Python {found}; 3.11 to 3.13 is needed")
    return f"{found}, salm_dicom {__version__}"


def _libraries(_: Path) -> str:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError as error:
            raise RuntimeError(f"{name} is not installed; install salm_dicom with pip") from error
    return ", ".join(f"{name} {one}" for name, one in found.items())


def _decoders(_: Path) -> str:
    from salm_dicom.dicom.codecs import codecs

    found = codecs()
    missing = [name for name, there in found.items() if not there]
    if missing:
        raise RuntimeError(f"cannot read {', '.join(missing)}")
    return f"{len(found)} compressed transfer syntaxes can be read"


def _processes(_: Path) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores; --jobs is that many by default"


def _folder(folder: Path) -> str:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".salm-dicom-") as file:
        file.write(b"\0" * 4096)
        file.flush()
        os.fsync(file.fileno())
    free = shutil.disk_usage(folder).free
    if free < _ROOM:
        raise RuntimeError(f"{free / 2**30:.2f} GB are free; a run should find 1 GB at least")
    return f"can be written to, {free / 2**30:.0f} GB free"


def _torch(_: Path) -> str:
    from salm_dicom.learning import checked_gradients

    return f"{checked_gradients()}, gradients are right; runs on the CPU"


def _protection(_: Path) -> str:
    import numpy as np

    from salm_dicom.plan import ProtectionPlan
    from salm_dicom.protector import Protector
    from salm_dicom.volume import StoredPixels, Volume

    row, column = np.mgrid[:64, :64] - 32
    disc = np.where(row**2 + column**2 < 24**2, (row * column) % 80, -1000).astype(np.int16)
    pixels = StoredPixels(
        values=np.stack([disc, disc + 1]), slope=np.ones(2), intercept=np.zeros(2),
        bits_stored=16, signed=True,
    )  # fmt: skip
    volume = Volume(pixels=pixels, affine=np.eye(4), modality="CT")
    found = Protector(plan=ProtectionPlan(method="random")).apply(volume, series_uid="1.2")
    if found.delta[:, 0].any() or not 0 < found.record.largest_change_stored <= 6:
        raise RuntimeError("a disc of water in air was not protected as it should be")
    return f"{found.record.changed_share:.0%} of a disc of water changed, air did not"


CHECKS: dict[str, Callable[[Path], str]] = {
    "python": _python,
    "libraries": _libraries,
    "decoders": _decoders,
    "processes": _processes,
    "folder": _folder,
    "torch": _torch,
    "protection": _protection,
}
