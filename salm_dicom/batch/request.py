"""What an operator asked for when an export is to be protected."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from salm_dicom.batch.labels import Labels
from salm_dicom.batch.selection import Selection
from salm_dicom.plan import ProtectionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an operator asked for.

    Parameters
    ----------
    source, output, vault
        The export (read only), the folder to share, the folder to keep.
    plan
        Settings for a fit on the way or a method without one; not used with `protector`.
    protector
        Folder of a fitted protector, or None.
    labels
        Labels of the series, or None.
    masks
        File or folder of masks, which are the labels of objective segmentation, or None.
    created
        When the run began; a resumed run keeps the first one's.
    site_key
        Key of the new UIDs.
    jobs
        Worker processes of the local engine; 1 works in this process.
    engine
        Who runs the jobs; see `engines.start`.
    max_memory
        Bytes that series in work may need together, on a cluster each of them; 0: no bound.
    max_seconds_per_file
        A series that takes longer for each of its files or frames is ended; 0: no bound.
    modality
        Of NIfTI files whose sidecar does not say.
    selection
        Which series and objects; what an earlier run wrote stays.
    recipients
        Certificates, DER, of those who can restore DICOM sources from the output alone.
    allow_quantitative
        Protect images whose values are measurements, too (`salm_dicom.quantity`).
    deidentify
        De-identify every instance before it is protected (`salm_dicom.dicom.deidentify`).
    device
        Where surrogates run, in every worker; see `protector.device.device_of`.
    """

    source: Path
    output: Path
    vault: Path
    plan: ProtectionPlan
    protector: Path | None
    labels: Labels | None
    created: datetime
    site_key: bytes
    masks: Path | None = None
    jobs: int = 1
    engine: str = "local"
    max_memory: int = 0
    max_seconds_per_file: float = 0.0
    modality: str | None = None
    selection: Selection = field(default_factory=Selection)
    recipients: tuple[bytes, ...] = ()
    allow_quantitative: bool = False
    deidentify: bool = False
    device: str = "cpu"
