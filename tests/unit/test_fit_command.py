"""`salm-dicom fit`, and a fit on the way of `protect`, that are stopped and given again."""

from __future__ import annotations

import errno
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from salm_dicom.batch.labels import Labels
from salm_dicom.batch.protect import Request, protect
from salm_dicom.cli.main import main
from salm_dicom.errors import UnsafeError
from salm_dicom.folder import locked
from salm_dicom.protector import fresh, lesson, load
from tests.synthetic import write_ct_series
from tests.unit.test_batch_interrupted import digests
from tests.unit.test_fit_resumed import Killed, plan_of


@pytest.fixture
def source(tmp_path) -> Path:
    """Four patients with two labels, and a file that is no image."""
    for number in range(4):
        folder = tmp_path / "export" / f"{number}"
        write_ct_series(folder, slices=2, rows=32, columns=32, patient_id=f"P{number}", seed=number)
    rows = "".join(f"{number},{'ab'[number % 2]}\n" for number in range(4))
    (tmp_path / "labels.csv").write_text("key,label\n" + rows)
    return tmp_path / "export"


def run(source: Path, output: Path, *more: str) -> Result:
    words = [
        "fit", source, "-o", output, "--labels", source.parent / "labels.csv", "--labels-by=path",
        "--rounds=2", "--steps=1", "--jobs=1", "--progress=none", *more,
    ]  # fmt: skip
    result = CliRunner().invoke(main, list(map(str, words)))
    assert "Traceback" not in result.output
    return result


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_fit_whose_disk_is_full_is_7_and_another_one_there_is_6_or_8(
    source, tmp_path, monkeypatch
):
    assert run(source, tmp_path / "whole").exit_code == 0
    output = tmp_path / "protector"
    with monkeypatch.context() as patch:
        patch.setattr("salm_dicom.protector.rounds.shadow_file", full)
        stopped = run(source, output)
    assert stopped.exit_code == 7, stopped.output
    with locked(output / "fit", "it"):
        assert run(source, output).exit_code == 8
    other = run(source, output, "--steps=2")
    assert other.exit_code == 6
    assert "remove its folder fit to begin anew" in other.output
    (tmp_path / "labels.csv").write_text("key,label\n0,a\n1,b\n2,b\n3,a\n")
    assert run(source, output).exit_code == 6
    (tmp_path / "labels.csv").write_text("key,label\n0,a\n1,b\n2,a\n3,b\n")
    (output / "letter.txt").write_text("not ours")
    assert run(source, output).exit_code == 6
    (output / "letter.txt").unlink()
    finished = run(source, output)
    assert finished.exit_code == 0, finished.output
    assert digests(output) == digests(tmp_path / "whole")
    again = run(source, output)
    assert (again.exit_code, "not empty" in again.output) == (6, True)


