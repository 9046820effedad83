"""Header limits before a decoder sees a file; the process that decodes: bounded, replaceable."""

from __future__ import annotations

import hashlib
import os
import select
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from salm_dicom.batch import run as run_module
from salm_dicom.batch.pool import Pool
from salm_dicom.cli.main import main
from salm_dicom.dicom import sandbox as sandbox_module
from salm_dicom.dicom.codestreams import declared_size
from salm_dicom.dicom.part10 import Part10, read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.samples import Shape
from salm_dicom.dicom.sandbox import Sandbox, is_sandboxed, sandboxed
from salm_dicom.dicom.scan import scan
from salm_dicom.errors import DecodeError, InputError, TimedOut, TooLarge, WorkerCrashed
from tests.synthetic import SYNTAXES, write_ct_series
from tests.synthetic_frames import ColourRecipe, EnhancedRecipe, stack, write_colour, write_enhanced

COMPRESSED = [RLELossless, JPEGLSLossless, JPEG2000Lossless]
# Statements that run the real process with a decoder of the test's in it.
WITH = (
    "import os, numpy; from {module} import serve; import {module} as m; real = m.decoded_here; "
    "m.decoded_here = lambda file, shape: {what}; serve()"
)


def with_decoder(what: str, **limits) -> Sandbox:
    return Sandbox(main=WITH.format(module=sandbox_module.__name__, what=what), **limits)


def ct(folder: Path, **recipe) -> Part10:
    recipe = {"transfer_syntax": JPEG2000Lossless} | recipe
    return read(write_ct_series(folder, slices=1, **recipe)[0])


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize("kind", [(8, False), (8, True), (12, True), (16, False), (16, True)])
def test_values_from_the_sandbox_are_those_from_here(tmp_path, syntax, kind):
    bits, signed = kind
    slope = 8.0 if bits == 8 else 1.0
    file = ct(tmp_path, transfer_syntax=syntax, bits_stored=bits, signed=signed, slope=slope)
    here = stored_values(file)
    with sandboxed():
        there = stored_values(file)
    assert there.dtype == here.dtype
    assert np.array_equal(there, here)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda s: s.name)
def test_frames_and_colour_come_from_the_sandbox_too(tmp_path, syntax):
    frames = EnhancedRecipe(frames=stack(5), transfer_syntax=syntax)
    paths = [write_enhanced(tmp_path / "frames.dcm", frames)]
    if syntax == RLELossless:
        recipe = ColourRecipe(transfer_syntax=syntax, rows=64, columns=64, frames=2)
        paths.append(write_colour(tmp_path / "colour.dcm", recipe))
    for file in map(read, paths):
        here = stored_values(file)
        with sandboxed():
            assert np.array_equal(stored_values(file), here)


def test_a_file_that_kills_the_decoder_costs_itself_only(tmp_path):
    what = "os.abort() if shape.rows == 40 else real(file, shape)"
    bad, good = ct(tmp_path / "bad", rows=40), ct(tmp_path / "good")
    box = with_decoder(what)
    try:
        for file, dies in ((good, False), (bad, True), (good, False), (bad, True)):
            if dies:
                with pytest.raises(WorkerCrashed, match="died"):
                    box.decoded(file, Shape.of(file))
            else:
                assert np.array_equal(box.decoded(file, Shape.of(file))[0], stored_values(file))
    finally:
        box.close()


def test_a_decoder_that_does_not_end_is_ended(tmp_path):
    file = ct(tmp_path)
    box = with_decoder("[None for _ in iter(int, 1)]", seconds=1)
    with pytest.raises(TimedOut, match="not done after 1 second"):
        box.decoded(file, Shape.of(file))
    assert box._process is None


def test_a_decoder_that_wants_more_memory_than_it_may_is_too_large(tmp_path):
    file = ct(tmp_path)
    box = with_decoder("numpy.ones(1 << 30)", free_bytes=64 << 20)
    try:
        with pytest.raises(TooLarge, match="MB of memory"):
            box.decoded(file, Shape.of(file))
    finally:
        box.close()


