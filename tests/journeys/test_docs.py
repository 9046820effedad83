"""The documentation: it builds without a warning or a network, and what it tells to type works."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from salm_dicom.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if not {"_build", "generated"} & set(p.parts))
# A fenced block, and the reason in the comment above it why no test runs it.
BLOCK = re.compile(r"(?:<!-- not run: (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("console", "python")


def blocks(page: Path) -> list[tuple[str, str, str]]:
    return [(why, kind, code) for why, kind, code in BLOCK.findall(page.read_text())]


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A folder that looks like the top of a fresh clone, with the commands of this environment."""
    place = tmp_path / "clone"
    place.mkdir()
    for name in ("salm_dicom", "examples"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, what in (("salm-dicom", "-m salm_dicom"), ("python", "")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {what} "$@"\n')
        script.chmod(0o700)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(place)
    return place


def typed(code: str) -> None:
    """Run each command of a console block, as it stands."""
    for line in code.splitlines():
        assert line.startswith("$ "), line
        done = subprocess.run(
            ["sh", "-c", line.removeprefix("$ ")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p.parent != DOCS], ids=lambda p: p.stem)
def test_what_a_page_tells_to_type_works_in_a_fresh_clone(page, clone):
    names: dict[str, object] = {}
    for why, kind, code in blocks(page):
        if kind == "console" and not why:
            typed(code)
        elif kind == "python" and not why:
            exec(compile(code, page.name, "exec"), names)
    if page.stem == "first-series":
        for picture in re.findall(r"!\[.+?\]\((.+?)\)", page.read_text()):
            assert (clone / "pictures" / picture).is_file()
            assert (page.parent / picture).is_file()


def test_every_block_of_commands_or_python_is_run_by_a_test_or_says_why_not():
    found = [(page, block) for page in PAGES for block in blocks(page)]
    assert sum(kind in RUN for _, (_, kind, _) in found) >= 12
    for page, (why, kind, _) in found:
        assert kind in (*RUN, "toml", "text"), f"{page.name} has a block of {kind}"
        assert kind in RUN or not why
        # pages at the top have none: what they show is run in the others
        assert page.parent != DOCS or kind not in RUN, page.name


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The pages as HTML; a warning, or any name that is looked up, is an error."""
    out = tmp_path_factory.mktemp("html")
    code = (
        "import socket, sys\n"
        "def refused(*_, **__): raise OSError('no network while the documentation is built')\n"
        "socket.getaddrinfo = socket.socket.connect = refused\n"
        "from sphinx.cmd.build import main\n"
        f"sys.exit(main(['-W', '--keep-going', '-q', '-b', 'html', {str(DOCS)!r}, {str(out)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_the_documentation_builds_without_a_warning_and_asks_for_nothing_outside(built):
    assert (built / "index.html").is_file()
    for page in built.rglob("*.html"):
        text = page.read_text()
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
            assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), (page.name, tag)


def test_every_command_has_a_section_with_its_help_and_an_example(built):
    text = (DOCS / "generated" / "commands.md").read_text()
    for name in COMMANDS:
        assert f"\n## {name}\n" in text
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        command = importlib.import_module(f"salm_dicom.cli.{name}").command
        assert f"Usage: salm-dicom {name}" in section
        assert section.count(f"salm-dicom {name}") >= 2  # the usage, and an example
        for sub in getattr(command, "commands", {}):
            assert f"### {name} {sub}" in section
    for line in re.findall(r"salm-dicom ([a-z]+)", " ".join(p.read_text() for p in PAGES)):
        assert line in {*COMMANDS}, line


def test_every_error_is_listed_with_its_code(built):
    from salm_dicom import errors

    text = (DOCS / "generated" / "errors.md").read_text()
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.SalmDicomError):
            assert f"| `{kind.code}` | `{kind.__name__}` |" in text


def test_a_reference_to_nothing_is_an_error():
    text = (DOCS / "conf.py").read_text()
    assert "\nnitpicky = True\n" in text
    assert "salm" not in text.split("nitpick_ignore_regex = ")[1].split("]\n")[0]


def test_every_page_is_reached_from_the_index():
    index = (DOCS / "index.md").read_text()
    for page in PAGES:
        name = str(page.relative_to(DOCS).with_suffix(""))
        assert name == "index" or f"\n{name}\n" in index, name
