"""De-identification in the batch: its key in the vault, and what it cannot clean."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from pathlib import Path

from salm_dicom.batch.source import Export
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


def can_be_cleaned(export: Export) -> Export:
    """Return the export without what the rules cannot clean, which is left out."""
    kept = tuple(one for one in export.objects if one.kind not in _TEXTS)
    text = "free text or a document may name the patient; it cannot be de-identified by rule"
    gone = [
        LeftOut(one.path, NotDeidentified.code, text)
        for one in export.objects
        if one.kind in _TEXTS
    ]
    text = "texts in a NIfTI header are not de-identified; remove them, or give DICOM"
    gone += [LeftOut(one.path, NotDeidentified.code, text) for one in export.nifti]
    return replace(export, objects=kept, nifti=(), left_out=(*export.left_out, *gone))


def burned_in(file: Part10, modality: str) -> tuple[str, ...]:
    """Return a warning where text in the pixels may name the patient."""
    said = text_of(file, BURNED_IN)
    if said == "YES":
        return ("W_BURNED_IN: the image says that text is burned in; it was not removed",)
    if modality in _OFTEN_BURNED_IN and said != "NO":
        return ("W_BURNED_IN: such images often have names in their pixels; look at them",)
    return ()
