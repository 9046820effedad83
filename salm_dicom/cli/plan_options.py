"""Options that make a ProtectionPlan, and what is said of one that is known to be weak."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from salm_dicom.cli.options import F

if TYPE_CHECKING:
    from salm_dicom.plan import ProtectionPlan

# Rows of `salm_dicom.perturb.METHODS`; written again here because help must not wait for torch.
METHODS = (
    "salm", "one_sided", "dense", "random", "uniform", "hybrid", "random_mask", "low_gradient",
    "targeted", "stable", "patches", "texture", "autoregressive",
)  # fmt: skip


def _text_of(_: click.Context, option: click.Parameter, file: TextIO | None) -> str:
    """Return what a file says; nothing of none."""
    try:
        return "" if file is None else file.read().strip()
    except UnicodeDecodeError as error:
        raise click.BadParameter("the file is no text in UTF-8", param=option) from error


def note_on(plan: ProtectionPlan) -> str:
    """Return what is known to be weak about a plan whose surrogates were fitted; mostly nothing."""
    from salm_dicom.perturb import MINIMISING

    if plan.is_fresh or plan.method not in MINIMISING or plan.objective != "classification":
        return ""
    return (
        "note: with one surrogate hardly anything is protected, as far as was measured; "
        "--surrogates fresh --spare-one protects many radiographs far better against usual "
        "training (audit tells), and takes several times as long"
    )


def plan_options(function: F) -> F:
    """Add the options that make a ProtectionPlan."""
    for option in reversed(
        [
            click.option(
                "--method",
                type=click.Choice(METHODS),
                metavar="NAME",
                default="salm",
                show_default=True,
                help="salm: the most salient voxels. one_sided: a visible texture for every "
                "label but one. random, uniform: controls that need no labels. Others, for "
                "comparison: " + ", ".join((METHODS[2], *METHODS[5:])) + ".",
            ),
            click.option(
                "--epsilon",
                default="4/255",
                show_default=True,
                help="Largest change: fraction of the intensity range (4/255), modality units "
                "(6HU) or stored units ('6 stored').",
            ),
            click.option(
                "--rho",
                type=float,
                default=0.2,
                show_default=True,
                help="Share of foreground voxels that may change.",
            ),
            click.option(
                "--grain",
                type=click.Choice(["fine", "coarse"]),
                default="fine",
                show_default=True,
                help="Texture of one_sided and hybrid: columns of one pixel of --slice-size first, "
                "or rows of two, of which half resolution and often blur leave something.",
            ),
            click.option(
                "--steps", type=int, default=10, show_default=True, help="Gradient steps."
            ),
            click.option(
                "--momentum",
                type=float,
                default=0.9,
                show_default=True,
                help="Share of the old gradient in the running mean that chooses signs, from 0 up "
                "to 1.",
            ),
            click.option(
                "--objective",
                type=click.Choice(["classification", "multilabel", "segmentation"]),
                default="classification",
                show_default=True,
                help="What a network must not learn: one label for each series, or several "
                "(--labels), or masks (--masks).",
            ),
            click.option(
                "--label-free",
                is_flag=True,
                help="There are no labels: clusters of series that look alike take their place.",
            ),
            click.option(
                "--clusters",
                type=int,
                default=10,
                show_default=True,
                help="How many, with --label-free.",
            ),
            click.option(
                "--mask",
                type=click.Choice(["gradient", "roi_band", "gradient & roi"]),
                default="gradient",
                show_default=True,
                help="Where voxels may change: in all of the foreground, in a band around the "
                "edges of masks, or there and inside them.",
            ),
            click.option(
                "--band-mm",
                type=float,
                default=5.0,
                show_default=True,
                help="Reach of that band on either side of an edge, mm within a slice.",
            ),
            click.option(
                "--extent",
                type=click.Choice(["slice", "volume"]),
                default="slice",
                show_default=True,
                help="What is perturbed as one: each slice, or the whole volume.",
            ),
            click.option(
                "--patches",
                is_flag=True,
                help="With --extent volume: networks see overlapping patches of --volume-size, "
                "voxel by voxel, in place of the whole volume resized to it. Slow.",
            ),
            click.option(
                "--intensity-range",
                type=(float, float),
                default=None,
                metavar="LO HI",
                help="Modality values that networks see as 0 and 1. Default: -160 240 HU for CT, "
                "percentiles of the foreground otherwise.",
            ),
            click.option(
                "--slice-size",
                type=(int, int),
                default=(128, 128),
                show_default=True,
                metavar="ROWS COLUMNS",
                help="Size of the slices that networks and textures are made for: what is likely "
                "to be learned from.",
            ),
            click.option(
                "--volume-size",
                type=(int, int, int),
                default=(16, 96, 96),
                show_default=True,
                metavar="SLICES ROWS COLUMNS",
                help="Likewise of volumes, with --extent volume.",
            ),
            click.option(
                "--preprocessing",
                type=click.File(),
                default=None,
                callback=_text_of,
                metavar="FILE",
                help="Your own MONAI transforms as in a bundle, JSON, through which networks see "
                "images; --intensity-range then says the budget alone.",
            ),
            click.option(
                "--precision",
                type=click.Choice(["float32", "bfloat16"]),
                default="float32",
                show_default=True,
                help="What networks multiply in for gradients. bfloat16 is several times as quick "
                "for volumes where the processor has instructions for it; a few signs differ.",
            ),
            click.option(
                "--eot",
                type=click.Choice(["shift", "flip", "blur", "half"]),
                multiple=True,
                help="What happens to images, at random, before a network sees them, so that the "
                "perturbation outlives it (half: half resolution); give it for each.",
            ),
            click.option(
                "--block",
                type=int,
                default=1,
                show_default=True,
                help="Edge, in voxels within a slice, of the squares that change as one; of "
                "one_sided and hybrid in pixels of --slice-size.",
            ),
            click.option(
                "--surrogates",
                type=click.Choice(["one", "fresh"]),
                default="one",
                show_default=True,
                help="Networks of a fit. fresh: new ones in every round, twelve together, which "
                "cannot learn anatomy; protects radiographs better, takes several times as long.",
            ),
            click.option(
                "--spare-one",
                is_flag=True,
                help="Images of one label, which --seed decides, get noise; clean images are then "
                "taken for it. Protects radiographs better.",
            ),
            click.option(
                "--rounds", type=int, default=8, show_default=True, help="Rounds of a fit."
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Random seed."),
        ]
    ):
        function = option(function)
    return function
