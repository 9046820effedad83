"""Every error that is raised on purpose, as one tree; one code for each.

::

    SalmDicomError
    ├── PlanError                 a setting is out of range, unknown or contradicts another (exit 2)
    │   └── TooFew                there are not enough patients or labels to measure anything
    ├── UnsafeError               going on could overwrite or mix up somebody's data        (exit 6)
    ├── DiskFull                  no space left for the output                              (exit 7)
    ├── Locked                    another run is writing to the same output                 (exit 8)
    ├── PacsError                 the way to a PACS is broken or refused                    (exit 3)
    ├── MismatchError             what was written is not what was meant                    (exit 9)
    ├── Unmeasurable              a metric says nothing of this volume; the row says so
    └── InputError                one file or series cannot be protected; it is listed with its code
        ├── NotDicom, EmptyFile, NotRegularFile, Unreadable, ParseError, Truncated
        ├── TooLarge, Bomb, MissingTag, BadValue, BadUid, DuplicateUid, DuplicatePosition
        ├── NotImage, UnsupportedPixels, UnsupportedTransferSyntax, DecodeError, NonLinearRescale
        ├── AlreadyProtected, Quantitative, Changed, NoModality, NoLabel, NoChange, NoForeground
        ├── NotProtected, NotDeidentified, NotTransferred, and those of batch/review
        └── GeometryError, UnevenSpacing, WorkerCrashed, TimedOut, UnexpectedFailure

Messages say what was found, what was needed and what to do, and no value of a patient attribute.
"""

from __future__ import annotations

from typing import Any, ClassVar


class SalmDicomError(Exception):
    """Base of every error raised on purpose."""

    code: ClassVar[str] = "E_UNEXPECTED"

    def __reduce__(self) -> tuple[Any, ...]:  # for other processes, whatever a constructor takes
        return self.__class__.__new__, (self.__class__, str(self)), self.__dict__


class PlanError(SalmDicomError):
    """A setting is out of range, unknown, or contradicts another one."""

    code = "E_PLAN"


class TooFew(PlanError):
    """There are not enough patients or labels to measure anything."""

    code = "E_TOO_FEW"


class UnsafeError(SalmDicomError):
    """Going on could overwrite or mix up data that is not ours."""

    code = "E_UNSAFE"


class DiskFull(SalmDicomError):
    """There is no space left for the output."""

    code = "E_NO_SPACE"


class Locked(SalmDicomError):
    """Another run is writing to the same output folder."""

    code = "E_LOCKED"


class PacsError(SalmDicomError):
    """A PACS cannot be reached, refuses, or broke off; what came through is kept."""

    code = "E_PACS"


class MismatchError(SalmDicomError):
    """A written instance is not what was meant; nothing of its series is kept."""

    code = "E_MISMATCH"


class Unmeasurable(SalmDicomError):
    """A metric cannot say anything of this volume; its row gives the reason."""

    code = "E_UNMEASURABLE"


class InputError(SalmDicomError):
    """A file or a series cannot be protected; the run lists it and goes on."""

    code = "E_INPUT"


class NotDicom(InputError):
    """The file is neither DICOM Part 10 nor single-file NIfTI."""

    code = "E_NOT_DICOM"


class EmptyFile(InputError):
    """The file has no bytes."""

    code = "E_EMPTY"


class NotRegularFile(InputError):
    """A fifo, socket, device, or a link that leads nowhere or out of the export."""

    code = "E_NOT_REGULAR"


class Unreadable(InputError):
    """The operating system refuses to open the file."""

    code = "E_PERMISSION"


class ParseError(InputError):
    """The data set cannot be parsed."""

    code = "E_PARSE"


class Truncated(InputError):
    """The file ends before the data set or the pixel data does."""

    code = "E_TRUNCATED"


class TooLarge(InputError):
    """The image is larger than what can be held in memory or written."""

    code = "E_TOO_LARGE"


class Bomb(InputError):
    """A small compressed data set grows beyond all reason when it is inflated."""

    code = "E_BOMB"


class MissingTag(InputError):
    """An attribute without which the pixels cannot be understood is missing."""

    code = "E_MISSING_TAG"


class BadValue(InputError):
    """An attribute has a value that cannot be used."""

    code = "E_BAD_VALUE"


class BadUid(InputError):
    """A UID is missing or is not a valid UID."""

    code = "E_BAD_UID"


class DuplicateUid(InputError):
    """Two different files carry one SOP Instance UID."""

    code = "E_DUPLICATE_UID"


class DuplicatePosition(InputError):
    """A file is a copy of one that is already in the series."""

    code = "E_DUPLICATE"


class NotImage(InputError):
    """The object is not an image (report, structure set, waveform, ...)."""

    code = "E_NOT_IMAGE"


class UnsupportedPixels(InputError):
    """The kind of pixels cannot be protected exactly."""

    code = "E_UNSUPPORTED_PIXELS"


class UnsupportedTransferSyntax(InputError):
    """The transfer syntax is unknown or has no decoder."""

    code = "E_TRANSFER_SYNTAX"


class DecodeError(InputError):
    """The pixel data cannot be decoded."""

    code = "E_DECODE"


class GeometryError(InputError):
    """Position or orientation is missing or contradictory."""

    code = "E_GEOMETRY"


class UnevenSpacing(InputError):
    """Slices of one series are not evenly spaced along their normal."""

    code = "E_SPACING"

    def __init__(self, gaps_mm: tuple[float, ...], reason: str = "") -> None:
        self.gaps_mm = gaps_mm
        what = reason or f"slices are {min(gaps_mm):g} to {max(gaps_mm):g} mm apart"
        super().__init__(
            f"{what}; a volume needs parallel slices with one spacing. "
            "Protect this series slice by slice: --extent slice"
        )


class NonLinearRescale(InputError):
    """Stored values do not map to modality values by one slope and intercept."""

    code = "E_RESCALE"


class AlreadyProtected(InputError):
    """The instance was written by salm_dicom."""

    code = "E_ALREADY_PROTECTED"


class Quantitative(InputError):
    """Pixel values are measurements that must not be changed."""

    code = "E_QUANTITATIVE"


class NotDeidentified(InputError):
    """The rules of de-identification cannot clean this kind of object."""

    code = "E_NOT_DEIDENTIFIED"


class NotTransferred(InputError):
    """A PACS did not send an instance, or did not take it."""

    code = "E_NOT_TRANSFERRED"


class Changed(InputError):
    """A source file changed between scan and write."""

    code = "E_CHANGED"


class NoModality(InputError):
    """Nothing says of which modality a NIfTI image is."""

    code = "E_NO_MODALITY"


class NoLabel(InputError):
    """The method needs a label and the table has none, or contradicts itself."""

    code = "E_NO_LABEL"


class NotChosen(InputError):
    """The operator did not want it: --include, --exclude."""

    code = "E_NOT_CHOSEN"


class NoChange(InputError):
    """The method found nothing to change within the budget."""

    code = "E_NO_CHANGE"


class NoForeground(NoChange):
    """The image has no anatomy to perturb (constant, or all air and padding)."""


class NotProtected(InputError):
    """A series of the source has no protected counterpart that can be compared with it."""

    code = "E_NOT_PROTECTED"


class WorkerCrashed(InputError):
    """The process that worked on the series, or decoded a file of it, died."""

    code = "E_CRASH"


class TimedOut(InputError):
    """Decoding a file took longer than a file of its size ever does."""

    code = "E_TIMEOUT"


class UnexpectedFailure(InputError):
    """An error that nobody foresaw; the log file has the frames."""

    code = "E_UNEXPECTED"
