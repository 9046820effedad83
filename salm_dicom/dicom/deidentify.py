"""De-identify an instance before it is protected: dicom-anonymizer's rules, applied to every item.

The library's table and actions are used as they are (PS3.15 E.1, Basic Application Level
Confidentiality Profile). What it does not do is done here: items of sequences at any depth, UIDs by
a keyed function instead of random ones, no private elements and none that the standard does not
know, no name and no date without a rule, dates that validators take, a pseudonym in place of one
name for all patients, and what was done, said in the file. Text that is burned into pixels stays;
nothing here is a proof of compliance.
"""

from __future__ import annotations

import hashlib
import hmac
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from io import BytesIO
from typing import Any

import pydicom
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from salm_dicom import __version__
from salm_dicom.dicom import header as h
from salm_dicom.dicom.elements import FIRST_PIXEL_TAG
from salm_dicom.dicom.part10 import Part10, parse
from salm_dicom.dicom.splice import file_meta, splice
from salm_dicom.dicom.uids import new_uid
from salm_dicom.errors import InputError, ParseError, PlanError

RULES_OF = "dicomfields_2026c"
METHOD_TAG = 0x00120063
BURNED_IN = 0x00280301
_STANDARD = "1.2.840.10008."
# UIDs that name schemes and classes, not somebody's instances.
_KEPT_UIDS = {0x00080016, 0x00081150, 0x0008010C, 0x00080117, 0x00080118, 0x0008010D}
# What stands for any name, age, date and time; the library's year 1 is none for validators.
_DUMMIES = {"PN": "", "AS": "000Y", "DA": "19000101", "DT": "19000101000000", "TM": "000000"}
_PATIENT_NAME, _PATIENT_ID = 0x00100010, 0x00100020
_TRAILING = 0xFFFAFFFA  # Digital Signatures Sequence

# What the library calls its rules, and what they mean for a sequence; others are cleaned inside.
_GONE = {"delete", "delete_or_replace", "delete_or_empty_or_replace"}
_EMPTY = {"empty", "delete_or_empty"}
_DUMMY = {"replace", "empty_or_replace"}

Action = Callable[[Dataset, BaseTag], None]


