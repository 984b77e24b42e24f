"""The file beside a ``.gir`` text that holds the data of its large constants.

A NumPy ``.npz`` archive, uncompressed, one member per constant, named after the hash of its
content. Elements that plain NumPy has no type for are stored as the bytes that hold them, strings
as JSON.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from graphopt.errors import TextError
from graphopt.ir.tensor import Array, Tensor
from graphopt.ir.types import DType, TensorType

_PLAIN = "biufc"


class Sidecar:
    """Constants by hash: those of a file, and those added since."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.tensors: dict[str, Tensor] = {}

    def add(self, tensor: Tensor) -> str:
        """Takes up a constant and gives its hash."""
        self.tensors.setdefault(tensor.digest, tensor)
        return tensor.digest

    def get(self, digest: str, dtype: DType, shape: tuple[int, ...], name: str = "") -> Tensor:
        """The constant with this hash; it is read, and its hash checked, at first use.

        Args:
            name: of the value that holds it, for the error when its data is nowhere.
        """
        if digest in self.tensors:
            return self.tensors[digest]
        path = self.path
        if path is None:
            return Tensor.missing(dtype, shape, digest, name)
        return Tensor(dtype, shape, lambda: _read(path, digest, dtype, shape), digest=digest)

    def save(self, path: Path) -> None:
        """Writes the constants that were added; one of them at a time is in memory."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for digest, tensor in self.tensors.items():
                # A fixed date, so that the same constants make the same bytes.
                info = zipfile.ZipInfo(f"{digest}.npy")
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _store(tensor), allow_pickle=False)
                tensor.release()


def _store(tensor: Tensor) -> Array:
    array = tensor.numpy()
    if tensor.dtype is DType.STR:
        items = [["b", i.decode("latin1")] if isinstance(i, bytes) else ["s", str(i)] for i in array.flat]
        return np.frombuffer(json.dumps(items).encode(), np.uint8)
    if tensor.dtype.numpy.kind in _PLAIN and tensor.dtype.numpy.isbuiltin == 1:
        return array
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _read(path: Path, digest: str, dtype: DType, shape: tuple[int, ...]) -> Array:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{digest}.npy") as member:
            stored = np.lib.format.read_array(member, allow_pickle=False)
        array = _restore(stored, dtype).reshape(shape)
    except Exception as error:  # What zipfile, NumPy and JSON make of damaged bytes has no common base.
        raise TextError(
            f"the constant #{digest} can't be read from {path.name}: {error}",
            hint="keep the sidecar file as it was written with the .gir",
        ) from error
    if Tensor(dtype, shape, lambda: array).digest != digest:
        raise TextError(f"the constant {TensorType(dtype, shape)} #{digest} in {path.name} is damaged")
    return array


def _restore(stored: Array, dtype: DType) -> Array:
    if dtype is not DType.STR:
        return stored if stored.dtype == dtype.numpy else stored.view(dtype.numpy)
    items = json.loads(stored.tobytes())
    array = np.empty(len(items), object)
    array[:] = [text.encode("latin1") if kind == "b" else text for kind, text in items]
    return array
