"""The process that runs kernels while they are tuned: ``python -m graphopt.tune.worker``.

It takes one JSON question on each line of stdin and answers each on stdout. Weights are kept in as many
copies as lie between two runs of a kernel in the model, which calls take in turn, so that they come from
where they would come from there; what other kernels compute just before lies in the caches.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.runtime.dtypes import numpy_dtype
from graphopt.runtime.library import runtime
from graphopt.runtime.manifest import ALIGNMENT
from graphopt.runtime.tensors import Array, aligned_empty, export
from graphopt.runtime.threads import use_threads
from graphopt.targets import host_features

_SAMPLE = 5e-4  # seconds
_LONGEST = 10  # seconds of a race, if kernels are not very slow
_HOPELESS = 3
"""Rounds after which a candidate that lost them all is not measured further."""


@dataclass
class _Kernel:
    """A kernel with its arguments, in several copies that calls take in turn."""

    function: Any
    arguments: list[list[Any]]
    outputs: list[tuple[Array, int | None]]
    turn: int = 0

    def run(self) -> None:
        self.function(*self.arguments[self.turn])
        self.turn = (self.turn + 1) % len(self.arguments)

    def seconds(self, calls: int) -> float:
        """Of a call, over as many calls."""
        started = time.perf_counter()
        for _ in range(calls):
            self.run()
        return (time.perf_counter() - started) / calls


class _Bench:
    """Answers questions."""

    def __init__(self) -> None:
        self._kernels: dict[str, _Kernel] = {}
        self._inputs: dict[Any, Array] = {}
        self._runtime = runtime()

    def load(self, job: dict[str, Any]) -> None:
        """Makes a kernel callable; what was loaded before and is not in ``keep`` is let go."""
        import tvm_ffi

        self._kernels = {name: kernel for name, kernel in self._kernels.items() if name in job["keep"]}
        if not self._kernels:
            self._inputs = {}
        inputs = [self._copies(spec) for spec in job["inputs"]]
        outputs = [(_zeros(spec), spec["channels"]) for spec in job["outputs"]]
        results = [
            export(self._runtime, array, spec["dtype"])
            for (array, _), spec in zip(outputs, job["outputs"], strict=True)
        ]
        turns = max((len(copies) for copies in inputs), default=1)
        arguments = [[copies[turn % len(copies)] for copies in inputs] + results for turn in range(turns)]
        function = tvm_ffi.load_module(job["library"])[job["kernel"]]
        self._kernels[job["id"]] = _Kernel(function, arguments, outputs)

    def _copies(self, spec: dict[str, Any]) -> list[Any]:
        shape, dtype = tuple(spec["shape"]), numpy_dtype(spec["dtype"])
        if "path" in spec:
            data = np.frombuffer(Path(spec["path"]).read_bytes(), np.uint8)
            # One after the other, with memory behind the last: what follows a weight is fetched ahead, and in
            # an artifact too there are other weights.
            pitch = data.nbytes + -data.nbytes % ALIGNMENT
            room = aligned_empty((spec["copies"] + 1, pitch), np.dtype(np.uint8))
            room[:-1, : data.nbytes] = data
            room[-1] = 0
            return [
                export(self._runtime, copy[: data.nbytes].view(dtype).reshape(shape), spec["dtype"])
                for copy in room[:-1]
            ]
        key = (shape, spec["dtype"], spec["seed"])
        if key not in self._inputs:
            array = aligned_empty(shape, dtype)
            np.copyto(array, _random(shape, spec["dtype"], spec["seed"]), casting="unsafe")
            self._inputs[key] = array
        return [export(self._runtime, self._inputs[key], spec["dtype"])]

    def difference(self, job: dict[str, Any]) -> float:
        """The largest difference of two kernels' results, relative to the largest number of the first;
        infinite where integers or what is not a number differ."""
        worst = 0.0
        use_threads(self._runtime, 1)
        first, second = (self._kernels[job[name]] for name in ("first", "second"))
        first.run()
        second.run()
        for (left, channels), (right, _) in zip(first.outputs, second.outputs, strict=True):
            worst = max(worst, _difference(_counting(left, channels), _counting(right, channels)))
        return worst

    def race(self, job: dict[str, Any]) -> list[list[float]]:
        """Seconds of a call of each kernel in rounds in which they take turns."""
        use_threads(self._runtime, job["threads"])
        kernels = [self._kernels[name] for name in job["kernels"]]
        calls = [max(1, round(_SAMPLE / max(kernel.seconds(1), 1e-7))) for kernel in kernels]
        rounds: list[list[float]] = []
        end = time.perf_counter() + _LONGEST
        while len(rounds) < job["rounds"] and (len(rounds) < _HOPELESS or time.perf_counter() < end):
            # Who goes first changes, since the first may find colder caches.
            order = list(enumerate(kernels))[:: 1 if len(rounds) % 2 else -1]
            times = {index: kernel.seconds(calls[index]) for index, kernel in order}
            rounds.append([times[index] for index in range(len(kernels))])
            if (
                len(rounds) == _HOPELESS
                and all(times[-1] > times[0] for times in rounds)
                and len(kernels) > 1
            ):
                break
        return rounds


def _zeros(spec: dict[str, Any]) -> Array:
    array = aligned_empty(tuple(spec["shape"]), numpy_dtype(spec["dtype"]))
    array.reshape(-1).view(np.uint8).fill(0)
    return array


def _random(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    """Numbers of both signs; of wide integers, which may be indices of anything, only 0."""
    generator = np.random.default_rng(seed)
    if "float" in dtype:
        return generator.random(shape, np.float32) * 2 - 1
    if dtype in ("int8", "uint8"):
        return generator.integers(0, 127, shape, np.int8)
    return np.zeros(shape, np.int8)


def _counting(array: Array, channels: int | None) -> Array:
    """The elements that count of a value with its channels in blocks, see :mod:`graphopt.backend.layout`."""
    if channels is None:
        return array
    moved = np.moveaxis(array, -1, 2)
    return moved.reshape(moved.shape[0], -1, *moved.shape[3:])[:, :channels]


def _difference(left: Array, right: Array) -> float:
    if left.dtype.kind in "biu":
        return 0.0 if np.array_equal(left, right) else float("inf")
    left, right = left.astype(np.float64), right.astype(np.float64)
    finite = np.isfinite(left)
    same = np.array_equal(left[~finite], right[~finite], equal_nan=True)
    if not same or not np.isfinite(right[finite]).all():
        return float("inf")
    scale = np.abs(left[finite]).max(initial=0.0)
    return float(np.abs(left[finite] - right[finite]).max(initial=0.0) / (scale or 1.0))


def main() -> None:
    """Answers until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    host_features()  # Asks Linux for the registers that some kernels need.
    bench = _Bench()
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = {"answer": getattr(bench, job["do"])(job)}
        except (RuntimeError, ValueError, TypeError, AttributeError, OSError, MemoryError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
