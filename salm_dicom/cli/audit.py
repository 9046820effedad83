"""`salm-dicom audit`: train victims on a protected export and say what they could not learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from salm_dicom.cli import console
from salm_dicom.cli.audit_asked import (
    COUNTERMEASURES,
    Asked,
    check_places,
    pairs_of,
    settings_of,
    view_of,
)
from salm_dicom.cli.engine_options import device_option
from salm_dicom.cli.options import (
    FOLDER,
    labels_options,
    log_option,
    masks_option,
    modality_option,
    progress_option,
    source_argument,
    vault_option,
)
from salm_dicom.victims import SEGMENTERS, VICTIMS

if TYPE_CHECKING:
    from salm_dicom.audit.experiment import Settings
    from salm_dicom.audit.run import Audit
    from salm_dicom.audit.subjects import Subject, View
    from salm_dicom.batch.counterparts import Pair
    from salm_dicom.dicom.scan import LeftOut

EXAMPLES = """\b
Examples:
  salm-dicom audit export/ shared/ --labels labels.csv
  salm-dicom audit export/ shared/ --labels labels.csv --seeds 1 --countermeasures none
  salm-dicom audit export/ shared/ --labels labels.csv --require 0.5 --json audit.json
  salm-dicom audit export/ shared/ --labels labels.csv --victims densenet-121 --weights weights/
  salm-dicom audit export/ shared/ --masks masks/
  salm-dicom audit export/ shared/ --labels findings.csv --objective multilabel
