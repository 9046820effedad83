"""Real series with envelopes: the judge passes them, and a key alone gives the sources back."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from salm_dicom.cli.main import main
from tests import keys
from tests.journeys.test_judge import judged

pytestmark = [pytest.mark.programs, pytest.mark.slow]


def digests(folder: Path) -> list[str]:
    """Return the SHA-256 of every DICOM file below a folder."""
    files = (path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return sorted(hashlib.sha256(d).hexdigest() for d in files if d[128:132] == b"DICM")


@pytest.mark.parametrize("name", ["ct_ny_sbu", "mr_siemens_mprage", "tiny_series/monai_ct_4"])
def test_the_judge_passes_envelopes_and_the_key_gives_every_source_back(shared, tmp_path, name):
    source, out, back = shared / "data" / name, tmp_path / "out", tmp_path / "back"
    private, certificate = keys.pem("Archive")
    (tmp_path / "key.pem").write_bytes(private + certificate)
    (tmp_path / "certificate.pem").write_bytes(certificate)

    def run(*arguments: object) -> None:
        result = CliRunner().invoke(main, [*map(str, arguments), "--progress=none"])
        assert result.exit_code in (0, 3), result.output  # 3: there are readme files too

    embed = ("--embed-recovery", tmp_path / "certificate.pem")
    run("protect", source, "-o", out, "--method=random", *embed)
    report = judged(shared, source, out, tmp_path)
    assert "RESULT PASS" in report, report
    shutil.rmtree(tmp_path / "out.vault")
    run("restore", out, "-o", back, "--private-key", tmp_path / "key.pem")
    assert digests(back) == digests(source)
