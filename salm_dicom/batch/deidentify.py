"""De-identification in the batch: its key in the vault, and what it cannot clean."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.vault import Vault
from salm_dicom.dicom.deidentify import BURNED_IN, Deidentifier, check_installed
from salm_dicom.dicom.header import text_of
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.errors import NotDeidentified, PlanError

# Free text and documents: no rule knows where a name stands in them.
_TEXTS = {"report", "key object selection", "document"}
# Kinds of image that carry names in their pixels more often than not.
_OFTEN_BURNED_IN = {"US", "ES", "XC", "OT", "SC", "XA", "RF", "OP", "GM"}
_BYTES = 32


def deidentifier_of(vault: Vault, wanted: bool) -> Deidentifier | None:
    """Return the de-identifier of an output: with the vault's key, which is made if need be."""
    if not wanted:
        return None
    check_installed()
    path = vault.deidentify_key
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_BYTES))
    return existing(vault.folder)


def existing(vault: Path) -> Deidentifier | None:
    """Return the de-identifier of the output that a vault belongs to, if that was de-identified.

    Raises
    ------
    PlanError
        The key is damaged, or the extra is missing.
    """
    path = Vault(vault).deidentify_key
    if not path.exists():
        return None
    check_installed()
    key = path.read_bytes()
    if len(key) != _BYTES:
        raise PlanError("the vault's key of the de-identification is damaged")
    return Deidentifier(key)


def leave_out_uncleanable(catalog: Catalog) -> None:
    """Leave out what the rules cannot clean."""
    text = "free text or a document may name the patient; it cannot be de-identified by rule"
    for number, key in catalog.pages("key", "objects"):
        one = catalog.object(key)
        if one is not None and one.kind in _TEXTS:
            catalog.drop(number, "objects", [LeftOut(one.path, NotDeidentified.code, text)])
    text = "texts in a NIfTI header are not de-identified; remove them, or give DICOM"
    for entry in catalog.series("is_in AND kind = 'nifti'"):
        gone = [LeftOut(path, NotDeidentified.code, text) for path in entry.series.paths]
        catalog.drop(entry.number, "series", gone)


def burned_in(file: Part10, modality: str) -> tuple[str, ...]:
    """Return a warning where text in the pixels may name the patient."""
    said = text_of(file, BURNED_IN)
    if said == "YES":
        return ("W_BURNED_IN: the image says that text is burned in; it was not removed",)
    if modality in _OFTEN_BURNED_IN and said != "NO":
        return ("W_BURNED_IN: such images often have names in their pixels; look at them",)
    return ()