"""


@click.command("audit", epilog=EXAMPLES)
@source_argument
@click.argument("output", metavar="OUT", type=FOLDER)
@labels_options
@masks_option
@click.option(
    "--objective",
    type=click.Choice(["classification", "multilabel", "segmentation"]),
    help="What victims learn. Default: segmentation with --masks, else classification.",
)
@modality_option
@vault_option
@click.option(
    "--split-by",
    type=click.Choice(["patient", "study", "series"]),
    default="patient",
    show_default=True,
    help="What is never both learned from and tested on. Anything but patient flatters victims.",
)
@click.option(
    "--fitted-labels",
    type=FOLDER,
    help="The labels file, or the masks, of the fit: series without one there arrived late.",
)
@click.option(
    "--victims",
    help="Networks, by comma. Known: "
    + ", ".join(VICTIMS)
    + "; with --masks "
    + ", ".join(SEGMENTERS)
    + ". Default: the first three.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Of each.")
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Of a victim's training. Default: as many as make 450 batches of 32, at least 12.",
)
@click.option(
    "--countermeasures",
    default="shift_flip,jpeg50,jpeg10,8bit,blur1,half,slow",
    show_default=True,
    help="What victims do to images, by comma; `none` and `all` too. Known: "
    + ", ".join(COUNTERMEASURES)
    + ".",
)
@click.option(
    "--weights",
    type=FOLDER,
    help="Folder with VICTIM.safetensors of each victim, learned elsewhere; adds `pretrained` and "
    "`frozen`.",
)
@click.option(
    "--coverage",
    default="20,40,60,80,100",
    show_default=True,
    help="Percent of the patients that are protected, by comma; the others are clean.",
)
@click.option(
    "--extent",
    type=click.Choice(["slice", "volume"]),
    default="slice",
    show_default=True,
    help="What victims see: slices, or whole volumes.",
)
@click.option(
    "--size",
    type=click.IntRange(8),
    help="Rows and columns of what victims see. Default: 128 for slices, 96 for volumes of 16.",
)
@click.option(
    "--slices",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Most slices of a series.",
)
@click.option(
    "--intensity-range",
    type=(float, float),
    default=None,
    metavar="LO HI",
    help="Modality values that victims see as 0 and 1. Default: as the protector's.",
)
@click.option("--require", type=float, metavar="NP", help="Exit 5 if a countermeasure leaves less.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Workers.")
@partial(device_option, what="numbers")
@click.option("--json", "json_file", type=FOLDER, metavar="FILE", help="Write all that was found.")
@click.option("--plots", type=FOLDER, help="Folder for SVG; needs salm_dicom[report].")
@progress_option
@log_option
@console.reports_errors
def command(**asked: Any) -> int:
    """Measure how well the export OUT is protected against training, with SOURCE as the reference.

    Victims are trained from scratch on OUT and on SOURCE (with --weights also from those) and
    tested on clean images of other patients. Nothing but SOURCE, OUT, weights and the labels or
    masks is read. It takes hours for a large export: begin with --seeds 1, one victim, a few
    countermeasures. Exit 5 when --require is not reached.
    """
    return _run(Asked(**asked))


def _run(asked: Asked) -> int:
    from salm_dicom.audit.plots import draw
    from salm_dicom.cli.audit_text import lines
    from salm_dicom.errors import TooFew
    from salm_dicom.plots import check_installed

    settings, view = settings_of(asked), view_of(asked)
    check_places(asked)
    if asked.plots is not None:
        check_installed()
    pairs, left_out = pairs_of(asked)
    if pairs:
        _warn_of_unknown(pairs)
        try:
            with console.progress_to_stderr(asked.progress) as show:
                audit, unused = _audited(asked, settings, view, pairs, left_out, show)
        except KeyboardInterrupt:
            kept = asked.json_file or "nowhere; --json FILE would keep them"
            console.say(f"interrupted; the trials so far are kept in: {kept}")
            return console.INTERRUPTED
        except TooFew:  # the reason may be among them
            console.list_left_out(((e.path, e.code, e.reason) for e in left_out), asked.source)
            raise
        left_out += unused
        for line in lines(audit):
            click.echo(line)
        if asked.plots is not None and audit.summary is not None:
            for path in draw(audit.summary, asked.plots):
                click.echo(f"plot: {path}")
    console.list_left_out(((e.path, e.code, e.reason) for e in left_out), asked.source)
    if not pairs:
        return console.NOTHING
    codes = console.exit_of_left_out(entry.code for entry in left_out)
    if asked.require is not None and not audit.reaches(asked.require):
        click.echo(f"Required: {100 * asked.require:g} % lost in every row. NOT reached")
        codes.append(console.LIMIT)
    return console.worst(codes)


def _audited(
    asked: Asked,
    settings: Settings,
    view: View,
    pairs: Sequence[Pair],
    left_out: Sequence[LeftOut],
    show: Callable[[str, int, int], None],
) -> tuple[Audit, list[LeftOut]]:
    """Return the audit, and the files of series that could not be used."""
    from salm_dicom.audit.document import write_document
    from salm_dicom.audit.run import audit
    from salm_dicom.dicom.scan import LeftOut

    def unused(found: Audit) -> list[LeftOut]:
        failed = found.data.failed
        return [
            LeftOut(path, code, reason) for i, code, reason in failed for path in pairs[i].paths
        ]

    def note(found: Audit) -> None:
        if asked.json_file is not None:
            codes = (entry.code for entry in (*left_out, *unused(found)))
            write_document(found, console.counted(codes), asked.json_file)

    subjects = [_subject(pair) for pair in pairs]
    done = audit(subjects, settings, view, jobs=asked.jobs, note=note, progress=show)
    return done, unused(done)


def _subject(pair: Pair) -> Subject:
    from salm_dicom.audit.subjects import Subject

    late = None if pair.fitted is None else not pair.fitted
    return Subject(
        patient=pair.patient, load=pair.load, label=pair.label, late=late, mask=pair.mask
    )


def _warn_of_unknown(pairs: Sequence[Pair]) -> None:
    unknown = sum(not pair.is_known for pair in pairs)
    if unknown:
        console.say(
            f"warning: {unknown} series do not say whose they are; each counts as a patient of its "
            "own. If some belong together, victims are tested on patients they know"
        )
