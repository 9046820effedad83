"""Tensors with a few plain values, as safetensors files: nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor


def tensor_file(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return a file of tensors, and of what JSON can say about them."""
    on_cpu = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    return save(on_cpu, metadata={"about": json.dumps(about)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `tensor_file` made a file of; tensors are copies."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return load(data), json.loads(header["__metadata__"]["about"])