@pytest.mark.parametrize(
    "answer",
    [
        "", "no json", "[]", "{}", '{"kind": "<f8"}', '{"kind": "|O8"}', '{"kind": "<u2"}',
        '{"fault": "other", "reason": ""}',
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_a_crash(tmp_path, answer):
    main = f"sys.stdin.buffer.readline(); sys.stdout.write({answer!r} + chr(10))"
    file = ct(tmp_path)
    box = Sandbox(main=main)
    with pytest.raises(WorkerCrashed):
        box.decoded(file, Shape.of(file))
    assert box._process is None


def test_what_cannot_be_decoded_is_said_as_without_a_sandbox(tmp_path):
    file = ct(tmp_path)
    start = file.data.index(b"\xff\x93")  # start of data
    broken = replace(file, data=file.data[: start + 2] + bytes(len(file.data) - start - 2))
    for on in (False, True):
        with sandboxed(on), pytest.raises(DecodeError):
            stored_values(broken)


def test_a_process_that_was_ended_between_two_files_is_replaced(tmp_path):
    file, box = ct(tmp_path), Sandbox()
    try:
        first = box.decoded(file, Shape.of(file))
        assert box._process is not None
        box._process.kill()
        box._process.wait()
        assert np.array_equal(box.decoded(file, Shape.of(file)), first)
    finally:
        box.close()


def test_the_sandbox_ends_with_its_parent(tmp_path):
    path = write_ct_series(tmp_path, slices=1, transfer_syntax=RLELossless)[0]
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from salm_dicom.dicom import sandbox\n"
        "from salm_dicom.dicom.part10 import read\n"
        "from salm_dicom.dicom.pixels import stored_values\n"
        "sandbox.use_sandbox()\n"
        "stored_values(read(Path(sys.argv[1])))\n"
        "print(sandbox._SANDBOX._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], stdout=subprocess.PIPE, check=False)
    with suppress(ProcessLookupError):  # it has ended already
        handle = os.pidfd_open(int(done.stdout))
        assert select.select([handle], [], [], 60)[0]
        os.close(handle)


def test_a_forked_process_has_a_sandbox_of_its_own(tmp_path):
    path = write_ct_series(tmp_path, slices=1, transfer_syntax=RLELossless)[0]
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from salm_dicom.dicom import sandbox\n"
        "from salm_dicom.dicom.part10 import read\n"
        "from salm_dicom.dicom.pixels import stored_values\n"
        "sandbox.use_sandbox()\n"
        "file = read(Path(sys.argv[1]))\n"
        "values = stored_values(file)\n"
        "child = os.fork()\n"
        "same = all((stored_values(file) == values).all() for _ in range(20))\n"
        "sandbox._SANDBOX.close()\n"
        "if not child:\n"
        "    os._exit(0 if same else 1)\n"
        "assert same and os.waitpid(child, 0)[1] == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_with_the_sandbox_gives_the_same_bytes(tmp_path, jobs, monkeypatch):
    for number in (1, 2):
        write_ct_series(
            tmp_path / "export" / str(number), slices=2, patient_id=f"P{number}", seed=number,
            transfer_syntax=JPEGLSLossless,
        )  # fmt: skip
    found = []
    used = []
    start, each = run_module.start, Pool.each
    for name, options in (("a", []), ("b", ["--sandbox"])):
        noted = lambda *asked: used.append(is_sandboxed()) or start(*asked)  # noqa: E731
        monkeypatch.setattr(run_module, "start", noted)
        noted = lambda *asked, **how: used.append(is_sandboxed()) or each(*asked, **how)  # noqa: E731
        monkeypatch.setattr(Pool, "each", noted)
        arguments = [
            "protect", tmp_path / "export", "-o", tmp_path / name, "--method=random", "-j", jobs,
            "--progress=none", "--created=2026-01-02T00:00:00+00:00", *options,
        ]  # fmt: skip
        result = CliRunner().invoke(main, [str(one) for one in arguments])
        assert result.exit_code == 0, result.output
        files = sorted((tmp_path / name).rglob("*.dcm"))
        found.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert len(found[0]) == 4
    assert found[0] == found[1]
    assert used == [False, False, True, True]  # headers, then series
    assert not is_sandboxed()


# Header limits


def huge(folder: Path, syntax: str, *, rows: int, both: bool) -> Path:
    """Write a small file that says that it is `rows` x `rows` large, in one header or in both."""
    path = write_ct_series(folder, slices=1, rows=64, columns=64, transfer_syntax=syntax)[0]
    data = bytearray(path.read_bytes())
    code = {JPEGLSLossless: b"\xff\xf7", JPEG2000Lossless: b"\xff\x51"}.get(syntax)
    if code is not None:
        at = data.index(code)
        if syntax == JPEGLSLossless:
            data[at + 5 : at + 9] = 2 * rows.to_bytes(2)
        else:
            data[at + 6 : at + 14] = 2 * rows.to_bytes(4)
            data[at + 22 : at + 30] = 2 * rows.to_bytes(4)
    if both:
        for tag in (b"\x28\0\x10\0US\2\0", b"\x28\0\x11\0US\2\0"):
            at = data.index(tag) + 8
            data[at : at + 2] = rows.to_bytes(2, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("syntax", "rows", "both", "code"),
    [
        (RLELossless, 30000, True, "E_DECODE"),
        (JPEGLSLossless, 65535, False, "E_DECODE"),
        (JPEG2000Lossless, 65535, False, "E_DECODE"),
        (JPEGLSLossless, 30000, True, "E_BOMB"),
        (JPEG2000Lossless, 30000, True, "E_BOMB"),
        (JPEG2000Lossless, 65535, True, "E_TOO_LARGE"),
    ],
)
def test_a_header_bomb_is_refused_in_a_second_and_200_mb(tmp_path, syntax, rows, both, code):
    path = huge(tmp_path, syntax, rows=rows, both=both)
    script = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from salm_dicom.dicom.series import read_series\n"
        "from salm_dicom.errors import InputError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start = time.process_time()\n"
        "try:\n"
        "    read_series([Path(sys.argv[1])])\n"
        "except InputError as error:\n"
        "    print(error.code)\n"
        "print(time.process_time() - start)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    found, seconds, megabytes = run.stdout.split()
    assert found == code
    assert float(seconds) < 1
    assert int(megabytes) < 200
    if both:  # the scan sees the header of the data set only
        assert [entry.code for entry in scan(tmp_path).left_out] == [code]


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.name)
def test_the_size_in_a_codestream_is_found(tmp_path, syntax):
    file = ct(tmp_path, rows=65, columns=71, transfer_syntax=syntax)
    marker = b"\xff\xd8\xff" if syntax == JPEGLSLossless else b"\xff\x4f\xff\x51"
    frame = file.data[file.data.index(marker) :]
    assert declared_size(frame) == (65, 71)
    for end in range(40):
        assert declared_size(frame[:end]) in (None, (65, 71))


def test_the_size_in_a_jpeg_is_found_behind_other_segments():
    tables = b"\xff\xc4\0\x04ab\xff\xff\xfe\0\x03x"
    frame = b"\xff\xd8" + tables + b"\xff\xc3\0\x0b\x0c\0\x40\0\x30\x01"
    assert declared_size(frame) == (64, 48)
    assert declared_size(b"\xff\xd8" + tables + b"\xff\xda") is None
    assert declared_size(b"RLE or what") is None


def test_real_codestreams_say_what_their_headers_say(shared):
    sizes = set()
    for path in sorted((shared / "data").rglob("*")):
        if path.is_file():
            with suppress(InputError):
                file = read(path)
                if file.transfer_syntax.is_encapsulated:
                    stored_values(file)
                    sizes.add((file.transfer_syntax, Shape.of(file).pixels))
    assert {JPEGLosslessSV1, JPEG2000Lossless} <= {syntax for syntax, _ in sizes}
