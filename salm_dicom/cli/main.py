"""`salm-dicom`: finds a command by name and imports it only then, so that --help is quick."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import click

from salm_dicom import __version__

# What is done side by side here is done by processes: threads of numpy would only wait, in each.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Settings in the current folder, see `config`.
FILE = "salm-dicom.toml"

# Command, and the sentence that `--help` shows; the module is salm_dicom.cli.<command>.
COMMANDS = {
    "scan": "Show what is in an export, and what would be left out and why.",
    "fit": "Train a protector on a labelled export.",
    "protect": "Protect every series of an export.",
    "verify": "Measure a protected export against its source.",
    "audit": "Train victims on a protected export, and say what they could not learn.",
    "report": "Write what verify measures as HTML pages with a viewer, one for each series.",
    "review": "Apply what reviewers decided in the pages of a report.",
    "restore": "Give back the sources of a protected export, from the vault.",
    "pull": "Fetch studies from a PACS.",
    "push": "Send an output to a PACS.",
    "doctor": "Check this installation.",
    "completion": "Print the completion script of a shell.",
    "demo": "Run the whole journey on bundled real CT data.",
}


class LazyGroup(click.Group):
    """Commands by name; each module is imported when its command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"salm_dicom.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


EPILOG = """\b
Exit status: 0 done; 1 unexpected failure; 2 usage; 3 something was left out (listed);
4 nothing to do; 5 a limit is missed; 6 refused as unsafe; 7 no space; 8 another
run holds OUT; 9 a mismatch was found; 130 interrupted.

\b
Start with:  salm-dicom demo -o demo_output
"""


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SALM"},
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"TOML file with defaults of options; ./{FILE} is read without being named.",
)
@click.version_option(__version__, prog_name="salm-dicom")
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """Protect medical images against unauthorised training.

    Adds a small change to the most significant foreground voxels of CT, MR and X-ray series, so
    that a model trained on them learns badly, and writes valid DICOM that says what was done. It
    raises the cost of casual training on a whole collection; it does not stop a determined party,
    and it is neither de-identification nor encryption.
    """
    files = [Path(FILE)] if Path(FILE).is_file() else []
    if config is not None:
        files.append(config)
    if files:
        from salm_dicom.cli.config import defaults

        names = " and ".join(path.name for path in files)
        click.echo(f"settings from {names}", err=True)
        group = ctx.command
        assert isinstance(group, LazyGroup)
        ctx.default_map = defaults(files, lambda name: group.get_command(ctx, name))
