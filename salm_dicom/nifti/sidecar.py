"""The JSON beside a NIfTI image, as BIDS has it: what a source says, what an output says."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from salm_dicom import __version__
from salm_dicom.errors import NoModality, ParseError, UnsupportedPixels
from salm_dicom.nifti.image import stem
from salm_dicom.quantity import Said, quantity
from salm_dicom.record import ProtectionRecord

# DICOM's words; the same kinds of image that are protected as DICOM.
MODALITIES = ("CT", "MR", "CR", "DX", "MG")
# Those whose values are measurements; protected only if that is asked for.
MEASURING = ("PT", "NM")
OURS = "SalmDicom"
_MOST_BYTES = 16 << 20
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


def beside(path: Path) -> Path:
    """Return where the sidecar of an image is."""
    return path.with_name(f"{stem(path)}.json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return what the sidecar of the image at `path` says; empty without one.

    Raises
    ------
    ParseError
        There is one, and it is no JSON object.
    """
    place = beside(path)
    if not place.is_file():
        return {}
    try:
        if place.stat().st_size > _MOST_BYTES:
            raise ParseError("the .json beside the image is too large for a sidecar")
        found = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ParseError(
            f"the .json beside the image cannot be read ({type(error).__name__}); mend or remove it"
        ) from error
    if not isinstance(found, dict):
        raise ParseError("the .json beside the image is no JSON object; mend or remove it")
    return found


def modality_of(sidecar: dict[str, Any], default: str | None) -> str:
    """Return the sidecar's `Modality`, else `default`.

    Raises
    ------
    NoModality, UnsupportedPixels
    """
    found = sidecar.get("Modality", default)
    if found is None:
        raise NoModality(
            "nothing says what the image is; air, anatomy and the budget depend on it: give "
            '--modality, or a .json beside the image with {"Modality": "MR"}'
        )
    if found not in MODALITIES + MEASURING:
        raise UnsupportedPixels(f"its modality is not one of {', '.join(MODALITIES)}")
    return str(found)


def quantity_of(sidecar: dict[str, Any], modality: str) -> str:
    """Return why the values of an image are measurements; empty when they are not.

    Converters note DICOM's Image Type and the units of PET beside an image.
    """
    types, units = sidecar.get("ImageType"), sidecar.get("Units")
    words = [word for word in types if isinstance(word, str)] if isinstance(types, list) else []
    return quantity(
        Said(
            modality=modality,
            types=Said.words(words),
            units=units if isinstance(units, str) else "",
        )
    )


def series_uid_of(sidecar: dict[str, Any]) -> str:
    """Return the Series Instance UID that a converter noted, or an empty text."""
    found = sidecar.get("SeriesInstanceUID")
    is_uid = isinstance(found, str) and len(found) <= 64 and _UID.fullmatch(found)
    return str(found) if is_uid else ""


def provenance(
    record: ProtectionRecord,
    *,
    modality: str,
    created: datetime,
    source_sha256: str,
    image_sha256: str,
    largest: tuple[int, float],
) -> bytes:
    """Return the sidecar of a protected image.

    Neither names, paths and UIDs of the source nor the seed are in it: source and image are tied
    by the SHA-256 of their uncompressed files, which only helps who has them already.

    Parameters
    ----------
    largest
        Largest change that was made, in stored and in modality units.

    References
    ----------
    BIDS 1.10, *Derivatives: common data types*, `Description`, `GeneratedBy`.
    """
    stored, in_units = largest
    content = {
        "Description": (
            f"Protected against unauthorised training by salm_dicom {__version__}: method "
            f"{record.method}, {record.extent} extent, at most {record.rho * 100:.3g} % of "
            f"foreground voxels changed; largest change {stored} stored units "
            f"({in_units:.4g} {record.units})"
            + (f"; quantitative values were changed: {record.quantity}" if record.quantity else "")
        ),
        "GeneratedBy": [{"Name": "salm_dicom", "Version": __version__}],
        "Modality": modality,
        OURS: {
            "Method": record.method,
            "Extent": record.extent,
            "Budget": {
                "Fraction": record.epsilon,
                "Modality": record.budget_modality,
                "Stored": record.budget_stored,
                "Units": record.units,
            },
            "LargestChange": {"Stored": stored, "Modality": in_units},
            "ChangedShareOfForeground": record.changed_share,
            **({"QuantitativeValuesChanged": record.quantity} if record.quantity else {}),
            "Created": created.isoformat(),
            "Digest": record.digest,
            "SourceSHA256": source_sha256,
            "ImageSHA256": image_sha256,
        },
    }
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
