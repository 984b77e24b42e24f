"""``graphopt profile``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.options import inputs_option, json_option, random_dim_option
from graphopt.cli.output import print_json, print_table
from graphopt.cli.samples import random_inputs, read_sample
from graphopt.units import counted, human_bytes

if TYPE_CHECKING:
    from graphopt.profile import KernelCost, Profile


@click.command("profile")
@click.argument("artifact", type=click.Path(path_type=Path))
@inputs_option("Inputs; random where missing.")
@random_dim_option
@click.option("--threads", type=click.IntRange(min=1), default=1, help="Number of threads.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=1.0, help="How long runs are measured."
)
@click.option("--top", type=click.IntRange(min=1), help="Only the kernels that take the most time.")
@json_option
def command(
    artifact: Path,
    data: Path | None,
    dims: dict[str, int],
    threads: int,
    seconds: float,
    top: int | None,
    as_json: bool,
) -> None:
    """Say where the time of ARTIFACT goes: each kernel, beside what the machine can do at most.

    Its kernels are timed while it runs, with the caches as they then are. Peak arithmetic and
    bandwidths are measured in the same process. Needs a C compiler.
    """
    from graphopt.profile import profile
    from graphopt.runtime.executable import refuse_model
    from graphopt.runtime.manifest import read
    from graphopt.runtime.threads import thread_count

    refuse_model(artifact)
    given = read_sample(data) if data is not None else {}
    inputs = random_inputs(read(artifact).inputs, 0, dims, given)
    found = profile(artifact, inputs, threads=thread_count(threads), seconds=seconds)
    if as_json:
        print_json(found.as_dict())
        return
    _print(artifact, found, top)


def _print(artifact: Path, found: Profile, top: int | None) -> None:
    machine = found.machine
    small, large = machine.bandwidths[0], machine.bandwidths[-1]
    click.echo(
        f"peak {machine.flops / 1e9:.0f} GFLOP/s; reads {small[1] / 1e9:.0f} GB/s from {human_bytes(small[0])}, "
        f"{large[1] / 1e9:.0f} GB/s from {human_bytes(large[0])}; a call {machine.call_seconds * 1e6:.2f} µs"
    )
    shown = found.kernels[:top]
    total = found.kernel_seconds or 1.0
    columns = ["kernel", "calls", "µs", "share", "GFLOP/s", "GB/s", "roof", "limit", "nodes"]
    rows = [_row(kernel, total) for kernel in shown]
    title = f"{artifact.name}, {counted(found.threads, 'thread')}"
    print_table(title, columns, rows, shorten=(0, len(columns) - 1))
    if len(shown) < len(found.kernels):
        rest = sum(kernel.seconds for kernel in found.kernels[len(shown) :])
        click.echo(f"{counted(len(found.kernels) - len(shown), 'more kernel')}: {rest * 1e6:.1f} µs")
    click.echo(
        f"a run {found.run_seconds * 1e6:.1f} µs, of which kernels {found.kernel_seconds * 1e6:.1f} µs "
        f"in {counted(sum(len(kernel.calls) for kernel in found.kernels), 'call')}"
    )


def _row(kernel: KernelCost, total: float) -> list[str]:
    seconds = kernel.seconds or 1e-9
    names = [call.node.partition('"')[2].rstrip('"') or call.node for call in kernel.calls]
    return [
        kernel.kernel,
        str(len(kernel.calls)),
        f"{seconds * 1e6:.1f}",
        f"{seconds / total:.1%}",
        "-" if kernel.flops is None else f"{kernel.flops / seconds / 1e9:.1f}",
        f"{kernel.bytes / seconds / 1e9:.1f}",
        f"{kernel.roofline:.0%}",
        kernel.limit,
        names[0] + (f" +{len(names) - 1}" if len(names) > 1 else ""),
    ]
