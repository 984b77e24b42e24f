"""Kernels of a graph that can be made in several ways, and making them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from graphopt.backend.calls import KernelCache, plan_calls
from graphopt.backend.constants import Constants
from graphopt.backend.layout import stored_shape, vector_bytes
from graphopt.backend.link import link_objects
from graphopt.backend.lower import Lowered, kernel_digest, lower_region
from graphopt.backend.memory import Blocks
from graphopt.backend.parallel import run_jobs
from graphopt.backend.region import KernelRegion, dtype_of, shape_of
from graphopt.backend.relax_build import build_kernel
from graphopt.errors import GraphoptError
from graphopt.ir.graph import Graph, Value
from graphopt.targets import Target


@dataclass
class Subject:
    """A kernel of the model that has knobs.

    Attributes:
        digest: what its choices are kept by.
        nodes: labels of the nodes that it computes, one for each call in a run.
    """

    digest: str
    name: str
    region: KernelRegion
    outputs: tuple[int, ...]
    nodes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Candidate:
    """A kernel made in one way.

    Attributes:
        answers: what was chosen otherwise than the models do.
        knobs: the options of each knob, the models' choice first.
        job: what the timing process needs to load it.
        function: its code before it was compiled.
    """

    answers: Mapping[str, str]
    knobs: Mapping[str, tuple[str, ...]]
    job: Mapping[str, Any]
    function: Any = None

    @property
    def id(self) -> str:
        """What the timing process knows it by."""
        return str(self.job["id"])


@dataclass(frozen=True)
class Subjects:
    """The kernels of a model.

    Attributes:
        tunable: those with knobs and static shapes, in program order.
        symbolic: how many have knobs, but sizes that are known only at the call.
        weight_bytes: what a run reads of constants.
    """

    tunable: list[Subject]
    symbolic: int
    weight_bytes: int


def subjects_of(graph: Graph, target: Target, kernel_error: float) -> Subjects:
    """The kernels that ``graph`` is compiled to.

    Raises:
        CompileError: an operator, or this use of it, can't be compiled.
    """
    constants = Constants(graph)
    blocks = Blocks(graph, constants.get, vector_bytes(target))
    found: dict[str, Subject] = {}
    symbolic: set[str] = set()
    weights: dict[Value, int] = {}
    for call in plan_calls(graph, KernelCache(target, kernel_error), constants, blocks):
        if call.lowered is None:
            continue
        for position in call.lowered.inputs:
            data = call.region.data[position]
            if data is not None:
                weights[call.region.outer[position]] = data.nbytes
        if not any(len(options) > 1 for options in call.lowered.knobs.values()):
            continue
        digest = kernel_digest(call.region, target, call.lowered.outputs, kernel_error)
        if call.region.symbols or call.lowered.symbols:
            symbolic.add(digest)
            continue
        subject = found.setdefault(digest, Subject(digest, call.name, call.region, call.lowered.outputs))
        subject.nodes.append(call.region.label)
    return Subjects(list(found.values()), len(symbolic), sum(weights.values()))


class Workshop:
    """Makes candidates and puts them into a folder.

    Args:
        far_bytes: what a run touches between two reads of the same weight.
    """

    def __init__(self, folder: Path, target: Target, kernel_error: float, far_bytes: int) -> None:
        self._folder = folder
        self._target = target
        self._kernel_error = kernel_error
        self._far_bytes = far_bytes
        self._made = 0
        self._files: dict[Any, dict[str, Any]] = {}

    def make(
        self, wanted: Iterable[tuple[Subject, Mapping[str, str]]], unlike: Candidate | None = None
    ) -> list[Candidate | None]:
        """Kernels with answers to their knobs, compiled side by side.

        Returns:
            None for one that can't be made, or is no other than ``unlike``.
        """
        lowered = [(subject, answers, self._lower(subject, answers, unlike)) for subject, answers in wanted]
        jobs = {
            str(index): partial(self._compile, subject.name, kernel)
            for index, (subject, _, kernel) in enumerate(lowered)
            if kernel is not None
        }
        libraries = run_jobs(jobs)
        candidates: list[Candidate | None] = []
        for index, (subject, answers, kernel) in enumerate(lowered):
            library = libraries.get(str(index))
            if kernel is None or library is None:
                candidates.append(None)
                continue
            self._made += 1
            path = self._folder / f"kernel{self._made}.so"
            path.write_bytes(library)
            candidates.append(self._candidate(subject, answers, kernel, path))
        return candidates

    def _lower(
        self, subject: Subject, answers: Mapping[str, str], unlike: Candidate | None
    ) -> Lowered | None:
        try:
            made = lower_region(subject.region, self._target, subject.outputs, self._kernel_error, answers)
        except GraphoptError:
            return None
        same = unlike is not None and tvm_ffi.structural_equal(made.function, unlike.function)
        return None if same else made

    def _compile(self, name: str, kernel: Lowered) -> bytes | None:
        try:
            return link_objects([build_kernel(name, kernel.function, self._target)], self._target)
        except GraphoptError:
            return None

    def _candidate(
        self, subject: Subject, answers: Mapping[str, str], kernel: Lowered, library: Path
    ) -> Candidate:
        region = subject.region
        results = [region.outputs[position] for position in kernel.outputs]
        job = {
            "id": library.stem,
            "library": str(library),
            "kernel": subject.name,
            "inputs": [self._input(region, kernel, position) for position in kernel.inputs],
            "outputs": [_output(value) for value in results],
        }
        return Candidate(dict(answers), kernel.knobs, job, kernel.function)

    def _input(self, region: KernelRegion, kernel: Lowered, position: int) -> dict[str, Any]:
        value, packed = region.inputs[position], kernel.packed.get(position)
        data = region.data[position]
        if data is None:
            return {"shape": stored_shape(value), "dtype": dtype_of(value), "seed": position}
        key = (region.outer[position], packed.form if packed is not None else None)
        if key not in self._files:
            array = data.numpy() if packed is None else packed.apply(data.numpy())
            path = self._folder / f"weight{len(self._files)}.bin"
            path.write_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            dtype = dtype_of(value) if packed is None else packed.dtype
            self._files[key] = {
                "path": str(path),
                "shape": array.shape,
                "dtype": dtype,
                "copies": min(_MOST_COPIES, max(1, -(-self._far_bytes // max(array.nbytes, 1)))),
            }
        return self._files[key]


# Of a small weight: with more, the gaps between them would take the time.
_MOST_COPIES = 16


def _output(value: Value) -> dict[str, Any]:
    channels = shape_of(value)[1] if value.tensor.channel_block > 1 else None
    return {"shape": stored_shape(value), "dtype": dtype_of(value), "channels": channels}
