"""Every code, and every case of bad input that must be survived, has a test that produces it.

Two lists say which. They cannot rot: a test that is named must exist, and its code, class or case
must stand in it, in its parameters or in a constant that it uses.
"""

from __future__ import annotations

import ast
import errno
import os
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import salm_dicom.batch.review  # noqa: F401  has errors of its own
from salm_dicom import errors
from salm_dicom.cli.main import main
from salm_dicom.dicom.scan import scan
from tests.synthetic import write_ct_series

TESTS = Path(__file__).parents[1]
SPOILED = "unit/test_dicom_scan.py::test_a_file_that_cannot_be_protected_is_listed_with_its_code"
DAMAGED = (
    "journeys/test_malformed.py::test_every_damaged_file_is_listed_and_the_good_ones_are_protected"
)
# Code of an error, and a test that produces it.
CODES = {
    "E_NOT_DICOM": SPOILED, "E_EMPTY": SPOILED, "E_TRUNCATED": SPOILED, "E_PARSE": SPOILED,
    "E_NOT_REGULAR": SPOILED, "E_MISSING_TAG": SPOILED, "E_BAD_VALUE": SPOILED,
    "E_BAD_UID": SPOILED, "E_UNSUPPORTED_PIXELS": SPOILED, "E_NOT_IMAGE": SPOILED,
    "E_TRANSFER_SYNTAX": SPOILED, "E_RESCALE": SPOILED, "E_QUANTITATIVE": SPOILED,
    "E_PERMISSION": "unit/test_dicom_scan.py::test_a_file_that_may_not_be_read_is_listed",
    "E_TOO_LARGE": "unit/test_sandbox.py::"
                   "test_a_decoder_that_wants_more_memory_than_it_may_is_too_large",
    "E_BOMB": "unit/test_dicom_deflate.py::test_a_bomb_is_refused_with_its_code",
    "E_DUPLICATE": "journeys/test_scan_table.py::test_scan_says_the_volumes_or_the_code",
    "E_DUPLICATE_UID": "journeys/test_scan_table.py::test_scan_says_the_volumes_or_the_code",
    "E_DECODE": "unit/test_dicom_pixels.py::test_a_corrupt_fragment_is_a_decode_error",
    "E_GEOMETRY": "unit/test_transforms.py::test_files_of_two_series_are_not_one_volume",
    "E_SPACING": "unit/test_transforms.py::"
                 "test_a_tilted_series_is_loaded_as_a_stack_only_when_that_is_asked_for",
    "E_ALREADY_PROTECTED": "unit/test_dicom_scan.py::"
                           "test_our_own_output_is_left_out_as_already_protected",
    "E_CHANGED": "unit/test_batch.py::"
                 "test_a_source_that_changes_between_reading_and_writing_is_left_out",
    "E_NO_MODALITY": "unit/test_nifti.py::"
                     "test_what_cannot_be_protected_exactly_is_left_out_with_its_code",
    "E_NO_LABEL": "unit/test_codes.py::test_a_series_without_a_label_is_listed",
    "E_NOT_CHOSEN": "unit/test_selection.py::test_objects_are_chosen_like_images",
    "E_NO_CHANGE": "unit/test_codes.py::test_an_image_without_anatomy_is_listed",
    "E_NOT_PROTECTED": "unit/test_audit_command.py::"
                       "test_files_without_a_pair_are_listed_and_make_3",
    "E_NOT_DEIDENTIFIED": "unit/test_deidentify.py::"
    "test_a_whole_export_is_deidentified_protected_verified_and_restored",
    "E_UNMEASURABLE": "unit/test_fidelity_spectrum.py::"
    "test_an_image_without_enough_squares_is_not_measured",
    "E_PACS": "journeys/test_transfer.py::"
    "test_nothing_of_a_patient_is_said_when_it_works_and_when_it_does_not",
    "E_NOT_TRANSFERRED": "journeys/test_transfer.py::test_files_that_a_pacs_refuses_are_listed",
    "E_CRASH": "unit/test_batch.py::"
               "test_a_series_that_kills_its_worker_is_left_out_and_the_others_are_done",
    "E_TIMEOUT": "unit/test_sandbox.py::test_a_decoder_that_does_not_end_is_ended",
    "E_UNEXPECTED": "unit/test_codes.py::test_a_file_at_which_we_fail_costs_itself_only",
    "E_PLAN": "unit/test_codes.py::test_a_budget_below_one_stored_unit_is_listed",
    "E_TOO_FEW": "unit/test_audit_split.py::"
                 "test_too_few_patients_or_labels_are_refused_with_what_was_found_and_not_who",
    "E_UNSAFE": "unit/test_codes.py::test_an_output_inside_the_source_is_refused",
    "E_NO_SPACE": "unit/test_batch_interrupted.py::"
                  "test_a_full_disk_while_the_manifest_is_written_is_a_full_disk",
    "E_LOCKED": "unit/test_batch.py::test_two_runs_do_not_write_to_one_output",
    "E_MISMATCH": "unit/test_volume.py::test_padding_that_would_appear_or_vanish_is_refused",
    "E_REJECTED": "unit/test_review.py::test_later_runs_leave_a_rejected_series_out_and_say_so",
    "E_REVIEW": "unit/test_review.py::"
                "test_a_hostile_review_is_listed_with_its_code_and_touches_nothing",
}  # fmt: skip
# Codes that only stand for the errors below them.
BASES = {"E_INPUT"}
PIXELS = "unit/test_dicom_pixels.py::"
# Case of bad input, a test of it, and how the test calls it.
CASES: list[tuple[str, str, str]] = [
    ("empty file", SPOILED, "an empty file"),
    ("non-DICOM file", SPOILED, "a text file"),
    ("truncation anywhere", "unit/test_dicom_elements.py::"
     "test_a_file_cut_anywhere_is_no_image_and_never_gains_an_element", "cut"),
    ("false lengths", DAMAGED, "false_length"),
    ("65535 x 65535 declared", SPOILED, "65535 x 65535"),
    ("2^31 frames declared", SPOILED, "2^31 frames"),
    ("deflate bomb", "unit/test_dicom_deflate.py::"
     "test_refusing_a_bomb_takes_under_a_second_and_200_mb", "E_BOMB"),
    ("RLE bomb", "unit/test_sandbox.py::"
     "test_a_header_bomb_is_refused_in_a_second_and_200_mb", "RLELossless"),
    ("JPEG-LS bomb", "unit/test_sandbox.py::"
     "test_a_header_bomb_is_refused_in_a_second_and_200_mb", "JPEGLSLossless"),
    ("corrupt fragments", PIXELS + "test_a_corrupt_fragment_is_a_decode_error", "noise"),
    ("nesting 500 deep", "unit/test_dicom_elements.py::test_deep_nesting_is_read_or_has_a_code",
     "500"),
    ("nesting 100,000 deep", "unit/test_dicom_elements.py::"
     "test_deep_nesting_is_read_or_has_a_code", "100000"),
    ("no Rows", SPOILED, "no rows"),
    ("no Bits", "unit/test_dicom_reading.py::"
     "test_a_spoiled_instance_is_listed_with_its_code_and_the_rest_is_found", "BitsStored"),
    ("no PixelRepresentation", SPOILED, "no pixel representation"),
    ("UID ../../x", SPOILED, "a path as UID"),
    ("UID /etc/passwd", "unit/test_codes.py::test_a_path_as_a_uid_names_no_file", "/etc/passwd"),
    ("spacing NaN", SPOILED, "spacing NaN"),
    ("spacing 0", "unit/test_dicom_reading.py::"
     "test_a_spoiled_instance_is_listed_with_its_code_and_the_rest_is_found", "[0, 0.5]"),
    ("spacing -1", SPOILED, "negative spacing"),
    ("spacing 0,5", SPOILED, "spacing with commas"),
    ("slope 0", "journeys/test_scan_table.py::test_scan_says_the_volumes_or_the_code", "slope 0"),
    ("slope as text", SPOILED, "slope as text"),
    ("duplicate UIDs, equal", "journeys/test_scan_table.py::"
     "test_scan_says_the_volumes_or_the_code", "copies"),
    ("duplicate UIDs, different", "journeys/test_scan_table.py::"
     "test_scan_says_the_volumes_or_the_code", "two contents under one UID"),
    ("gaps", "journeys/test_scan_table.py::test_scan_says_the_volumes_or_the_code", "gap"),
    ("mixed orientations", "journeys/test_scan_table.py::"
     "test_scan_says_the_volumes_or_the_code", "localizer"),
    ("mixed sizes", "unit/test_codes.py::test_sizes_in_one_series_are_volumes_of_their_own", "24"),
    ("unknown syntax", SPOILED, "an unknown syntax"),
    ("broken character sets", "unit/test_dicom_write.py::"
     "test_a_broken_character_set_is_survived_without_a_warning", "FOO"),
    ("<script>", "journeys/test_canary.py::"
     "test_no_text_of_a_patient_is_in_what_a_person_or_a_recipient_sees", "<script>"),
    ("ANSI", "journeys/test_canary.py::"
     "test_no_text_of_a_patient_is_in_what_a_person_or_a_recipient_sees", "\\x1b"),
    ("=HYPERLINK", "journeys/test_canary.py::"
     "test_no_text_of_a_patient_is_in_what_a_person_or_a_recipient_sees", "=HYPERLINK"),
    ("symlink loops", SPOILED, "a link to itself"),
    ("fifos", SPOILED, "a fifo"),
    ("sockets", "unit/test_codes.py::test_a_socket_is_listed", "AF_UNIX"),
    ("unreadable files", "unit/test_dicom_scan.py::test_a_file_that_may_not_be_read_is_listed",
     "PermissionError"),
    ("unreadable folders", "unit/test_dicom_scan.py::"
     "test_a_folder_that_may_not_be_read_is_listed", "PermissionError"),
    ("read-only disk", "unit/test_codes.py::test_a_place_that_cannot_be_written_is_a_usage_error",
     "EROFS"),
    ("full disk", "unit/test_cli.py::test_no_space_is_7_wherever_it_ends", "ENOSPC"),
    ("two runs at once", "unit/test_batch.py::test_two_runs_do_not_write_to_one_output", "Locked"),
    ("a source that changes", "unit/test_batch.py::"
     "test_a_source_that_changes_between_reading_and_writing_is_left_out", "E_CHANGED"),
    ("constant image", "unit/test_codes.py::test_an_image_without_anatomy_is_listed", "constant"),
    ("1 x 1 image", "unit/test_codes.py::test_an_image_without_anatomy_is_listed", "1 x 1"),
    ("all padding", "unit/test_codes.py::test_an_image_without_anatomy_is_listed", "padding"),
    ("hostile weights", "unit/test_protector.py::"
     "test_a_protector_whose_weights_were_tampered_with_is_refused", "how"),
    ("hostile TOML", "unit/test_cli_config.py::"
     "test_what_no_command_knows_is_refused_before_anything_runs", "RecursionError"),
]  # fmt: skip


