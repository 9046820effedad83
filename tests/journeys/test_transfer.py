"""pull and push against a real PACS (Orthanc, on loopback): same bytes, restartable, silent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner, Result

from salm_dicom.batch import transfer
from salm_dicom.batch.transfer import pull, push
from salm_dicom.cli.main import main
from salm_dicom.dicom.header import identity_of
from salm_dicom.dicom.network.node import Access, Keep, Node, Query, Remote, node_of
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.errors import PacsError
from tests import keys
from tests.journeys.test_canary import MARK, with_canaries
from tests.objects import write_report
from tests.orthanc import PLUGIN, Orthanc, TlsProxy
from tests.synthetic import SYNTAXES, write_ct_series
from tests.synthetic_frames import ColourRecipe, EnhancedRecipe, stack, write_colour, write_enhanced

pytestmark = [pytest.mark.loopback, pytest.mark.programs("Orthanc", PLUGIN)]
KINDS = ("web", "dimse")
AET = "SALMSCU"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path_factory.mktemp("orthanc"), DicomCheckCalledAet=True)
    yield server
    server.process.terminate()
    server.process.wait(60)


def url(server: Orthanc, kind: str) -> str:
    return (
        server.url("").rstrip("/") if kind == "web" else f"dicom://ORTHANC@127.0.0.1:{server.dicom}"
    )


def run(*words: object, status: int = 0) -> Result:
    names = [*map(str, words), "--progress=none", f"--aet={AET}"]
    found = CliRunner().invoke(main, names)
    assert found.exit_code == status, found.output
    assert "Traceback" not in found.output
    return found


def files_of(folder: Path) -> dict[str, Path]:
    return {identity_of(read(path)).sop_uid: path for path in folder.rglob("*.dcm")}


def studies_of(folder: Path) -> str:
    return ",".join(sorted({read(p).dataset.StudyInstanceUID for p in folder.rglob("*.dcm")}))


def data_set(path: Path) -> bytes:
    file = parse(path.read_bytes())
    return file.data[file.spans[0].start :]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_pushed_is_pulled_byte_for_byte_and_only_once(orthanc, tmp_path, kind):
    source, back, seed = tmp_path / "in", tmp_path / "back", 100 * KINDS.index(kind)
    for number, syntax in enumerate(SYNTAXES):
        images = write_ct_series(source / str(number), slices=2, seed=seed + number,
                                 transfer_syntax=syntax, rows=32, columns=32)  # fmt: skip
    frames = EnhancedRecipe(frames=stack(4), seed=seed + 7)
    write_enhanced(source / "frames.dcm", frames)
    write_colour(source / "colour.dcm", ColourRecipe(seed=seed + 8, rows=64, columns=64))
    write_report(source / "sr.dcm", images, text=f"of {kind}")
    (source / "manifest.json").write_text("{}")
    sent = files_of(source)
    place = url(orthanc, kind)
    assert f"Sent {len(sent)} instances; 0 were there" in run("push", source, place).output
    assert f"Sent 0 instances; {len(sent)} were there" in run("push", source, place).output
    asked = f"--include=study={studies_of(source)}"
    run("pull", place, "-o", back, asked)
    came = files_of(back)
    assert came.keys() == sent.keys()
    for uid, path in sent.items():
        if kind == "web":
            assert came[uid].read_bytes() == path.read_bytes()
        assert data_set(came[uid]) == data_set(path)
        assert read(came[uid]).transfer_syntax == read(path).transfer_syntax
    before = {path: path.stat().st_mtime_ns for path in came.values()}
    again = json.loads(run("pull", place, "-o", back, asked, "--json").stdout)
    assert (again["done"], again["there"], again["failed"]) == (0, len(sent), 0)
    lost = sorted(before)[3]
    lost.unlink()
    assert "Fetched 1 instances" in run("pull", place, "-o", back, asked).output
    assert {p: p.stat().st_mtime_ns for p in before if p != lost} == {
        p: time for p, time in before.items() if p != lost
    }


class Breaking:
    """A PACS whose line breaks after some operations."""

    def __init__(self, node: Node, lasts: int) -> None:
        self.node, self.lasts = node, lasts
        self.find, self.stored, self.close = node.find, node.stored, node.close

    def _use(self) -> None:
        self.lasts -= 1
        if self.lasts < 0:
            raise PacsError("broke")

    def fetch(self, wanted: Sequence[Remote], keep: Keep) -> None:
        self._use()
        self.node.fetch(wanted, keep)

    def send(self, files: Sequence[Path]) -> list[tuple[Path, str]]:
        self._use()
        return self.node.send(files)


@pytest.mark.parametrize("kind", KINDS)
def test_a_transfer_that_broke_goes_on_where_it_ended(orthanc, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(transfer, "_AT_ONCE", 2)
    source, back = tmp_path / "in", tmp_path / "back"
    write_ct_series(source, slices=7, rows=32, columns=32, seed=300 + KINDS.index(kind))
    node = node_of(Access(url=url(orthanc, kind), aet=AET))
    with pytest.raises(PacsError):
        push(Breaking(node, 2), source)
    found = push(node, source)
    assert (found.done, found.there, found.failed) == (3, 4, ())
    query = Query(study=(studies_of(source),))
    with pytest.raises(PacsError):
        pull(Breaking(node, 1), query, back)
    assert len(files_of(back)) == 2
    found = pull(node, query, back)
    assert (found.done, found.there, found.failed) == (5, 2, ())
    assert files_of(back).keys() == files_of(source).keys()
    assert not list(back.rglob("*.partial"))


@pytest.mark.parametrize("kind", KINDS)
def test_queries_are_by_patient_date_and_modality(orthanc, tmp_path, kind):
    number = 400 + 10 * KINDS.index(kind)
    for offset, modality in enumerate(("CT", "MR")):
        write_ct_series(tmp_path / "in" / modality, slices=1, rows=32, columns=32,
                        seed=number + offset, modality=modality, patient_id=f"Q{kind}")  # fmt: skip
    place = url(orthanc, kind)
    run("push", tmp_path / "in", place)

    def count(name: str, *asked: str, status: int = 0) -> int:
        words = [f"--include={one}" for one in asked]
        run("pull", place, "-o", tmp_path / name, *words, status=status)
        return len(files_of(tmp_path / name))

    assert count("all", f"patient=Q{kind}") == 2
    assert count("ct", f"patient=Q{kind}", "modality=CT") == 1
    assert count("date", f"patient=Q{kind}", "date=20200101-20200103") == 2
    assert count("later", f"patient=Q{kind}", "date=20210101-", status=4) == 0
    assert count("nobody", "patient=NOBODY", status=4) == 0


def test_nothing_of_a_patient_is_said_when_it_works_and_when_it_does_not(orthanc, tmp_path):
    log, said = tmp_path / "log", []
    for path in write_ct_series(tmp_path / "in", slices=2, rows=32, columns=32, seed=500):
        with_canaries(pydicom.dcmread(path)).save_as(path)
    (tmp_path / "in" / "cut.dcm").write_bytes(path.read_bytes()[:900])
    asked = ("--include", f"patient={MARK}PATIENT", f"--log-file={log}")
    for kind in KINDS:
        place = url(orthanc, kind)
        said.append(run("push", tmp_path / "in", place, f"--log-file={log}", status=3))
        said.append(run("pull", place, "-o", tmp_path / kind, *asked))
        assert len(files_of(tmp_path / kind)) == 2
        names = [str(p.relative_to(tmp_path)) for p in (tmp_path / kind).rglob("*")]
        assert not any(MARK in name for name in names)
    wrong = (
        orthanc.url("").replace("dicom-web", "nothing"), "http://127.0.0.1:1/dicom-web",
        "dicom://ORTHANC@127.0.0.1:1", f"dicom://NOBODY@127.0.0.1:{orthanc.dicom}",
    )  # fmt: skip
    for place in wrong:
        found = run("pull", place, "-o", tmp_path / "no", *asked, "--timeout=5", status=3)
        assert "[E_PACS]" in found.output
        said.append(found)
    for text in [*(one.output for one in said), log.read_text()]:
        assert MARK not in text
        assert "1.2.826" not in text


def test_files_that_a_pacs_refuses_are_listed(orthanc, tmp_path):
    (path,) = write_ct_series(tmp_path / "in", slices=1, rows=32, columns=32, seed=600)
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.3.4.5.6"
    dataset.save_as(path)
    found = run("push", tmp_path / "in", url(orthanc, "dimse"), status=3)
    assert "E_NOT_TRANSFERRED" in found.output


@pytest.fixture(scope="module")
def secure(tmp_path_factory) -> Iterator[tuple[int, int, Path]]:
    """A PACS that speaks TLS only, wants our certificate over DIMSE and a password over HTTP."""
    folder = tmp_path_factory.mktemp("secure")
    for name, address in {"server": "127.0.0.1", "client": "127.0.0.2"}.items():
        key, certificate = keys.pem(name, address=address)
        (folder / f"{name}.key").write_bytes(key)
        (folder / f"{name}.pem").write_bytes(certificate)
        (folder / f"{name}.both").write_bytes(key + certificate)
    server = Orthanc(
        folder, DicomTlsEnabled=True, DicomTlsCertificate=str(folder / "server.pem"),
        DicomTlsPrivateKey=str(folder / "server.key"), DicomTlsRemoteCertificateRequired=True,
        DicomTlsTrustedCertificates=str(folder / "client.pem"),
        AuthenticationEnabled=True, RegisteredUsers={"reader": "secret"},
    )  # fmt: skip
    proxy = TlsProxy(server.http, folder / "server.both")
    yield proxy.port, server.dicom, folder
    proxy.close()
    server.process.terminate()
    server.process.wait(60)


def test_tls_works_with_what_is_trusted_and_not_without(secure, tmp_path, monkeypatch):
    http, dicom, folder = secure
    write_ct_series(tmp_path / "in", slices=2, rows=32, columns=32, seed=700)
    asked = f"--include=study={studies_of(tmp_path / 'in')}"
    web = f"https://127.0.0.1:{http}/dicom-web"
    dimse = f"dicoms://ORTHANC@127.0.0.1:{dicom}"
    trust = f"--ca={folder / 'server.pem'}"
    ours = (f"--client-cert={folder / 'client.pem'}", f"--client-key={folder / 'client.key'}")
    monkeypatch.setenv("SALM_PASSWORD", "secret")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder / "client.pem"))  # --ca wins
    quick = "--timeout=10"
    plain = dimse.replace("dicoms", "dicom")
    for words in ((web, "--user=reader"), (web, trust), (dimse, *ours), (plain,)):
        assert "[E_PACS]" in run("push", tmp_path / "in", *words, quick, status=3).output
    monkeypatch.setenv("SALM_PASSWORD", "wrong")
    found = run("push", tmp_path / "in", web, trust, "--user=reader", status=3)
    assert "401" in found.output
    monkeypatch.setenv("SALM_PASSWORD", "secret")
    assert "Sent 2" in run("push", tmp_path / "in", dimse, trust, *ours).output
    run("pull", dimse, "-o", tmp_path / "dimse", asked, trust, *ours)
    run("pull", web, "-o", tmp_path / "web", asked, trust, "--user=reader")
    for kind in KINDS:
        assert files_of(tmp_path / kind).keys() == files_of(tmp_path / "in").keys()


@pytest.mark.parametrize(
    "words",
    [
        ("pull", "ftp://x/", "--include=study=1"),
        ("pull", "dicom://127.0.0.1:104", "--include=study=1"),
        ("pull", "dicom://A@host", "--include=study=1"),
        ("pull", "https://name:word@host/", "--include=study=1"),
        ("pull", "https://host:port/", "--include=study=1"),
        ("pull", "https://host/", "--include=path=x"),
        ("pull", "https://host/", "--include=modality=CT"),
        ("pull", "https://host/", "--include=study=1", "--ca=/nowhere.pem"),
        ("pull", "dicoms://A@host:1", "--include=study=1", "--ca=/nowhere.pem"),
        ("pull", "https://host/", "--include=study=1", "--token=/nowhere"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(tmp_path, words):
    found = run(*words, "-o", tmp_path / "out", status=2)
    assert "word" not in found.output or "password" in found.output
    assert not (tmp_path / "out").exists()


class Lying:
    """A PACS that names what it does not have, or sends something else."""

    def __init__(self, uid: str, data: bytes) -> None:
        self.uid, self.data = uid, data

    def find(self, query: Query) -> Iterator[Remote]:
        yield Remote("1.2", "1.3", self.uid)

    def fetch(self, wanted: Sequence[Remote], keep: Keep) -> None:
        keep(self.data)


def test_only_what_was_asked_for_is_kept(tmp_path):
    (path,) = write_ct_series(tmp_path / "in", slices=1, rows=32, columns=32)
    uid = next(iter(files_of(tmp_path / "in")))
    for data in (path.read_bytes(), b"", b"<script>", path.read_bytes()[:1000]):
        found = pull(Lying("1.2.3.4", data), Query(), tmp_path / "out")
        assert [one.code for one in found.failed] == ["E_NOT_TRANSFERRED"]
        assert not list((tmp_path / "out").rglob("*.dcm"))
    found = pull(Lying(uid, path.read_bytes()), Query(), tmp_path / "out")
    assert found.done == 1
    (kept,) = (tmp_path / "out").rglob("*.dcm")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
