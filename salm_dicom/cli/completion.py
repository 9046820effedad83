"""`salm-dicom completion`: the script that makes a shell complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")

EXAMPLES = """\b
Examples:
  salm-dicom completion bash >> ~/.bashrc
  salm-dicom completion fish > ~/.config/fish/completions/salm-dicom.fish
"""


@click.command("completion", epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script of SHELL to stdout."""
    from salm_dicom.cli.main import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "salm-dicom", "_SALM_DICOM_COMPLETE").source())