def kinds(kind: type[errors.SalmDicomError]) -> Iterator[type[errors.SalmDicomError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from kinds(one)


@cache
def module(path: str) -> ast.Module:
    return ast.parse((TESTS / path).read_text(encoding="utf-8"))


def text_of(test: str) -> str:
    """Return the source of a test, its decorators, and what it uses of its module."""
    path, name = test.split("::")
    defined: dict[str, ast.AST] = {}
    for node in ast.walk(module(path)):
        if isinstance(node, ast.FunctionDef):
            defined[node.name] = node
    for node in module(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                defined[target.id] = node
    assert name in defined, f"{test} does not exist"
    seen, todo = set[str](), [name]
    while todo:
        one = todo.pop()
        seen.add(one)
        names = {n.id for n in ast.walk(defined[one]) if isinstance(n, ast.Name)}
        arguments = {n.arg for n in ast.walk(defined[one]) if isinstance(n, ast.arg)}
        todo += [n for n in names | arguments if n in defined and n not in seen]
    return "\n".join(ast.unparse(defined[one]) for one in sorted(seen))


def test_every_code_has_a_test():
    assert {kind.code for kind in kinds(errors.SalmDicomError)} - BASES == CODES.keys()


@pytest.mark.parametrize("code", CODES)
def test_the_test_of_a_code_is_about_it(code):
    names = [kind.__name__ for kind in kinds(errors.SalmDicomError) if kind.code == code]
    text = text_of(CODES[code])
    assert any(word in text for word in (code, *names))


@pytest.mark.parametrize(("case", "test", "called"), CASES, ids=[case for case, *_ in CASES])
def test_the_test_of_a_case_is_about_it(case, test, called):
    assert called in text_of(test)


def run(*words: object, status: int) -> Result:
    found = CliRunner().invoke(main, list(map(str, words)))
    assert found.exit_code == status, found.output
    return found


def protect(source: Path, output: Path, *more: object, status: int) -> Result:
    words = ("protect", source, "-o", output, "--progress=none", "-j1", *more)
    return run(*words, status=status)


def test_a_series_without_a_label_is_listed(tmp_path):
    for number, label in enumerate(["x", "x", "y"]):
        write_ct_series(tmp_path / "in" / label / str(number), slices=1, seed=number)
    (tmp_path / "labels.csv").write_text("key,label\nx/0,x\ny/2,y\n")
    found = protect(
        tmp_path / "in", tmp_path / "out", "--method=texture", f"--labels={tmp_path}/labels.csv",
        "--labels-by=path", status=3,
    )  # fmt: skip
    assert "E_NO_LABEL" in found.output
    assert "Protected 2 series" in found.output


EMPTY = {
    "constant": {"slope": 1e9},
    "1 x 1": {"rows": 1, "columns": 1},
    "padding": {"slope": 1e9, "intercept": 0.0, "padding": 0},
}


@pytest.mark.parametrize("kind", EMPTY)
def test_an_image_without_anatomy_is_listed(tmp_path, kind):
    write_ct_series(tmp_path / "in" / "good", slices=2, seed=1)
    write_ct_series(tmp_path / "in" / "empty", slices=2, seed=2, patient_id="B", **EMPTY[kind])
    found = protect(tmp_path / "in", tmp_path / "out", "--method=random", status=3)
    assert "E_NO_CHANGE" in found.output
    assert "Protected 1 series" in found.output


def test_a_budget_below_one_stored_unit_is_listed(tmp_path):
    write_ct_series(tmp_path / "in" / "good", slices=2, seed=1)
    write_ct_series(tmp_path / "in" / "coarse", slices=2, seed=2, patient_id="B", slope=50.0)
    found = protect(tmp_path / "in", tmp_path / "out", "--method=random", status=3)
    assert "E_PLAN" in found.output
    assert "Protected 1 series" in found.output


def test_an_output_inside_the_source_is_refused(tmp_path):
    write_ct_series(tmp_path / "in", slices=1)
    found = protect(tmp_path / "in", tmp_path / "in" / "out", "--method=random", status=6)
    assert "[E_UNSAFE]" in found.output


@pytest.mark.parametrize("command", ["scan", "protect"])
def test_a_file_at_which_we_fail_costs_itself_only(tmp_path, monkeypatch, command):
    from salm_dicom.dicom import entries as module

    write_ct_series(tmp_path / "in" / "good", slices=2, seed=1)
    (bad,) = write_ct_series(tmp_path / "in" / "bad", slices=1, seed=2)
    real = module.instance_header

    def fail(path: Path, **settings: object) -> object:
        if path == bad:
            raise ZeroDivisionError("quotes a patient")
        return real(path, **settings)

    monkeypatch.setattr(module, "instance_header", fail)
    log = tmp_path / "log"
    words = ("-o", tmp_path / "out", "--method=random", "--progress=none", "-j1")
    more = words if command == "protect" else ()
    found = run(command, tmp_path / "in", f"--log-file={log}", *more, status=1)
    assert "E_UNEXPECTED" in found.output
    assert "ZeroDivisionError" in found.output
    assert "1 series" in found.output
    assert "entries.py" in log.read_text()
    assert "quotes" not in found.output + log.read_text()


def test_a_path_as_a_uid_names_no_file(tmp_path):
    import pydicom

    for number, uid in enumerate(("/etc/passwd", "../../x", "/etc/passwd")):
        (path,) = write_ct_series(tmp_path / "in" / str(number), slices=1, seed=number)
        dataset = pydicom.dcmread(path)
        name = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")[number]
        dataset.add_new(name, "UI", uid)
        dataset.save_as(path)
    found = protect(tmp_path / "in", tmp_path / "out", "--method=random", status=3)
    assert found.output.count("E_BAD_UID") == 2  # a Study Instance UID is kept as it is
    places = [p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")]
    assert set(places) == {"in", "out", "out.vault"}
    assert not Path("/etc/passwd.partial").exists()


def test_sizes_in_one_series_are_volumes_of_their_own(tmp_path):
    one = {"series_uid": "1.2.3.4", "study_uid": "1.2.3"}
    write_ct_series(tmp_path / "a", slices=2, rows=32, columns=32, **one)
    import pydicom

    for path in write_ct_series(tmp_path / "b", slices=2, rows=24, columns=24, seed=3, **one):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = f"1.2.3.5.{path.stem[-1]}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path)
    assert sorted(series.rows for series in scan(tmp_path).series) == [24, 32]


def test_a_socket_is_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the address of a socket has 108 bytes at most
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        assert [(e.path.name, e.code) for e in scan(tmp_path).left_out] == [
            ("socket", "E_NOT_REGULAR")
        ]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path, monkeypatch, number):
    write_ct_series(tmp_path / "in", slices=1)
    real = Path.mkdir

    def refuse(path: Path, *arguments: object, **settings: object) -> None:
        if "closed" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        real(path, *arguments, **settings)

    monkeypatch.setattr(Path, "mkdir", refuse)
    found = protect(tmp_path / "in", tmp_path / "closed", "--method=random", status=2)
    assert "cannot be written" in found.output
    assert "closed" not in found.output


def test_a_log_file_that_cannot_be_written_or_lies_among_images_is_refused_first(tmp_path):
    write_ct_series(tmp_path / "in", slices=1)
    for log in (
        tmp_path / "no" / "log",
        tmp_path,
        tmp_path / "in" / "log",
        tmp_path / "out" / "log",
    ):
        found = protect(
            tmp_path / "in", tmp_path / "out", "--method=random", f"--log-file={log}", status=2
        )
        assert "--log-file" in found.output
        assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "in").iterdir())) == 1