def test_a_changed_file_is_other_data(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("salm_dicom.protector.rounds.shadow_file", full)
        assert run(source, tmp_path / "protector").exit_code == 7
    path = next((source / "0").iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run(source, tmp_path / "protector").exit_code == 6


def test_a_protector_that_was_saved_in_the_last_moment_is_finished(source, tmp_path, monkeypatch):
    assert run(source, tmp_path / "whole").exit_code == 0
    output = tmp_path / "protector"
    with monkeypatch.context() as patch:
        patch.setattr("salm_dicom.protector.checkpoint._remove", full)
        assert run(source, output).exit_code == 7
    assert load(output).digest == load(tmp_path / "whole").digest
    assert run(source, output).exit_code == 0
    assert digests(output) == digests(tmp_path / "whole")


def test_a_run_that_is_stopped_while_it_fits_goes_on_with_the_fit(source, tmp_path):
    request = Request(
        source=source, output=tmp_path / "whole", vault=tmp_path / "whole.vault",
        plan=plan_of("slice"), protector=None,
        labels=Labels.read(tmp_path / "labels.csv", by="path", root=source),
        created=datetime(2026, 1, 2, tzinfo=UTC), site_key=b"k" * 16,
    )  # fmt: skip
    protect(request)
    stopped = replace(request, output=tmp_path / "out", vault=tmp_path / "vault")
    seen: list[tuple[str, int]] = []

    def stop(what: str, done: int, _: int) -> None:
        if (what, done) == ("fit (slice)", 1):
            raise Killed

    def note(what: str, done: int, *_: Any) -> None:
        seen.append((what, done))

    with pytest.raises(Killed):
        protect(stopped, stop)
    assert (tmp_path / "vault" / "fit").stat().st_mode & 0o777 == 0o700
    with pytest.raises(UnsafeError, match="unfinished fit"):
        protect(replace(stopped, plan=replace(stopped.plan, seed=1)))
    protect(stopped, note)
    assert ("fit (slice)", 0) not in seen
    assert ("fit (slice)", 1) in seen
    assert ("read (slice)", 0) not in seen
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert not (tmp_path / "vault" / "fit").exists()


def test_fresh_surrogates_that_have_not_learned_are_a_warning(source, tmp_path, monkeypatch):
    for module, names in {
        lesson: ("_BATCHES", "_MOST_BATCHES", "_TO_NORMALISE"),
        fresh: ("_BATCH", "_SMALLEST_BATCH"),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, 1 if module is lesson else 4)
    words = ("--surrogates=fresh", "--spare-one", "--slice-size", "24", "24")
    # what they err after one batch is chance, but not nothing
    monkeypatch.setattr("salm_dicom.cli.fit._NOT_LEARNED", 0.1)
    found = run(source, tmp_path / "protector", *words)
    assert found.exit_code == 0
    assert "fresh surrogates of slice extent have not learned" in found.output
    plan = load(tmp_path / "protector").plan
    assert (plan.surrogates, plan.spare_one) == ("fresh", True)
    monkeypatch.setattr("salm_dicom.cli.fit._NOT_LEARNED", 1.0)
    assert "have not learned" not in run(source, tmp_path / "other", *words).output
    one = run(source, tmp_path / "one").output
    assert "have not learned" not in one
    assert "with one surrogate hardly anything is protected" in one


def test_protect_says_what_is_weak_about_what_it_fitted_itself(source, tmp_path):
    def words(*more: str | Path) -> list[str]:
        out = tmp_path / f"out{len(more)}"
        return [*map(str, ("protect", source, "-o", out, "--jobs=1", "--progress=none", *more))]

    labels = ("--labels", source.parent / "labels.csv", "--labels-by=path")
    quick = ("--rounds=2", "--steps=1")
    note = "with one surrogate hardly anything is protected"
    assert note in CliRunner().invoke(main, words(*labels, *quick)).output
    assert note not in CliRunner().invoke(main, words("--method=random")).output
    run(source, tmp_path / "protector")
    given = ("--protector", tmp_path / "protector")
    found = CliRunner().invoke(main, words(*labels, *given))
    assert found.exit_code == 0
    assert note not in found.output


def test_what_happens_to_images_before_networks_see_them_is_part_of_the_plan(source, tmp_path):
    words = ("--eot=blur", "--eot=half", "--block=2", "--momentum=0.9", "--slice-size", "24", "24")
    assert run(source, tmp_path / "protector", *words).exit_code == 0
    plan = load(tmp_path / "protector").plan
    assert (plan.eot, plan.block, plan.momentum) == (("blur", "half"), 2, 0.9)
    found = run(source, tmp_path / "other", "--eot=sharpen")
    assert found.exit_code == 2
    assert "'sharpen' is not one of 'shift', 'flip', 'blur', 'half'" in found.output


def test_networks_see_slices_and_volumes_of_the_size_that_is_asked_for(source, tmp_path):
    sizes = ("--slice-size", "24", "40", "--volume-size", "2", "16", "32")
    assert run(source, tmp_path / "protector", *sizes, "--extent=volume").exit_code == 0
    found = load(tmp_path / "protector")
    assert found.plan.slice_size == (24, 40)
    assert found.surrogates["slice"].spec.size == (24, 40)
    assert found.surrogates["volume"].spec.size == (2, 16, 32)