@dataclass(frozen=True, slots=True)
class Deidentifier:
    """De-identifies instances; the same key gives the same UIDs and pseudonyms.

    Parameters
    ----------
    key
        Secret: who has it can tell which new UID belongs to an old one.
    """

    key: bytes

    def uid(self, uid: str) -> str:
        """Return what a UID of the source becomes; UIDs of the standard stay."""
        if not uid or uid.startswith(_STANDARD):
            return uid
        return new_uid(self.key, "", "deidentified", uid)

    def pseudonym(self, patient_id: str) -> str:
        """Return what stands for a patient."""
        digest = hmac.new(self.key, f"patient {patient_id}".encode(), hashlib.sha256)
        return f"P{digest.hexdigest()[:12].upper()}"

    def __call__(self, file: Part10) -> Part10:
        """Return the instance without what the profile takes; its pixels keep their bytes.

        Raises
        ------
        ParseError
            An element cannot be parsed, so nobody knows what it says.
        """
        identity = h.identity_of(file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                changes = self._changes(file)
        except InputError:
            raise
        except Exception as error:  # what pydicom raises at broken values is not foreseeable
            raise ParseError(
                f"an element cannot be parsed ({type(error).__name__}), so the instance cannot be "
                "de-identified"
            ) from error
        sop_uid = self.uid(identity.sop_uid)
        meta = file_meta(identity.sop_class, sop_uid, file.transfer_syntax, __version__)
        return parse(splice(file, changes, meta))

    def _changes(self, file: Part10) -> dict[int, bytes | None]:
        """Return every element before the pixel data as it has to be, or None where it goes."""
        dataset = pydicom.dcmread(BytesIO(file.data), stop_before_pixels=True)
        patient = str((dataset.get(_PATIENT_ID) and dataset[_PATIENT_ID].value) or "")
        is_burned_in = h.text_of(file, BURNED_IN) == "YES"
        self._clean(dataset)
        for tag, vr in ((_PATIENT_NAME, "PN"), (_PATIENT_ID, "LO")):
            dataset.add_new(tag, vr, self.pseudonym(patient) if patient else "")
        dataset.PatientIdentityRemoved = "NO" if is_burned_in else "YES"
        dataset.DeidentificationMethod = [method(), "Text in pixels was not looked for"]
        dataset.DeidentificationMethodCodeSequence = [_profile()]
        dataset.LongitudinalTemporalInformationModified = "REMOVED"
        gone = [s.tag for s in file.spans if s.tag < FIRST_PIXEL_TAG or s.tag >= _TRAILING]
        changes: dict[int, bytes | None] = dict.fromkeys(gone)
        names = dataset.original_character_set
        encodings = names if isinstance(names, str) else list(names)
        for element in dataset:
            out = DicomBytesIO()
            out.is_little_endian, out.is_implicit_VR = file.is_little_endian, file.is_implicit_vr
            write_data_element(out, element, encodings)
            changes[int(element.tag)] = out.getvalue()
        return changes

    def _clean(self, dataset: Dataset) -> None:
        for tag in list(dataset.keys()):
            if tag.is_private or tag.element == 0 or not dictionary_has_tag(tag):
                del dataset[tag]
                continue
            element, action = dataset[tag], _action(tag)
            if element.VR == "UI" and tag not in _KEPT_UIDS:
                self._replace_uids(element)
            elif element.VR == "SQ":
                self._clean_sequence(dataset, tag, "" if action is None else action.__name__)
            elif element.VR in _DUMMIES:  # also where the profile has no rule for it
                element.value = _DUMMIES[element.VR] if element.value else ""
            elif action is not None:
                _act(dataset, tag, action)

    def _clean_sequence(self, dataset: Dataset, tag: BaseTag, rule: str) -> None:
        """Do with a sequence what its rule says; the library would take UIDs of its own."""
        element = dataset[tag]
        if rule in _GONE:
            del dataset[tag]
        elif rule in _EMPTY:
            element.value = []
        else:
            for item in element.value:
                self._clean(item)
                if rule in _DUMMY:
                    self._scrub(item)

    def _scrub(self, item: Dataset) -> None:
        """Replace every value of an item that must be there but may say nothing."""
        for tag in list(item.keys()):
            if item[tag].VR == "SQ":
                for inner in item[tag].value:
                    self._scrub(inner)
            elif item[tag].VR != "UI":
                _act(item, tag, _replace())

    def _replace_uids(self, element: DataElement) -> None:
        values = element.value if element.VM > 1 else [element.value]
        new = [self.uid(str(value)) for value in values if value]
        element.value = new if len(new) > 1 else "".join(new)


def method() -> str:
    """Return what a file says of how it was de-identified, in the 64 characters of an LO."""
    return f"salm_dicom {__version__}, dicom-anonymizer {version('dicom-anonymizer')}"


def check_installed() -> None:
    """Raise `PlanError` where the extra is missing."""
    try:
        import dicomanonymizer  # noqa: F401
    except ImportError as error:
        raise PlanError(
            "--deidentify needs dicom-anonymizer: pip install 'salm_dicom[deid]'"
        ) from error


def says_deidentified(file: Part10) -> bool:
    """Return whether a file says that this software de-identified it."""
    return h.text_of(file, METHOD_TAG).startswith("salm_dicom ")


def _act(dataset: Dataset, tag: BaseTag, action: Action) -> None:
    """Run one of the library's actions; what it has no word for goes."""
    try:
        action(dataset, tag)
    except NotImplementedError:
        del dataset[tag]


@cache
def _action(tag: BaseTag) -> Action | None:
    """Return what the library does with a tag, or None where it stays."""
    exact, masked = _rules()
    found = exact.get((tag.group, tag.element))
    if found is not None:
        return found
    return next((action for mask, action in masked if _fits(tag, mask)), None)


def _fits(tag: BaseTag, mask: tuple[int, ...]) -> bool:
    group, element, group_mask, element_mask = mask
    return (tag.group & group_mask, tag.element & element_mask) == (
        group & group_mask, element & element_mask)  # fmt: skip


def _replace() -> Action:
    from dicomanonymizer.simpledicomanonymizer import replace

    action: Action = replace
    return action


@lru_cache(maxsize=1)
def _rules() -> tuple[dict[tuple[int, int], Action], list[tuple[tuple[int, ...], Action]]]:
    """Return the library's rules: by tag, and those of repeating groups."""
    from dicomanonymizer.simpledicomanonymizer import initialize_actions

    rules: dict[Any, Action] = initialize_actions(RULES_OF)
    exact = {tag: action for tag, action in rules.items() if len(tag) == 2}
    return exact, [(tag, action) for tag, action in rules.items() if len(tag) == 4]


def _profile() -> Dataset:
    """Return the code of the Basic Application Confidentiality Profile (PS3.16 CID 7050)."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    return code
