"""The decoding process: native decoders meet untrusted bytes there, bounded in memory and time.

A file that crashes its decoder, or makes it run on and on, costs that file and nothing else: the
process is started anew for the next one. It is one process for each that decodes, started at the
first compressed file and ended with its parent. Raw pixels never go there.

What is said between the two is JSON and raw bytes, so that nothing which the decoder makes is
believed or unpickled.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from threading import Lock, Timer
from typing import IO, Any

import numpy as np

from salm_dicom.crew import die_with_parent
from salm_dicom.dicom.decode import decoded as decoded_here
from salm_dicom.dicom.decode import words_shape
from salm_dicom.dicom.part10 import Part10, parse
from salm_dicom.dicom.samples import Shape
from salm_dicom.errors import DecodeError, InputError, TimedOut, TooLarge, WorkerCrashed
from salm_dicom.volume import Integers

# A file may take this long, and another second for each so many bytes of its pixels.
_SECONDS = 60
_BYTES_EACH_SECOND = 500_000
# A decoder may take this much, and so many times the bytes of the file and of its pixels.
_FREE_BYTES = 512 << 20
_TIMES = 6
_KINDS = ("|u1", "|i1", "<u2", "<i2")


class Sandbox:
    """A process that decodes one file at a time; started when needed, and anew when it died.

    Parameters
    ----------
    seconds, free_bytes
        Time and memory that a file may take, whatever its size.
    main
        Python statements that the process runs.
    """

    def __init__(
        self,
        seconds: float = _SECONDS,
        free_bytes: int = _FREE_BYTES,
        main: str = f"from {__name__} import serve; serve()",
    ) -> None:
        self._seconds, self._free_bytes, self._main = seconds, free_bytes, main
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def decoded(self, file: Part10, shape: Shape) -> Integers:
        """Return what `decode.decoded` does.

        Raises
        ------
        DecodeError, TooLarge, TimedOut, WorkerCrashed
        """
        seconds = self._seconds + 2 * prod(words_shape(shape)) / _BYTES_EACH_SECOND
        with self._lock:
            process, late = self._running(), list[bool]()

            def end() -> None:
                late.append(True)
                process.kill()

            timer = Timer(seconds, end)
            timer.daemon = True
            timer.start()
            is_whole = False
            try:
                answer = _asked(process, file, shape, self._free_bytes)
                is_whole = True
            except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
                if not late:
                    reason = "the decoder died on it: the pixel data is damaged"
                    raise WorkerCrashed(reason) from error
                reason = f"decoding was not done after {seconds:.0f} seconds and was ended"
                raise TimedOut(reason) from error
            finally:
                timer.cancel()
                timer.join()
                if late or not is_whole:
                    self.close()
        if isinstance(answer, InputError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                stream and stream.close()

    def forget(self) -> None:
        """Leave the process to the parent that this process was forked from."""
        self._process, self._lock = None, Lock()

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the process, started anew if it is not there or died since."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        code = f"import sys; sys.path[:] = {sys.path!r}; {self._main}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders write there what they please
            process_group=0,  # an interrupt is for the parent, which ends what is under way
        )
        return self._process


_SANDBOX = Sandbox()
_is_on = False
os.register_at_fork(after_in_child=_SANDBOX.forget)
atexit.register(_SANDBOX.close)


def use_sandbox(on: bool = True) -> None:
    """Decode compressed files in a process of their own from now on, or in this one."""
    global _is_on
    _is_on = on


def is_sandboxed() -> bool:
    """Return whether compressed files are decoded in a process of their own."""
    return _is_on


@contextmanager
def sandboxed(on: bool = True) -> Iterator[None]:
    """Do as `use_sandbox` says, and as before afterwards."""
    before = _is_on
    use_sandbox(on)
    try:
        yield
    finally:
        use_sandbox(before)
        if not before:
            _SANDBOX.close()


def decoded(file: Part10, shape: Shape) -> Integers:
    """Return decoded words, (frames, rows, columns), and last the sample if there are several.

    Raises
    ------
    DecodeError, TooLarge, TimedOut, WorkerCrashed
    """
    if _is_on:
        return _SANDBOX.decoded(file, shape)
    try:
        return decoded_here(file, shape)
    except MemoryError as error:
        raise TooLarge("there is not enough memory to decode it") from error


def _asked(
    process: subprocess.Popen[bytes], file: Part10, shape: Shape, free_bytes: int
) -> Integers | InputError:
    """Send a file to the process and return its answer: words, or why there are none."""
    assert process.stdin
    assert process.stdout
    wanted = words_shape(shape)
    memory = free_bytes + _TIMES * (len(file.data) + 2 * prod(wanted))
    _send(process.stdin, {"bytes": len(file.data), "memory": memory})
    process.stdin.write(file.data)
    process.stdin.flush()
    answer = json.loads(process.stdout.readline() or _end())
    if "fault" in answer:
        return {"decode": DecodeError, "memory": TooLarge}[answer["fault"]](str(answer["reason"]))
    if answer["kind"] not in _KINDS:
        raise ValueError("a number type that no decoder gives")
    out: Integers = np.empty(wanted, dtype=answer["kind"])
    view = out.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        done += process.stdout.readinto(view[done:]) or _end()  # type: ignore[attr-defined]
    return out


def _end() -> Any:
    raise EOFError


def _send(stream: IO[bytes], what: dict[str, object]) -> None:
    stream.write(json.dumps(what).encode() + b"\n")


def serve() -> None:
    """Answer a parent until it ends: the main function of the process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    die_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        data = sys.stdin.buffer.read(asked["bytes"])
        try:
            _bound(asked["memory"])
            file = parse(data)
            words = np.ascontiguousarray(decoded_here(file, Shape.of(file)))
        except InputError as error:
            _send(answers, {"fault": "decode", "reason": str(error)})
        except MemoryError:
            reason = f"decoding wants more than {asked['memory'] >> 20} MB of memory"
            _send(answers, {"fault": "memory", "reason": reason})
        else:
            words = words.astype(words.dtype.newbyteorder("<"), copy=False)
            _send(answers, {"kind": words.dtype.str})
            answers.write(words.reshape(-1).view(np.uint8).data)
        answers.flush()


def _bound(memory: int) -> None:
    """Let this process take so many bytes more than it has now, where the system says how many."""
    with suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, hard))
