"""Files of external tensor data: checked, opened once, mapped and never read as a whole.

Only files inside the folder of the model are opened (ONNX spec, "External Data"); a path that
leaves it, by ``..``, as an absolute path or through a symbolic link, is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir.tensor import Array, Tensor
from graphopt.ir.types import DType

_CHUNK = 4 << 20


class DataFile:
    """One file of external data, held open so that replacing it on disk changes nothing here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size
        self._bytes: np.memmap[Any, np.dtype[np.uint8]] | None = None

    def map(self) -> np.memmap[Any, np.dtype[np.uint8]]:
        """The whole file as a read-only memory map."""
        if self._bytes is None:
            self._bytes = np.memmap(self._file, dtype=np.uint8, mode="r")
        return self._bytes

    def chunks(self, offset: int, length: int) -> Iterator[bytes]:
        """The bytes in pieces, by plain reads that leave no pages mapped."""
        end = offset + length
        while offset < end:
            piece = os.pread(self._file.fileno(), min(_CHUNK, end - offset), offset)
            if not piece:
                raise ModelError(f"{self.path} became shorter while it was read")
            yield piece
            offset += len(piece)


@dataclass(frozen=True, slots=True)
class ExternalData:
    """Where the data of a tensor lies. The ``source`` of tensors that were not changed since import."""

    file: DataFile
    offset: int
    length: int
    dtype: DType
    shape: tuple[int, ...]

    def load(self) -> Array:
        """The data as a view on the mapped file; element types below a byte are unpacked to a copy."""
        if self.length == 0:
            return np.zeros(self.shape, self.dtype.numpy)
        raw = self.file.map()[self.offset : self.offset + self.length]
        if self.dtype.bits >= 8:
            return raw.view(self.dtype.numpy).reshape(self.shape)
        return unpack(raw, self.dtype, self.shape)

    def chunks(self) -> Iterator[bytes]:
        """The stored bytes in pieces."""
        return self.file.chunks(self.offset, self.length)


class ExternalFiles:
    """The data files beside one model.

    Args:
        folder: the model's folder; None for a model that came as bytes, which can't have any.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._open: dict[Path, DataFile] = {}

    def tensor(self, location: str, dtype: DType, shape: tuple[int, ...]) -> Tensor | None:
        """A tensor that is held elsewhere than in a file; here there are none."""
        return None

    def locate(self, location: str, where: str) -> DataFile:
        """The file at ``location``.

        Raises:
            ModelError: there is no folder, the path leaves it, or the file is missing.
        """
        if self.folder is None:
            raise ModelError(
                f'{where} has its data in the file "{location}", but the model was not read from a file',
                hint="load the model by its path",
            )
        if not location or "\0" in location or Path(location).is_absolute():
            raise self._outside(location, where)
        folder = self.folder.resolve()
        try:
            path = (folder / location).resolve()
            if not path.is_relative_to(folder):
                raise self._outside(location, where)
            if path not in self._open:
                if not path.is_file():
                    raise ModelError(
                        f'the data file "{location}" of {where} is not there',
                        hint=f"put it into {folder}, the model's folder",
                    )
                self._open[path] = DataFile(path)
        except (OSError, RuntimeError) as error:  # RuntimeError: a ring of symbolic links
            reason = error.strerror if isinstance(error, OSError) else "its links form a ring"
            raise ModelError(f'the data file "{location[:200]}" of {where}: {reason}') from error
        return self._open[path]

    def _outside(self, location: str, where: str) -> ModelError:
        return ModelError(
            f'{where} has its data in "{location}", which is outside the folder of the model',
            hint="external data must lie in the model's folder or below it",
        )

    def data(
        self, location: str, offset: int, length: int | None, dtype: DType, shape: tuple[int, ...], where: str
    ) -> ExternalData:
        """The data of one tensor, its place checked against the size of the file.

        Raises:
            ModelError: as :meth:`locate`, or the file is too short, or the length does not fit the shape.
        """
        file = self.locate(location, where)
        needed = packed_size(dtype, shape)
        length = needed if length is None else length
        if length != needed:
            raise ModelError(
                f"{where} of type {dtype.text}{list(shape)} needs {needed} bytes, "
                f'its entry in "{location}" has {length}'
            )
        if offset < 0 or offset + length > file.size:
            raise ModelError(
                f'{where} lies at bytes {offset} to {offset + length} of "{location}", '
                f"which has {file.size} bytes",
                hint="the data file is truncated or belongs to another model",
            )
        return ExternalData(file, offset, length, dtype, shape)


def packed_size(dtype: DType, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in ONNX's packed storage."""
    count = 1
    for dim in shape:
        count *= dim
    return (count * dtype.bits + 7) // 8


def unpack(raw: Array, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Elements of 2 or 4 bits, first element in the lowest bits, one per byte (ONNX spec, TensorProto)."""
    count = int(np.prod(shape, dtype=np.int64))
    per_byte = 8 // dtype.bits
    mask = (1 << dtype.bits) - 1
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(dtype.bits)
    codes = ((np.asarray(raw, np.uint8)[:, None] >> shifts) & np.uint8(mask)).reshape(-1)[:count]
    if dtype.name.startswith("I"):
        sign = np.uint8(1 << (dtype.bits - 1))
        signed = (codes ^ sign).astype(np.int8) - np.int8(sign)
        return signed.astype(dtype.numpy).reshape(shape)
    if dtype.name.startswith("U"):
        return codes.astype(dtype.numpy).reshape(shape)
    return codes.view(dtype.numpy).reshape(shape)
