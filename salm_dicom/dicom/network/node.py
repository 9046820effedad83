"""Node: what a PACS can do for us, where it is, and how the way to it is secured."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from salm_dicom.errors import PacsError, PlanError

SCHEMES = ("https", "http", "dicom", "dicoms")
# Their messages quote addresses, identifiers and names.
_TALKERS = ("pynetdicom", "dicomweb_client", "retrying", "requests", "urllib3")
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_AET = re.compile(r"[ -\[\]-~]{1,16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a PACS is and how the way to it is secured.

    Parameters
    ----------
    url
        `https://HOST/dicom-web` or `dicoms://AET@HOST:PORT`; `http` and `dicom` are not encrypted.
    aet
        Our application entity title, for DIMSE.
    ca, certificate, key
        PEM files: who is trusted, and who we are. None: the system's, and nobody.
    user, password, token
        For HTTP.
    seconds
        How long an answer may take.
    """

    url: str
    aet: str = "SALM_DICOM"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str = ""
    password: str = ""
    token: str = ""
    seconds: float = 60

    def __post_init__(self) -> None:
        try:
            found = urlsplit(self.url)
            port = found.port
        except ValueError as error:
            raise PlanError("the address of the PACS is not understood") from error
        if found.scheme not in SCHEMES or not found.hostname:
            raise PlanError(
                "give the PACS as https://HOST/dicom-web, or as dicom://AET@HOST:PORT "
                "(dicoms:// with TLS)"
            )
        if self.is_web and found.username:
            raise PlanError("names and passwords do not belong into an address: give --user")
        if not self.is_web and (port is None or not _AET.fullmatch(found.username or "")):
            raise PlanError("a DIMSE address needs a title and a port: dicom://AET@HOST:PORT")
        if not _AET.fullmatch(self.aet):
            raise PlanError("--aet has up to 16 characters, none of them a backslash")

    @property
    def is_web(self) -> bool:
        """Whether it speaks DICOMweb; DIMSE otherwise."""
        return urlsplit(self.url).scheme in ("http", "https")

    @property
    def is_open(self) -> bool:
        """Whether patients' data would go unencrypted over a network."""
        found = urlsplit(self.url)
        return found.scheme in ("http", "dicom") and found.hostname not in _LOCAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is wanted of a PACS; of each key any value, of several keys all. Dates as DICOM's."""

    study: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    patient: tuple[str, ...] = ()
    date: tuple[str, ...] = ()
    modality: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remote:
    """One instance that a PACS has."""

    study: str
    series: str
    instance: str
    sop_class: str = ""


# Given the bytes of a file that came.
Keep = Callable[[bytes], None]


class Node(Protocol):
    """A PACS. Errors of the way to it are `PacsError`; they never quote what was asked."""

    def find(self, query: Query) -> Iterator[Remote]:
        """Yield what fits a query."""

    def fetch(self, wanted: Sequence[Remote], keep: Keep) -> None:
        """Fetch instances of one series; what does not come is simply not kept."""

    def stored(self, study: str) -> set[str]:
        """Return the SOP Instance UIDs of a study that are there; none where it cannot say."""

    def send(self, files: Sequence[Path]) -> list[tuple[Path, str]]:
        """Send files as they are, and return those that were not taken, with the reason."""

    def close(self) -> None:
        """End the connection."""


def node_of(access: Access) -> Node:
    """Return the PACS at an address.

    Raises
    ------
    PlanError
        The extra is missing, or a certificate cannot be read.
    """
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        if access.is_web:
            from salm_dicom.dicom.network.web import WebNode

            return WebNode(access)
        from salm_dicom.dicom.network.dimse import DimseNode

        return DimseNode(access)
    except ImportError as error:
        raise PlanError("pull and push need the extra: pip install 'salm_dicom[pacs]'") from error


def check_uid(text: object) -> str:
    """Return a UID that a PACS gave, or raise: it becomes part of an address.

    Raises
    ------
    PacsError
    """
    if isinstance(text, str) and re.fullmatch(r"[0-9.]{1,64}", text):
        return text
    raise PacsError("the PACS names something by a UID that is none")
