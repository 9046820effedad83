"""DICOMweb: QIDO-RS to find, WADO-RS to fetch, STOW-RS to send; files stay the bytes they are.

dicomweb-client asks the questions. It would decode what it fetches and encode what it sends; that
may change bytes, so multipart bodies are made and taken apart here. Reference: PS3.18 8.6, 10.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from email.parser import BytesParser
from email.policy import HTTP
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import requests
from dicomweb_client.session_utils import add_certs_to_session, create_session
from dicomweb_client.web import DICOMwebClient
from requests.utils import get_environ_proxies

from salm_dicom.dicom.network.node import Access, Keep, Query, Remote, check_uid
from salm_dicom.errors import PacsError, PlanError

T = TypeVar("T")
_STUDY, _SERIES, _INSTANCE, _CLASS = "0020000D", "0020000E", "00080018", "00080016"
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'


class WebNode:
    """A PACS that speaks DICOMweb."""

    def __init__(self, access: Access) -> None:
        self._session, self._seconds = _session(access), access.seconds
        self._client = DICOMwebClient(access.url, session=self._session, timeout=access.seconds)
        self._client.set_http_retry_params(retry=False)  # an operator runs it again
        self._url = access.url.rstrip("/")

    def find(self, query: Query) -> Iterator[Remote]:
        """Yield what fits a query."""
        seen = set[str]()
        for patient, date, study in product(*(one or ("",) for one in (
            query.patient, query.date, query.study,
        ))):  # fmt: skip
            asked = {"PatientID": patient, "StudyDate": date, "StudyInstanceUID": study}
            filters = {key: value for key, value in asked.items() if value}
            search = partial(self._client.search_for_studies, search_filters=filters)
            for found in self._ask(partial(search, get_remaining=True)):
                uid = check_uid(_value(found, _STUDY))
                if uid not in seen:
                    seen.add(uid)
                    yield from self._of_study(uid, query)

    def _of_study(self, study: str, query: Query) -> Iterator[Remote]:
        search = partial(self._client.search_for_series, study, get_remaining=True)
        for found in self._ask(search):
            series = check_uid(_value(found, _SERIES))
            if query.series and series not in query.series:
                continue
            if query.modality and _value(found, "00080060") not in query.modality:
                continue
            inside = partial(self._client.search_for_instances, study, series, get_remaining=True)
            for one in self._ask(inside):
                instance = check_uid(_value(one, _INSTANCE))
                yield Remote(study, series, instance, str(_value(one, _CLASS)))

    def fetch(self, wanted: Sequence[Remote], keep: Keep) -> None:
        """Fetch instances of one series, one by one."""
        for one in wanted:
            place = f"studies/{one.study}/series/{one.series}/instances/{one.instance}"
            get = partial(self._session.get, f"{self._url}/{place}", timeout=self._seconds)
            answer = self._ask(partial(get, headers={"Accept": _ACCEPT}))
            if answer.status_code != 200:
                continue
            for part in _parts(answer.headers.get("Content-Type", ""), answer.content):
                keep(part)

    def stored(self, study: str) -> set[str]:
        """Return the SOP Instance UIDs of a study that are there."""
        search = partial(self._client.search_for_instances, get_remaining=True)
        found = self._ask(partial(search, search_filters={"StudyInstanceUID": study}))
        return {str(_value(one, _INSTANCE)) for one in found}

    def send(self, files: Sequence[Path]) -> list[tuple[Path, str]]:
        """Send files one by one, and return those that were not taken."""
        failed: list[tuple[Path, str]] = []
        for path in files:
            edge = secrets.token_hex(16)
            start = f"--{edge}\r\nContent-Type: application/dicom\r\n\r\n".encode()
            body = start + path.read_bytes() + f"\r\n--{edge}--\r\n".encode()
            kind = f'multipart/related; type="application/dicom"; boundary={edge}'
            headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
            post = partial(self._session.post, f"{self._url}/studies", timeout=self._seconds)
            answer = self._ask(partial(post, data=body, headers=headers))
            if answer.status_code != 200:
                failed.append((path, f"the PACS answers HTTP {answer.status_code}"))
        return failed

    def close(self) -> None:
        """End the connection."""
        self._session.close()

    @staticmethod
    def _ask(question: Callable[[], T]) -> T:
        """Return an answer; errors of requests quote addresses, which name patients and UIDs."""
        try:
            answer = question()
        except requests.HTTPError as error:
            code = error.response.status_code if error.response is not None else "an error"
            raise PacsError(f"the PACS answers HTTP {code}") from error
        except (requests.RequestException, ValueError, KeyError) as error:
            raise PacsError(
                f"the PACS cannot be asked ({type(error).__name__}): is the address right, its "
                "certificate trusted (--ca)?"
            ) from error
        if isinstance(answer, requests.Response) and answer.status_code in (401, 403):
            raise PacsError(f"the PACS answers HTTP {answer.status_code}: give --user or --token")
        return answer


def _session(access: Access) -> requests.Session:
    session = create_session()
    certificate = None if access.certificate is None else str(access.certificate)
    ca = None if access.ca is None else str(access.ca)
    try:
        add_certs_to_session(session, ca_bundle=ca, cert=certificate)
    except OSError as error:
        raise PlanError(f"a certificate cannot be read ({type(error).__name__})") from error
    if access.certificate is not None and access.key is not None:
        session.cert = (str(access.certificate), str(access.key))
    if access.ca is not None:  # REQUESTS_CA_BUNDLE would win over it, but for this
        session.trust_env = False
        session.proxies.update(get_environ_proxies(access.url))
    if access.user:
        session.auth = (access.user, access.password)
    if access.token:
        session.headers["Authorization"] = f"Bearer {access.token}"
    return session


def _value(found: dict[str, Any], tag: str) -> object:
    """Return the first value of an attribute in DICOM JSON, or None."""
    values = found.get(tag, {}).get("Value") or [None]
    return values[0]


def _parts(kind: str, body: bytes) -> list[bytes]:
    """Return the parts of a multipart body."""
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    found = [part.get_payload(decode=True) for part in message.iter_parts()]
    return [part for part in found if isinstance(part, bytes)]
