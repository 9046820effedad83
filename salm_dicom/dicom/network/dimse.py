"""DIMSE by pynetdicom: C-FIND to find, C-GET to fetch, C-STORE to send; data sets stay bytes.

One presentation context for each class and transfer syntax, so that nothing is converted on the
way; an association has at most 128 of them. Reference: PS3.4 B, C; PS3.15 B (TLS).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_role, evt

from salm_dicom.dicom.header import identity_of
from salm_dicom.dicom.network.node import Access, Keep, Query, Remote, check_uid
from salm_dicom.dicom.part10 import parse
from salm_dicom.errors import InputError, PacsError, PlanError

# Study Root Query/Retrieve Information Model.
Find, Get = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3"
_MOST_CONTEXTS = 128
_PENDING = (0xFF00, 0xFF01)
# Syntaxes that may come: one context for each of them and class.
_SYNTAXES = [
    UID(f"1.2.840.10008.1.2{end}")
    for end in (
        "", ".1", ".2", ".5", ".1.99", ".4.50", ".4.51", ".4.57", ".4.70", ".4.80", ".4.81",
        ".4.90", ".4.91",
    )
]  # fmt: skip


class DimseNode:
    """A PACS that speaks DIMSE."""

    def __init__(self, access: Access) -> None:
        _config.STORE_SEND_CHUNKED_DATASET = True  # bytes of the file, not decoded
        found = urlsplit(access.url)
        self._place = (str(found.hostname), int(found.port or 0), str(found.username))
        self._access = access
        self._tls = (_context(access), self._place[0]) if found.scheme == "dicoms" else None

    def find(self, query: Query) -> Iterator[Remote]:
        """Yield what fits a query."""
        seen = set[str]()
        with self._associated([(Find, None)]) as association:
            for patient, date, study in product(*(one or ("",) for one in (
                query.patient, query.date, query.study,
            ))):  # fmt: skip
                asked = {"PatientID": patient, "StudyDate": date, "StudyInstanceUID": study}
                for found in list(_found(association, "STUDY", asked)):
                    uid = check_uid(found.get("StudyInstanceUID"))
                    if uid not in seen:
                        seen.add(uid)
                        yield from _of_study(association, uid, query)

    def fetch(self, wanted: Sequence[Remote], keep: Keep) -> None:
        """Fetch instances of one series, in one operation."""
        classes = sorted({one.sop_class for one in wanted})
        contexts = [(Get, None), *product(classes, _SYNTAXES)]
        roles = [build_role(uid, scp_role=True) for uid in classes]

        def store(event: Any) -> int:
            keep(event.encoded_dataset())
            return 0x0000

        identifier = Dataset()
        identifier.QueryRetrieveLevel = "IMAGE"
        identifier.StudyInstanceUID = wanted[0].study
        identifier.SeriesInstanceUID = wanted[0].series
        identifier.SOPInstanceUID = [one.instance for one in wanted]
        with self._associated(contexts, roles, [(evt.EVT_C_STORE, store)]) as association:
            try:
                answers = list(association.send_c_get(identifier, Get))
            except ValueError as error:  # no context for it
                raise PacsError("the PACS has no C-GET; pull over DICOMweb") from error
            if not all(status for status, _ in answers):
                raise PacsError("the PACS broke off while it was sending; run the same again")

    def stored(self, study: str) -> set[str]:
        """Return the SOP Instance UIDs of a study that are there; none where it cannot say."""
        try:
            with self._associated([(Find, None)]) as association:
                return {one.instance for one in _of_study(association, study, Query())}
        except PacsError:
            return set()

    def send(self, files: Sequence[Path]) -> list[tuple[Path, str]]:
        """Send files as they are, and return those that were not taken."""
        kinds: dict[tuple[str, str], list[Path]] = {}
        failed: list[tuple[Path, str]] = []
        for path in files:
            try:
                file = parse(path.read_bytes())
                kind = (identity_of(file).sop_class, str(file.transfer_syntax))
                kinds.setdefault(kind, []).append(path)
            except InputError as error:
                failed.append((path, str(error)))
        order = list(kinds)
        for start in range(0, len(order), _MOST_CONTEXTS):
            some = order[start : start + _MOST_CONTEXTS]
            try:
                with self._associated([(uid, UID(syntax)) for uid, syntax in some]) as association:
                    failed += _all_sent(association, {kind: kinds[kind] for kind in some})
            except _NothingAccepted:
                failed += [(path, str(_NothingAccepted())) for kind in some for path in kinds[kind]]
        return failed

    def close(self) -> None:
        """Nothing is left open."""

    @contextmanager
    def _associated(
        self,
        contexts: Sequence[tuple[str, UID | None]],
        roles: Sequence[Any] = (),
        handlers: Sequence[Any] = (),
    ) -> Iterator[Any]:
        entity = AE(ae_title=self._access.aet)
        entity.acse_timeout = entity.dimse_timeout = self._access.seconds
        entity.network_timeout = entity.connection_timeout = self._access.seconds
        for abstract, syntax in contexts:
            entity.add_requested_context(abstract, None if syntax is None else [syntax])
        host, port, title = self._place
        association = entity.associate(
            host, port, ae_title=title, ext_neg=list(roles), evt_handlers=list(handlers),
            tls_args=self._tls,
        )  # fmt: skip
        if not association.is_established and association.rejected_contexts:
            raise _NothingAccepted
        if not association.is_established:
            refused = "refuses" if association.is_rejected else "does not answer"
            raise PacsError(f"the PACS {refused}: are address, titles (--aet) and TLS right?")
        try:
            yield association
        finally:
            association.release()


class _NothingAccepted(PacsError):
    """A PACS wants nothing of what it was offered."""

    def __init__(self) -> None:
        super().__init__("the PACS does not take this class in this transfer syntax")


def _all_sent(
    association: Any, kinds: dict[tuple[str, str], list[Path]]
) -> Iterator[tuple[Path, str]]:
    """Send files, and yield those that were not taken."""
    accepted = {
        (str(one.abstract_syntax), str(one.transfer_syntax[0]))
        for one in association.accepted_contexts
    }
    for kind, paths in kinds.items():
        for path in paths:
            reason = _sent(association, path) if kind in accepted else str(_NothingAccepted())
            if reason:
                yield path, reason


def _sent(association: Any, path: Path) -> str:
    """Send one file; return why it was not taken, or an empty text."""
    if not association.is_established:
        raise PacsError("the PACS broke off; what it took stays there. Run the same again")
    try:
        status = association.send_c_store(path)
    except (ValueError, RuntimeError, OSError) as error:
        return f"it cannot be sent ({type(error).__name__})"
    if not status:
        raise PacsError("the PACS broke off; what it took stays there. Run the same again")
    code = int(status.Status)
    return "" if code == 0 or code >> 12 == 0xB else f"the PACS answers status {code:04X}"


def _of_study(association: Any, study: str, query: Query) -> Iterator[Remote]:
    asked = {"StudyInstanceUID": study, "SeriesInstanceUID": "", "Modality": ""}
    for found in list(_found(association, "SERIES", asked)):
        series = check_uid(found.get("SeriesInstanceUID"))
        if query.series and series not in query.series:
            continue
        if query.modality and found.get("Modality") not in query.modality:
            continue
        wanted = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        wanted |= {"SOPInstanceUID": "", "SOPClassUID": ""}
        for one in _found(association, "IMAGE", wanted):
            instance = check_uid(one.get("SOPInstanceUID"))
            yield Remote(study, series, instance, check_uid(one.get("SOPClassUID")))


def _found(association: Any, level: str, asked: dict[str, str]) -> Iterator[Dataset]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in asked.items():
        setattr(identifier, keyword, value)
    try:
        for status, found in association.send_c_find(identifier, Find):
            if not status or int(status.Status) not in (0, *_PENDING):
                raise PacsError("the PACS cannot be asked what it has (C-FIND failed)")
            if found is not None:
                yield found
    except (ValueError, RuntimeError) as error:
        raise PacsError(f"the PACS cannot be asked ({type(error).__name__})") from error


def _context(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca and str(access.ca))
        if access.certificate is not None:
            context.load_cert_chain(access.certificate, access.key)
    except OSError as error:  # SSLError too
        raise PlanError(f"a certificate cannot be read ({type(error).__name__})") from error
    return context
