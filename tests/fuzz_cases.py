"""Cases of the fuzzer: small files of every kind, and mutations that know where elements lie.

A seed and a number give the same case again.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pydicom

from salm_dicom.dicom.part10 import parse
from salm_dicom.errors import InputError
from tests.nifti_files import hounsfield, write_nifti_file
from tests.objects import write_report, write_segmentation
from tests.synthetic import SYNTAXES, write_ct_series
from tests.synthetic_frames import ColourRecipe, EnhancedRecipe, stack, write_colour, write_enhanced

WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
# Of a real file that is mutated; larger ones only make cases slower.
_MOST_BYTES = 12_000
CANARY = "CNRYFUZZ"
_NUMBERS = (0, 1, 2, 7, 8, 12, 15, 16, 17, 32, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF,
            0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip
_TEXTS = (b"", b"0", b"-1", b"1e999", b"nan", b"0,5", b"1\\2", b"9" * 40, b"../../x", b"\x1b[31m",
          b"\xff\xfe", b"ISO 2022 IR 87", b"1.2.840.10008.1.2.4.70", b"\\\\\\")  # fmt: skip
_VRS = (b"SQ", b"UN", b"OB", b"US", b"XX", b"DS")

Mutation = Callable[[bytearray, random.Random, list[bytes]], None]


def corpus(folder: Path) -> list[bytes]:
    """Return small files of every kind, each with a canary in a name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, syntax in enumerate(SYNTAXES):
            write_ct_series(folder / f"{number}", slices=1, rows=32, columns=32, seed=number,
                            transfer_syntax=syntax, padding=-2000, icon=True)  # fmt: skip
        (ct,) = write_ct_series(folder / "ct", slices=1, rows=32, columns=32, patient_id=CANARY)
        write_enhanced(folder / "enhanced.dcm", EnhancedRecipe(frames=stack(3), rows=8, columns=8))
        write_colour(folder / "colour.dcm", ColourRecipe(rows=16, columns=16))
        write_report(folder / "sr.dcm", [ct], text=CANARY)
        (wide,) = write_ct_series(folder / "wide", slices=1, rows=48, columns=48)
        write_segmentation(folder / "seg.dcm", [wide])
        write_nifti_file(folder / "a.nii", hounsfield(2, 12, 10), descrip=CANARY.encode())
        for path in sorted(p for p in folder.rglob("*.dcm")):
            dataset = pydicom.dcmread(path)
            dataset.PatientName = f"{CANARY}^NAME"
            dataset.save_as(path)
    real = (p for p in sorted(WHEEL.glob("*.dcm")) if p.stat().st_size < _MOST_BYTES)
    made = sorted(p for p in folder.rglob("*") if p.suffix in (".dcm", ".nii"))
    return [path.read_bytes() for path in (*made, *real)]


def _place(data: bytearray, lots: random.Random) -> int:
    """Return a place in a file, most often in its header."""
    most = len(data) if lots.random() < 0.3 else min(len(data), 3000)
    return lots.randrange(min(132, most - 1), most)


def _flip(data: bytearray, lots: random.Random, _: list[bytes]) -> None:
    for _ in range(lots.choice((1, 1, 2, 8))):
        data[_place(data, lots)] = lots.randrange(256)


def _cut(data: bytearray, lots: random.Random, _: list[bytes]) -> None:
    del data[max(1, _place(data, lots)) :]


def _delete(data: bytearray, lots: random.Random, _: list[bytes]) -> None:
    place = _place(data, lots)
    del data[place : place + lots.choice((1, 2, 4, 8, 30))]


def _insert(data: bytearray, lots: random.Random, _: list[bytes]) -> None:
    place = _place(data, lots)
    data[place:place] = lots.choice((lots.randbytes(8), lots.choice(_TEXTS), bytes(50)))


def _number(data: bytearray, lots: random.Random, _: list[bytes]) -> None:
    size, place = lots.choice((2, 4)), _place(data, lots) & ~1
    number = lots.choice(_NUMBERS) % (1 << 8 * size)
    data[place : place + size] = number.to_bytes(size, lots.choice(("little", "big")))


def _other(data: bytearray, lots: random.Random, files: list[bytes]) -> None:
    """Put a piece of another file here."""
    source = lots.choice(files)
    start, place = lots.randrange(len(source)), _place(data, lots)
    piece = source[start : start + lots.randrange(1, 400)]
    data[place : place + (len(piece) if lots.random() < 0.5 else 0)] = piece


def _element(data: bytearray, lots: random.Random, _: list[bytes]) -> None:
    """Change the value, length, tag or VR of one element, or repeat it, or take it away."""
    try:
        spans = [s for s in parse(bytes(data)).spans if s.stop - s.start < 2000]
    except InputError:
        spans = []
    if not spans:
        return _flip(data, lots, [])
    one = lots.choice(spans)
    how = lots.randrange(6)
    if how == 0:
        text = lots.choice(_TEXTS)
        size = one.value_stop - one.value
        data[one.value : one.value_stop] = text[:size].ljust(size, b" ")
    elif how == 1:
        number = lots.choice(_NUMBERS)
        size = one.value - one.start - 4
        data[one.start + 4 : one.value] = (number % (1 << 8 * min(size, 4))).to_bytes(
            size, "little"
        )
    elif how == 2:
        data[one.start : one.start + 4] = data[lots.choice(spans).start :][:4]
    elif how == 3:
        data[one.start + 4 : one.start + 6] = lots.choice(
            (b"SQ", b"UN", b"OB", b"US", b"XX", b"DS")
        )
    elif how == 4:
        data[one.stop : one.stop] = data[one.start : one.stop]
    else:
        del data[one.start : one.stop]
    return None


MUTATIONS: tuple[Mutation, ...] = (
    _flip, _cut, _delete, _insert, _number, _number, _other, _element, _element, _element,
)  # fmt: skip


def case(files: list[bytes], seed: int, number: int) -> bytes:
    """Return the bytes of a case; the same for the same seed and number."""
    lots = random.Random(f"{seed}/{number}")
    data = bytearray(lots.choice(files))
    for _ in range(lots.choice((1, 1, 1, 2, 3, 6))):
        lots.choice(MUTATIONS)(data, lots, files)
        if len(data) < 140:
            break
    return bytes(data)
