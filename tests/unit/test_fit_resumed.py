"""A fit that is stopped anywhere goes on where it was and gives the same bytes; so do processes."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salm_dicom.batch.pool import pool
from salm_dicom.errors import Locked, NoLabel, SalmDicomError, Truncated, UnsafeError
from salm_dicom.folder import locked, working
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector, save
from salm_dicom.protector import fresh as fresh_module
from salm_dicom.protector import lesson as lesson_module
from salm_dicom.protector import rounds as rounds_module
from salm_dicom.protector.fit import Study, fit
from salm_dicom.volume import Volume
from tests.unit import test_protector, test_segmentation

# Every branch of a fit: both extents, every objective, methods that draw, that have no noise phase
# and that attack their surrogate.
PLANS = {
    "slice": {},
    "volume": {"extent": "volume"},
    "masks": {"objective": "segmentation", "mask": "roi_band", "extent": "volume"},
    "drawing": {"method": "random_mask", "eot": ("shift", "blur"), "swap": 0.5},
    "targeted": {"method": "targeted", "extent": "volume"},
    "attacked": {"method": "stable", "extent": "volume"},
    "fresh": {"surrogates": "fresh", "extent": "volume"},
    "label-free": {"label_free": True, "clusters": 2},
    "several labels": {"objective": "multilabel"},
    "without a gradient": {"method": "one_sided"},
}


@pytest.fixture(autouse=True)
def _little(monkeypatch):
    """Fresh surrogates that learn little, for what they learn is not looked at here."""
    for name in ("_BATCHES", "_MOST_BATCHES", "_TO_NORMALISE"):
        monkeypatch.setattr(lesson_module, name, 1)
    monkeypatch.setattr(fresh_module, "_BATCH", 2)
    monkeypatch.setattr(fresh_module, "_SMALLEST_BATCH", 2)


def plan_of(name: str) -> ProtectionPlan:
    return ProtectionPlan(**test_protector.TINY | {"rounds": 2} | PLANS[name])


def studies_of(plan: ProtectionPlan, loads: list[str] | None = None) -> list[Study]:
    """Return four studies with digests; each load adds one's digest to the list."""
    made = test_segmentation.studies(4) if plan.needs_masks else test_protector.studies(slices=8)

    def counted(load: Callable[[], Volume], name: str) -> Volume:
        if loads is not None:
            loads.append(name)
        return load()

    return [
        replace(one, load=partial(counted, one.load, f"{i}"), digest=lambda i=i: f"{i}")
        for i, one in enumerate(made)
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def run(plan: ProtectionPlan, folder: Path, **more: Any) -> Protector:
    """Fit into a folder as the command does."""
    folder.mkdir(exist_ok=True)
    studies = more.pop("studies", None) or studies_of(plan)
    return fit(studies, plan, folder, keep=lambda one: save(one, folder), **more)


class Killed(BaseException):
    """Stands for a kill; nothing catches it."""


class Bomb:
    """Goes off, once for each file and content, where a file gets its name: before or after."""

    def __init__(self, *, before: bool) -> None:
        self.before, self.rename, self.known = before, Path.rename, set[tuple[str, bytes]]()

    def __call__(self, path: Path, target: Path) -> Path:
        about = str(target), path.read_bytes()
        goes_off = about not in self.known
        self.known.add(about)
        if goes_off and self.before:
            raise Killed
        found = self.rename(path, target)
        if goes_off:
            raise Killed
        return found


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", PLANS)
def test_a_fit_that_is_stopped_at_every_file_it_writes_gives_the_same_bytes(
    tmp_path, monkeypatch, name, before
):
    plan, loads, stops = plan_of(name), list[str](), 0
    undisturbed = run(plan, tmp_path / "whole")
    bomb = Bomb(before=before)
    monkeypatch.setattr(Path, "rename", lambda *one: bomb(*one))
    while True:
        try:
            found = run(plan, tmp_path / "stopped", studies=studies_of(plan, loads))
            break
        except Killed:
            stops += 1
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert [p.name for p in (tmp_path / "stopped").iterdir() if p.is_dir()] == []
    assert found.digest == undisturbed.digest
    extents = len(found.surrogates)
    of_a_round = 2 if plan.method == "targeted" else 6
    assert stops >= extents * plan.rounds * of_a_round
    # what was read is not read again; but one stop is at the very end of reading
    assert len(loads) == 4 * (2 * extents + plan.label_free * (1 + before))


@pytest.mark.parametrize("name", ["volume", "masks", "targeted"])
def test_a_fit_that_is_stopped_at_every_step_of_its_progress_gives_the_same_bytes(tmp_path, name):
    plan = plan_of(name)
    run(plan, tmp_path / "whole")
    stopped: set[tuple[str, int, int]] = set()

    def stop_once(*step: Any) -> None:
        if step not in stopped:
            stopped.add(step)
            raise Killed

    while True:
        try:
            run(plan, tmp_path / "stopped", progress=stop_once)
            break
        except Killed:
            pass
    assert {("fit (slice)", 1, 2), ("fit (volume)", 1, 2), ("read (slice)", 2, 4)} <= stopped
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_a_fit_that_ends_early_ends_as_early_after_a_stop(tmp_path, monkeypatch):
    errors = iter([0.5, 0.4, 0.4, 0.4, 0.4, 0.1])
    monkeypatch.setattr(rounds_module, "error_of", lambda *_, **__: next(errors))
    plan = replace(plan_of("slice"), rounds=20)

    def stop(what: str, done: int, _: int) -> None:
        if (what, done) == ("fit (slice)", 3):
            raise Killed

    with pytest.raises(Killed):
        run(plan, tmp_path / "one", progress=stop)
    report = run(plan, tmp_path / "one").report
    assert report["slice_rounds"] == 5
    assert report["slice_error_on_protected"] == 0.4
    assert report["slice_error_on_source"] == 0.1


def stopped_fit(plan: ProtectionPlan, folder: Path, **more: Any) -> None:
    """Leave a fit after its first round."""

    def stop(what: str, done: int, _: int) -> None:
        if what.startswith("fit") and done == 1:
            raise Killed

    with pytest.raises(Killed):
        run(plan, folder, progress=stop, **more)


def test_what_a_stopped_fit_leaves_is_secret_whole_and_never_pickled(tmp_path):
    stopped_fit(plan_of("masks"), tmp_path / "one")
    left = [tmp_path / "one" / "fit", *(tmp_path / "one" / "fit").rglob("*")]
    assert {p.stat().st_mode & 0o777 for p in left if p.is_dir()} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in left if p.is_file()} == {0o600}
    assert {p.suffix for p in left if p.is_file()} == {"", ".json", ".safetensors", ".npy"}
    assert {p.name for p in left if p.is_file() and not p.suffix} == {"lock", "workers"}
    for path in left:
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_a_stopped_fit_is_not_gone_on_with_for_anything_else(tmp_path):
    plan = plan_of("slice")
    run(plan, tmp_path / "whole")
    stopped_fit(plan, tmp_path / "one")
    left = sorted((tmp_path / "one").rglob("*"))
    other_studies = studies_of(plan)
    other_label = [replace(other_studies[0], label="abdomen"), *other_studies[1:]]
    other_pixels = [replace(other_studies[0], digest=lambda: "other"), *other_studies[1:]]
    for changed, studies in (
        (replace(plan, steps=3), other_studies),
        (replace(plan, seed=1), other_studies),
        (plan, other_label),
        (plan, other_pixels),
        (plan, other_studies[::-1]),
    ):
        with pytest.raises(UnsafeError, match="unfinished fit"):
            run(changed, tmp_path / "one", studies=studies)
    assert sorted((tmp_path / "one").rglob("*")) == left
    run(plan, tmp_path / "one")
    assert files(tmp_path / "one") == files(tmp_path / "whole")


