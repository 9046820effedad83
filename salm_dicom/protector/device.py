"""Device: where surrogates run, as an operator asks for it."""

from __future__ import annotations

from salm_dicom.errors import PlanError


def other_kind(device: str) -> tuple[str, ...]:
    """Return what kind of device it is where that is no CPU: sums come out otherwise there."""
    kind = device.partition(":")[0]
    return () if kind == "cpu" else (kind,)


def device_of(asked: str) -> str:
    """Return torch's name of what `--device` asks for: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises
    ------
    PlanError
        It is not understood, or not there.
    """
    import torch

    if asked == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    name, _, number = asked.partition(":")
    if asked == "cpu":
        return asked
    if name != "cuda" or not (number or "0").isdecimal():
        raise PlanError("a device is auto, cpu, cuda or cuda:N")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= there:
        raise PlanError(
            f"device {name}:{number or 0} was asked for; torch {torch.__version__} finds {there} "
            "CUDA devices here. Use --device cpu, or a torch built for the GPU"
        )
    return f"{name}:{number or 0}"
