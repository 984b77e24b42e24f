"""``graphopt run``"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import json_option, parse_dims, read_sample
from graphopt.cli.output import print_json, print_table, require_writable
from graphopt.errors import InputError

if TYPE_CHECKING:
    from graphopt.ir.tensor import Array
    from graphopt.runtime import TensorSpec


@click.command("run")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "-i",
    "--inputs",
    "data",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="The inputs by name: a file, or a folder with one.",
)
@click.option(
    "--random",
    "seed",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=0,
    metavar="[SEED]",
    help="Random inputs, with seed 0 if none is given.",
)
@click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=N",
    callback=parse_dims,
    help="Size of a symbolic dimension of random inputs, else 1. Repeatable.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.npz", help="Where the outputs go."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Number of threads, at most 4 per core.  [default: all cores]",
)
@click.option("--no-check", is_flag=True, help="Don't check the artifact's hashes.")
@click.option("--emulate", is_flag=True, help="Run the artifact's aarch64 code under QEMU, on one thread.")
@json_option
def command(
    artifact: Path,
    data: Path | None,
    seed: int | None,
    dims: dict[str, int],
    output: Path | None,
    threads: int | None,
    no_check: bool,
    emulate: bool,
    as_json: bool,
) -> None:
    """Run ARTIFACT on inputs from a file or on random ones. Loading an artifact runs its code."""
    from graphopt import runtime

    if (data is None) == (seed is None):
        wrong = "give the inputs: either" if data is None else "give not both:"
        raise InputError(f"{wrong} --inputs FILE.npz or --random")
    if output is not None and output.suffix != ".npz":
        raise InputError(f"{output}: outputs are written as .npz", hint="end the name in .npz")
    if output is not None:
        require_writable(output)
    if dims and data is not None:
        raise InputError("--dim is for random inputs; those of a file have their sizes")

    def inputs(specs: Sequence[TensorSpec]) -> dict[str, Array]:
        return read_sample(data) if data is not None else random_inputs(specs, seed or 0, dims)

    if emulate:
        if threads is not None or no_check:
            raise InputError("--emulate goes with neither --threads nor --no-check")
        outputs = _emulated(artifact, inputs)
    else:
        with runtime.load(artifact, threads=threads, verify=not no_check) as executable:
            results = executable(inputs(executable.inputs))
            outputs = dict(zip((spec.name for spec in executable.outputs), results, strict=True))
    if output is not None:
        _write(output, outputs)
    rows = [_row(name, array) for name, array in outputs.items()]
    if as_json:
        print_json({"outputs": rows})
        return
    columns = ["output", "type", "min", "mean", "max"]
    print_table("", columns, [[_cell(cell) for cell in row.values()] for row in rows])


def _emulated(artifact: Path, inputs: Callable[[Sequence[TensorSpec]], dict[str, Array]]) -> dict[str, Array]:
    from graphopt.backend.cross import run_emulated
    from graphopt.runtime import manifest as manifests
    from graphopt.runtime.executable import refuse_model

    refuse_model(artifact)
    manifest = manifests.read(artifact)
    results = run_emulated(artifact, inputs(manifest.inputs))
    return dict(zip((spec.name for spec in manifest.outputs), results, strict=True))


def random_inputs(specs: Sequence[TensorSpec], seed: int, dims: dict[str, int]) -> dict[str, Array]:
    """Arrays for inputs of this kind; symbolic dimensions are 1 unless ``dims`` says more.

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


def _row(name: str, array: Array) -> dict[str, Any]:
    import numpy as np

    shape = "x".join(map(str, array.shape))
    row: dict[str, Any] = {"name": name, "type": f"{array.dtype}[{shape}]"}
    numbers = np.asarray(array, dtype=np.float64)
    with np.errstate(all="ignore"):
        for key, value in (("min", np.min), ("mean", np.mean), ("max", np.max)):
            row[key] = float(value(numbers)) if numbers.size else None
    return row


def _cell(cell: str | float | None) -> str:
    return "-" if cell is None else cell if isinstance(cell, str) else f"{cell:.6g}"


def _write(path: Path, arrays: dict[str, Array]) -> None:
    from graphopt.ir.files import replacing
    from graphopt.runtime.archives import save_arrays

    try:
        with replacing(path) as partial:
            save_arrays(partial, arrays)
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error