def test_another_version_does_not_go_on_with_a_fit(tmp_path, monkeypatch):
    stopped_fit(plan_of("slice"), tmp_path / "one")
    monkeypatch.setattr("salm_dicom.plan.__version__", "0.0.0")
    with pytest.raises(UnsafeError, match="unfinished fit"):
        run(plan_of("slice"), tmp_path / "one")


def test_two_processes_do_not_fit_into_one_folder(tmp_path):
    stopped_fit(plan_of("slice"), tmp_path / "one")
    with locked(tmp_path / "one" / "fit", "it"), pytest.raises(Locked, match="this protector"):
        run(plan_of("slice"), tmp_path / "one")


def test_a_fit_waits_for_workers_of_one_that_was_killed(tmp_path, monkeypatch):
    stopped_fit(plan_of("slice"), tmp_path / "one")
    monkeypatch.setattr("salm_dicom.folder._PATIENCE_S", 1)
    with working(tmp_path / "one" / "fit"), pytest.raises(Locked, match="a worker"):
        run(plan_of("slice"), tmp_path / "one")


def test_studies_that_could_not_be_read_are_told_again_after_a_stop(tmp_path):
    def broken() -> Volume:
        raise Truncated("the file ends early")

    plan = plan_of("volume")
    studies = [Study(label="chest", load=broken, digest=lambda: "b"), *studies_of(plan)]
    told: list[tuple[int, str, str]] = []

    def failed(*one: Any) -> None:
        told.append(one)

    stopped_fit(plan, tmp_path / "one", studies=studies, failed=failed)
    assert told == [(0, "E_TRUNCATED", "the file ends early")]
    found = run(plan, tmp_path / "one", studies=studies, failed=failed)
    assert told == [(0, "E_TRUNCATED", "the file ends early")] * 3
    assert found.report["slice_skipped_series"] == found.report["volume_skipped_series"] == 1


