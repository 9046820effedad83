"""Terms of Modality (0008,0060) that are shown as they are; anything else could be a patient's.

Reference: PS3.3 C.7.3.1.1.1, with retired terms, which old archives are full of.
"""

from __future__ import annotations

UNKNOWN = "unknown"
_TERMS = {
    "ANN", "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "CTPROTOCOL", "DMS",
    "DG", "DOC", "DX", "ECG", "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO",
    "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS", "MG", "MR", "M3D", "NM", "OAM", "OCT",
    "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PLAN", "POS", "PR", "PT",
    "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD",
    "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "STAIN",
    "TEXTUREMAP", "TG", "US", "VA", "XA", "XAPROTOCOL", "XC", "AS", "CD", "CF", "CP", "CS",
    "DD", "DF", "DM", "DS", "EC", "FA", "FS", "LP", "MA", "MS", "OPR", "ST", "VF",
}  # fmt: skip


def modality(text: str) -> str:
    """Return a term of the standard as it is; empty for none, and `UNKNOWN` for anything else."""
    return text if text in _TERMS or not text else UNKNOWN
