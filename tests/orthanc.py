"""Starts a real PACS (Orthanc) on free ports of this machine, for tests."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections import defaultdict
from contextlib import suppress
from email import message_from_bytes
from email.policy import HTTP
from pathlib import Path
from urllib.request import Request as Get
from urllib.request import urlopen

from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from salm_dicom.dicom.part10 import parse

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
# What storescu has to be told to offer besides Implicit VR Little Endian.
OFFERS = {
    ImplicitVRLittleEndian: "-xi", ExplicitVRLittleEndian: "-xe", ExplicitVRBigEndian: "-xb",
    RLELossless: "-xr", JPEGLSLossless: "-xt", JPEG2000Lossless: "-xv",
}  # fmt: skip


class Orthanc:
    """A server on free ports of this machine; only our own AE title may store and fetch."""

    def __init__(self, folder: Path, **more: object) -> None:
        self.http, self.dicom, self.ours = _free_ports(3)
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "Plugins": [PLUGIN],
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "HttpPort": self.http,
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom,
            "DicomCheckModalityHost": True,
            "DicomModalities": {"salm": ["SALMSCU", "127.0.0.1", self.ours]},
            "JobsHistorySize": 10,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        always = ("Echo", "Store", "Find", "Get", "Move")
        settings |= {f"DicomAlwaysAllow{what}": False for what in always}
        settings |= more
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.process = subprocess.Popen(
            ["Orthanc", folder / "orthanc.json"], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if "Orthanc has started" in line:
                break
        else:
            raise AssertionError("".join(lines))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def store(self, files: list[Path]) -> None:
        """Send files over DIMSE, each in the transfer syntax it has."""
        by_syntax = defaultdict(list)
        for path in files:
            by_syntax[parse(path.read_bytes()).transfer_syntax].append(path)
        for syntax, paths in by_syntax.items():
            self._program("storescu", OFFERS[syntax], "127.0.0.1", self.dicom, *paths)

    def store_web(self, files: list[Path]) -> None:
        """Send files over DICOMweb (STOW-RS)."""
        start = b"--edge\r\nContent-Type: application/dicom\r\n\r\n"
        body = b"".join(start + path.read_bytes() + b"\r\n" for path in files) + b"--edge--"
        kind = 'multipart/related; type="application/dicom"; boundary=edge'
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        with urlopen(Get(self.url("studies"), data=body, headers=headers)) as answer:
            assert answer.status == 200

    def fetch_web(self, study: str) -> list[bytes]:
        """Return the files of a study over DICOMweb (WADO-RS), as they are stored."""
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with urlopen(Get(self.url(f"studies/{study}"), headers={"Accept": accept})) as answer:
            head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
            message = message_from_bytes(head + answer.read(), policy=HTTP)
        return [part.get_payload(decode=True) for part in message.iter_parts()]

    def fetch(self, study: str, folder: Path) -> list[bytes]:
        """Return the files of a study over DIMSE (C-MOVE)."""
        folder.mkdir()
        self._program(
            "movescu", "-S", "-aem", "SALMSCU", "+P", self.ours, "+xa", "-od", folder,
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}",
            "127.0.0.1", self.dicom,
        )  # fmt: skip
        return [path.read_bytes() for path in folder.iterdir()]

    def url(self, what: str) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web/{what}"

    @staticmethod
    def _program(name: str, *arguments: object) -> None:
        command = [name, "-aet", "SALMSCU", "-aec", "ORTHANC", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class TlsProxy:
    """Ends TLS in front of a port, as a web server before a PACS does.

    Orthanc 1.10.1 of Debian 12 has HTTPS of its own, and dies of the first request.
    """

    def __init__(self, port: int, certificate: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._inner, self._listener = port, socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                outer, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(outer,), daemon=True).start()

    def _relay(self, outer: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(outer, server_side=True) as client:
            inner = socket.create_connection(("127.0.0.1", self._inner))
            back = threading.Thread(target=_copy, args=(inner, client), daemon=True)
            back.start()
            _copy(client, inner)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
