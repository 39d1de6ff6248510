"""Writes small data files in each canonical format, byte by byte, for the tests of `ntkit.data`."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX format: 0, 0, type, axes, lengths as big-endian uint32, values."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, n_train: int = 40, n_test: int = 20, side: int = 4, packed: bool = False):
    """The four files of an MNIST-like set; returns (x_train, y_train, x_test, y_test) as bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    arrays = []
    for prefix, n in (("train", n_train), ("t10k", n_test)):
        images = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            content = idx_bytes(array)
            path = folder / f"{prefix}-{name}{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
        arrays += [images, labels]
    return tuple(arrays)


def write_cifar(folder: Path, n: int = 20, batches: int = 2):
    """CIFAR-10 binary files; returns the images (n, 3, 32, 32) and labels of each file, test last."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    written = []
    for name in [f"data_batch_{i + 1}.bin" for i in range(batches)] + ["test_batch.bin"]:
        images = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        records = b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True))
        (folder / name).write_bytes(records)
        written.append((images, labels))
    return written


def two_blobs(n: int = 20, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) inputs and their classes 0, 1, 0, 1, …"""
    rng = np.random.default_rng(3)
    y = np.arange(n) % 2
    return rng.standard_normal((n, d)) + y[:, None], y
