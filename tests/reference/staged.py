"""Small MNIST-like datasets in the files that torchvision reads, made on the spot."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

IDX_UBYTE = 0x0800


def stage_idx(data_dir: Path, name: str, *, train: int, test: int) -> Path:
    """Write both sets of `name`; image number i is all of shade i, its label i % 10."""
    raw = data_dir / name / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        shades = np.arange(count, dtype=np.uint8)
        images = np.broadcast_to(shades[:, None, None], (count, 28, 28))
        _write_idx(raw / f"{prefix}-images-idx3-ubyte", np.ascontiguousarray(images))
        _write_idx(raw / f"{prefix}-labels-idx1-ubyte", shades % 10)
    return raw


def _write_idx(file: Path, array: np.ndarray) -> None:
    header = struct.pack(f">I{array.ndim}I", IDX_UBYTE + array.ndim, *array.shape)
    file.write_bytes(header + array.tobytes())
