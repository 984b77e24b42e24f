"""Inputs of a model or an artifact: read from files, or made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from graphopt.errors import InputError

if TYPE_CHECKING:
    from graphopt.ir.tensor import Array
    from graphopt.runtime import TensorSpec

_NPZ = "write the inputs by name: numpy.savez(path, x=array)"


def read_samples(path: Path | None) -> list[dict[str, Array]]:
    """The samples of an ``.npz`` file (one) or of a folder of them (one each, by name); none for None.

    Raises:
        InputError: missing, empty, or not .npz files.
    """
    if path is None:
        return []
    if not path.is_dir():
        return [read_arrays(path)]
    files = sorted(path.glob("*.npz"))
    if not files:
        raise InputError(f"{path}: there is no .npz file in this folder")
    return [read_arrays(file) for file in files]


def read_sample(path: Path) -> dict[str, Array]:
    """The one sample of an ``.npz`` file, or of a folder that holds one such file.

    Raises:
        InputError: as :func:`read_samples`, or the folder holds more.
    """
    samples = read_samples(path)
    if len(samples) > 1:
        raise InputError(f"{path}: holds {len(samples)} samples", hint="name one of its files")
    return samples[0]


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` file by name.

    Raises:
        InputError: missing, empty or not an .npz file.
    """
    import numpy as np

    try:
        with path.open("rb") as stream:
            start = stream.read(6)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    if start == b"\x93NUMPY":
        raise InputError(f"{path}: is an .npy file, one array without a name", hint=_NPZ)
    if start[:2] != b"PK":
        raise InputError(f"{path}: is not an .npz file", hint=_NPZ)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # What zipfile and NumPy make of damaged bytes has no common base.
        raise InputError(f"{path}: not an .npz file of plain arrays ({error})", hint=_NPZ) from error
    if not arrays or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise InputError(
            f"{path}: an .npz file that holds {'other things than' if arrays else 'no'} arrays", hint=_NPZ
        )
    return arrays


def random_inputs(
    specs: Sequence[TensorSpec],
    seed: int,
    dims: Mapping[str, int],
    given: Mapping[str, Array] = MappingProxyType({}),
) -> dict[str, Array]:
    """Arrays for all inputs: those that are given, and random ones. Symbolic dimensions are what ``dims`` says or
    given arrays have, else 1 with a word on stderr.

    Raises:
        InputError: no input has a dimension of this name, or one does not fit into memory.
    """
    import numpy as np

    from graphopt.ir.dim_text import parse_dim
    from graphopt.ir.dims import evaluate, symbols
    from graphopt.runtime.dtypes import numpy_dtype

    shapes = {spec.name: [parse_dim(str(dim)) for dim in spec.shape] for spec in specs}
    known = {name for shape in shapes.values() for dim in shape for name in symbols(dim)}
    for name in dims:
        if name not in known:
            hint = f"the dimensions are {', '.join(sorted(known)) or 'none'}"
            raise InputError(f"no input has a dimension {name!r}", hint=hint)
    sizes = dict(dims)
    for name in shapes.keys() & given.keys():
        for dim, size in zip(shapes[name], given[name].shape, strict=False):
            if [str(dim)] == list(symbols(dim)):
                sizes.setdefault(str(dim), size)
    missing = [spec for spec in specs if spec.name not in given]
    names = dict.fromkeys(name for spec in missing for dim in shapes[spec.name] for name in symbols(dim))
    if assumed := [name for name in names if name not in sizes]:
        click.echo(
            f"note: {', '.join(assumed)} {'is' if len(assumed) == 1 else 'are'} 1 in random inputs; "
            f"for another size: {' '.join(f'--dim {name}=N' for name in assumed)}",
            err=True,
        )
    sizes.update(dict.fromkeys(assumed, 1))
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = dict(given)
    for spec in missing:
        shape = tuple(evaluate(dim, sizes) for dim in shapes[spec.name])
        dtype = numpy_dtype(spec.dtype)
        try:
            if dtype.kind in "bui":
                arrays[spec.name] = generator.integers(0, 2, shape).astype(dtype)
            else:
                arrays[spec.name] = generator.standard_normal(shape).astype(dtype)
        except (MemoryError, ValueError) as error:
            raise InputError(f"input {spec.name!r} of shape {shape} does not fit into memory") from error
    return arrays
