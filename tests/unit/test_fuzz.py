"""A few hundred cases of the fuzzer with a fixed seed, and what it has found before."""

from __future__ import annotations

import signal

import pytest

from salm_dicom.dicom import scan as scan_module
from salm_dicom.dicom.sandbox import sandboxed
from salm_dicom.errors import BadValue
from tests import fuzz
from tests.fuzz_cases import CANARY, case, corpus
from tests.synthetic import write_ct_series
from tests.synthetic_frames import EnhancedRecipe, stack, write_enhanced
from tests.unit.derivations import derive, edited

CASES = 600


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[bytes]:
    return corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def _alarm():
    before = signal.signal(signal.SIGALRM, fuzz._late)
    yield
    signal.signal(signal.SIGALRM, before)


def test_mutated_files_are_read_or_have_a_code_and_are_not_quoted(files, tmp_path):
    with sandboxed(True):
        wrong = {
            number: found
            for number in range(CASES)
            if (found := list(fuzz.check(case(files, 20260131, number), tmp_path / "case")))
        }
    assert wrong == {}


def test_cases_repeat_and_differ(files):
    made = [case(files, 7, number) for number in range(50)]
    assert made == [case(files, 7, number) for number in range(50)]
    assert len(set(made)) > 45
    assert made != [case(files, 8, number) for number in range(50)]


def test_the_fuzzer_finds_what_is_planted(tmp_path, monkeypatch):
    (path,) = write_ct_series(tmp_path, slices=1, rows=32, columns=32)
    data = path.read_bytes()

    def planted(error: BaseException) -> list[str]:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(scan_module, "instance_header", fail)
        return list(fuzz.check(data, tmp_path / "case"))

    assert list(fuzz.check(data, tmp_path / "case")) == []
    assert any("unforeseen ZeroDivisionError" in text for text in planted(ZeroDivisionError()))
    assert any(CANARY in text for text in planted(BadValue(f"{CANARY} is no number")))


def test_a_study_uid_that_is_no_ascii_keeps_its_bytes_where_it_is_repeated(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", EnhancedRecipe(frames=stack(2)))
    source = edited(path.read_bytes(), {0x0020000D: ("UI", b"1.2.\xe4.3\0")})
    evidence = derive(source).value(0x00089154)
    assert b"1.2.\xe4.3\0" in evidence
