"""Runs the profiled process and gives back what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import EvaluationError, TargetError
from graphopt.ir.tensor import Array
from graphopt.profile.machine import machine_library, vector_lanes
from graphopt.profile.shim import shim_library
from graphopt.runtime.archives import save_arrays
from graphopt.runtime.executable import choose_variant
from graphopt.runtime.manifest import Manifest
from graphopt.targets import Target


@dataclass(frozen=True)
class Buffer:
    """A buffer that a call was passed: where, and how large, in bytes."""

    address: int
    bytes: int
    item_bytes: int


@dataclass(frozen=True)
class Call:
    """One call of a kernel in a run; ``seconds`` is the median over runs."""

    kernel: str
    seconds: float
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True)
class Machine:
    """What the machine reached beside the runs.

    Attributes:
        flops: float32 multiply-adds in registers, FLOP/s.
        bandwidths: pairs of the bytes that are read again and again, and bytes per second.
        call_seconds: a call of a kernel that does nothing, on all threads.
    """

    flops: float
    bandwidths: tuple[tuple[int, float], ...]
    call_seconds: float

    def bandwidth(self, distance: int) -> float:
        """Bytes per second of data that is touched again after ``distance`` other bytes."""
        return next((rate for size, rate in self.bandwidths if distance <= size), self.bandwidths[-1][1])


@dataclass(frozen=True)
class Measured:
    """What the profiled process measured."""

    calls: tuple[Call, ...]
    run_seconds: float
    runs: int
    machine: Machine


def measure(
    artifact: Path, manifest: Manifest, inputs: Mapping[str, Array], *, threads: int, seconds: float
) -> Measured:
    """Times every kernel call of an artifact while it runs, in a process of its own.

    Raises:
        EvaluationError: the artifact can't run on these inputs.
        TargetError: it holds no code for this machine, or its calls of kernels can't be seen.
        LinkError: there is no C toolchain.
    """
    variant = choose_variant(manifest, artifact)
    kernels, target = list(variant.kernels), Target.parse(variant.target)
    with tempfile.TemporaryDirectory(prefix="graphopt-profile-") as name:
        folder = Path(name)
        (folder / "shim.so").write_bytes(shim_library(kernels))
        (folder / "machine.so").write_bytes(machine_library(target, threads))
        save_arrays(folder / "inputs.npz", inputs)
        job = {
            "artifact": str(artifact.absolute()),
            "shim": str(folder / "shim.so"),
            "machine": str(folder / "machine.so"),
            "inputs": str(folder / "inputs.npz"),
            "threads": threads,
            "seconds": seconds,
            "lanes": vector_lanes(target),
        }
        (folder / "job.json").write_text(json.dumps(job))
        answer = _run(folder / "job.json")
    calls = tuple(
        Call(kernels[call["kernel"]], call["seconds"], tuple(Buffer(*buffer) for buffer in call["buffers"]))
        for call in answer["calls"]
    )
    if kernels and not calls:
        raise TargetError(
            f"{artifact} calls its kernels in a way that can't be followed",
            hint="artifacts of more than 256 different kernels look them up by name",
        )
    machine = answer["machine"]
    bandwidths = tuple((int(size), float(rate)) for size, rate in machine["bandwidths"])
    return Measured(
        calls,
        answer["run_seconds"],
        answer["runs"],
        Machine(machine["flops"], bandwidths, machine["call_seconds"]),
    )


def _run(job: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "graphopt.profile.worker", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        said = "".join(done.stderr.strip().splitlines()[-1:])
        raise EvaluationError(f"the profiled process ended with exit code {done.returncode}: {said}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise EvaluationError(answer["error"], hint=answer["hint"])
    return answer
