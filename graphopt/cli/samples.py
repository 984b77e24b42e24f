"""Inputs of a model or an artifact: read from files, or made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
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


def random_inputs(specs: Sequence[TensorSpec], seed: int, dims: Mapping[str, int]) -> dict[str, Array]:
    """Arrays for inputs of this kind; symbolic dimensions are 1 unless ``dims`` says more, with a word on stderr.

    Raises:
        InputError: no input has a dimension of this name, or one does not fit into memory.
    """
    import numpy as np

    from graphopt.ir.dim_text import parse_dim
    from graphopt.ir.dims import evaluate, symbols
    from graphopt.runtime.dtypes import numpy_dtype

    shapes = [[parse_dim(str(dim)) for dim in spec.shape] for spec in specs]
    names = dict.fromkeys(name for shape in shapes for dim in shape for name in symbols(dim))
    for name in dims:
        if name not in names:
            known = ", ".join(names) or "none"
            raise InputError(f"no input has a dimension {name!r}", hint=f"the dimensions are {known}")
    if assumed := [name for name in names if name not in dims]:
        click.echo(
            f"note: {', '.join(assumed)} {'is' if len(assumed) == 1 else 'are'} 1 in random inputs; "
            f"for another size: {' '.join(f'--dim {name}=N' for name in assumed)}",
            err=True,
        )
    sizes = {name: dims.get(name, 1) for name in names}
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec, dimensions in zip(specs, shapes, strict=True):
        shape = tuple(evaluate(dim, sizes) for dim in dimensions)
        dtype = numpy_dtype(spec.dtype)
        try:
            if dtype.kind in "bui":
                arrays[spec.name] = generator.integers(0, 2, shape).astype(dtype)
            else:
                arrays[spec.name] = generator.standard_normal(shape).astype(dtype)
        except (MemoryError, ValueError) as error:
            raise InputError(f"input {spec.name!r} of shape {shape} does not fit into memory") from error
    return arrays
