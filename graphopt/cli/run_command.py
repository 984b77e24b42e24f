"""``graphopt run``"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import inputs_option, json_option, random_dim_option
from graphopt.cli.output import print_json, print_table, require_writable, writing
from graphopt.cli.samples import random_inputs, read_sample
from graphopt.cli.signals import ended_by_signals
from graphopt.errors import InputError

if TYPE_CHECKING:
    from graphopt.ir.tensor import Array
    from graphopt.runtime import TensorSpec


@click.command("run")
@click.argument("artifact", type=click.Path(path_type=Path))
@inputs_option("The inputs by name: a file, or a folder with one.")
@click.option(
    "--random",
    "seed",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=0,
    metavar="[SEED]",
    help="Random inputs, with seed 0 if none is given.",
)
@random_dim_option
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
    from graphopt.runtime.archives import save_arrays

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
            arrays = inputs(executable.inputs)
            with ended_by_signals():
                results = executable(arrays)
            outputs = dict(zip((spec.name for spec in executable.outputs), results, strict=True))
    if output is not None:
        with writing(output) as partial:
            save_arrays(partial, outputs)
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
