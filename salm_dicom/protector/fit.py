"""Fit: train the surrogates of a protector on volumes with labels or masks, by sparse min-min.

    min over theta, u of  mean_i L(f_theta(N(s_i + round(u_i))), y_i),   u_i = 0 outside M_i

in rounds: a surrogate phase (batches of SGD on what is protected so far) and a noise phase (K
signed gradient steps for every sample). It ends after `plan.rounds`, or when three rounds have
not lowered the surrogate's error on what it was trained on, once it is right anywhere. That is
measured between the two phases: on the perturbation just made for it, it hardly ever errs. The
report also has its error on the source images: where that is small it has learned anatomy, and the
perturbation is no short way for a victim. Targeted methods have no noise phase; those without a
gradient need the names of the labels only.

A fit that is killed goes on where it was, see `checkpoint`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from salm_dicom.errors import NoLabel
from salm_dicom.folder import make_private
from salm_dicom.learning import reproducible
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.apply import Protector
from salm_dicom.protector.checkpoint import (
    digest_of_fit,
    keep_clusters,
    kept_clusters,
    unfinished,
)
from salm_dicom.protector.clusters import Clusters, clustered
from salm_dicom.protector.rounds import Each, min_min
from salm_dicom.protector.sampled import Failed, Progress, Study, read_samples
from salm_dicom.protector.spool import Spool, Unfit, spool_in, spooled
from salm_dicom.protector.surrogate import Surrogate
from salm_dicom.protector.target import names_of

__all__ = ["Progress", "Study", "fit"]


def fit(
    studies: Sequence[Study],
    plan: ProtectionPlan,
    workspace: Path,
    progress: Progress = lambda *_: None,
    failed: Failed = lambda *_: None,
    device: str = "cpu",
    each: Each = map,
    keep: Callable[[Protector], object] = lambda _: None,
) -> Protector:
    """Return a protector whose surrogates were trained on the studies.

    Memory does not grow with the number of studies: samples lie in a folder inside `workspace`
    and go when the fit has succeeded. Where every study has a digest the folder is found again:
    the same call goes on from the last finished phase after a kill, and returns the protector that
    an undisturbed one returns.

    Parameters
    ----------
    failed
        Told of each study that cannot be used, once for each extent; the fit goes on without it.
    device
        Where the surrogates are trained, see `device.device_of`.
    each
        Does the noise phases of the volumes, see `rounds.Each`; any gives the same protector.
    keep
        Given the protector before what a killed fit would go on from is removed, to save it.

    Raises
    ------
    NoLabel
        There are not two different labels, so that nothing can be learned.
    NoForeground
        No study has any anatomy.
    UnsafeError, Locked
        An unfinished fit of something else lies in the workspace, or another process is at it.
    """
    learns = plan.build_method().needs_gradient
    digest = digest_of_fit(studies, plan, device, progress) if learns or plan.label_free else None
    surrogates: dict[str, Surrogate] = {}
    report: dict[str, float] = {}
    extents = ("slice", "volume") if plan.extent == "volume" else ("slice",)
    with unfinished(workspace, digest) as folder, reproducible():
        studies, clusters = _grouped(studies, plan, folder, progress, failed)
        classes = _classes(studies, plan) if clusters is None else clusters.names
        for extent in extents if learns else ():
            spool = _read(studies, classes, plan, extent, folder / extent, progress, failed)
            classes = spool.classes
            surrogates[extent], found = min_min(spool, plan, extent, progress, device, each)
            report |= found | {f"{extent}_skipped_series": float(len(spool.unfit))}
        protector = Protector(
            plan=plan, classes=classes, surrogates=surrogates, clusters=clusters, report=report
        )
        keep(protector)
    return protector


def _grouped(
    studies: Sequence[Study],
    plan: ProtectionPlan,
    folder: Path,
    progress: Progress,
    failed: Failed,
) -> tuple[Sequence[Study], Clusters | None]:
    """Return the studies with their labels; of a label-free fit also what gave them these."""
    if not plan.label_free:
        return studies, None
    kept = kept_clusters(folder, plan)
    if kept is None:
        for left in folder.glob("clusters-*"):
            shutil.rmtree(left)
        unfit, note = _noting(failed)
        labelled, clusters = clustered(studies, plan, folder, progress, note)
        keep_clusters(folder, clusters, [one.label for one in labelled], unfit)
        return labelled, clusters
    clusters, labels, unfit = kept
    for one in unfit:
        failed(*one)
    pairs = zip(studies, labels, strict=True)
    return [replace(study, label=label) for study, label in pairs], clusters


def _read(
    studies: Sequence[Study],
    classes: tuple[str, ...],
    plan: ProtectionPlan,
    extent: str,
    folder: Path,
    progress: Progress,
    failed: Failed,
) -> Spool:
    """Return the samples of one extent, as they were read before if all of them were."""
    spool = spool_in(folder)
    if spool is not None:
        for one in spool.unfit:
            failed(*one)
        return spool
    unfit, note = _noting(failed)
    shutil.rmtree(folder, ignore_errors=True)
    make_private(folder)
    try:
        found, classes, _ = read_samples(studies, classes, plan, extent, folder, progress, note)
        return spooled(found, classes, unfit, folder)
    except BaseException:
        shutil.rmtree(folder)
        raise


def _noting(failed: Failed) -> tuple[list[Unfit], Failed]:
    """Return a list that grows with what is told, and whom to tell."""
    unfit: list[Unfit] = []

    def note(place: int, code: str, reason: str) -> None:
        unfit.append((place, code, reason))
        failed(place, code, reason)

    return unfit, note


def _classes(studies: Sequence[Study], plan: ProtectionPlan) -> tuple[str, ...]:
    """Return the labels; none of masks, whose classes are known when they are read."""
    if plan.needs_masks:
        if any(study.mask is None for study in studies):
            raise NoLabel("objective segmentation needs a mask for each study: Study(mask=...)")
        return ()
    labels = {names_of(study.label, plan.objective) for study in studies}
    if len(labels) < 2:
        raise NoLabel(
            f"{len(studies)} labelled series with {len(labels)} different labels; a surrogate "
            "needs at least 2. Use --method random for a protection without labels"
        )
    return tuple(sorted(frozenset.union(*labels)))