def test_a_fit_that_nothing_can_be_learned_from_leaves_nothing_to_go_on_with(tmp_path):
    plan = plan_of("masks")
    short = [replace(one, load=test_protector.phantom_volume) for one in studies_of(plan)]
    with pytest.raises(NoLabel):
        run(plan, tmp_path / "one", studies=[replace(short[0], mask=None)])
    with pytest.raises(SalmDicomError, match="can be used to fit"):
        run(plan, tmp_path / "one", studies=[replace(one, mask=no_mask) for one in short])
    assert list((tmp_path / "one").iterdir()) == []


def no_mask() -> Any:
    raise NoLabel("there is none")


def test_a_full_disk_leaves_no_half_of_a_file_and_a_fit_that_can_go_on(tmp_path, monkeypatch):
    plan, saves = plan_of("slice"), 0
    run(plan, tmp_path / "whole")
    save_array = np.save

    def full(place: Any, values: np.ndarray) -> None:
        nonlocal saves
        saves += not isinstance(place, Path)  # shadows go to a stream, samples to a path
        if saves == 3:
            place.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_array(place, values)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run(plan, tmp_path / "one")
    assert list((tmp_path / "one").rglob("*.partial")) == []
    run(plan, tmp_path / "one")
    assert files(tmp_path / "one") == files(tmp_path / "whole")


def test_a_full_disk_while_samples_are_read_frees_what_they_took(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("salm_dicom.protector.spool.write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        run(plan_of("slice"), tmp_path / "one")
    assert list((tmp_path / "one").iterdir()) == []


def test_studies_without_a_digest_are_fitted_anew(tmp_path):
    plan = plan_of("slice")
    nameless = [replace(one, digest=None) for one in studies_of(plan)]
    stopped_fit(plan, tmp_path / "one", studies=nameless)
    assert list((tmp_path / "one").iterdir()) == []
    run(plan, tmp_path / "one", studies=nameless)
    run(plan, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


# --- several processes


def dies_once(mark: Path, work: Callable[[Any], Any], part: Any) -> Any:
    """Kill the process at the second volume, the first time."""
    if part.stem.name.startswith("000001") and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return work(part)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks", "drawing"])
def test_two_processes_give_the_bytes_of_one_also_when_one_is_killed(tmp_path, name):
    plan = plan_of(name)
    run(plan, tmp_path / "one")
    with pool("local", 2) as workers:
        run(plan, tmp_path / "two", each=workers.each)
        assert workers._executor is not None, "no other process had anything to do"
    assert files(tmp_path / "two") == files(tmp_path / "one")
    with pool("local", 2) as workers:

        def each(work: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
            return workers.each(partial(dies_once, tmp_path / "died", work), parts)

        run(plan, tmp_path / "killed", each=each)
    assert (tmp_path / "died").exists()
    assert files(tmp_path / "killed") == files(tmp_path / "one")


def out_of_space(part: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_in_another_process_ends_the_fit_and_is_its_error(tmp_path):
    def each(work: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
        is_noise = work is rounds_module.perturb_samples
        return workers.each(out_of_space if is_noise else work, parts)

    plan = plan_of("slice")
    with pool("local", 2) as workers, pytest.raises(OSError, match="No space left"):
        run(plan, tmp_path / "one", each=each)
    run(plan, tmp_path / "one")
    run(plan, tmp_path / "whole")
    assert files(tmp_path / "one") == files(tmp_path / "whole")


def test_volumes_are_perturbed_whatever_the_order_they_come_in(tmp_path):
    plan = plan_of("drawing")
    run(plan, tmp_path / "one")

    def backwards(work: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
        return iter([work(part) for part in reversed(list(parts))])

    run(plan, tmp_path / "two", each=backwards)
    assert files(tmp_path / "two") == files(tmp_path / "one")
