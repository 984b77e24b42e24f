"""The process that is profiled: ``python -m graphopt.profile.worker JOB.json`` prints what it measured as JSON.

It runs the artifact's own code with the shim in between, so that memory, caches and order of calls
are those of a real run. Runs that are noted and runs that are not take turns.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.profile.machine import ACCUMULATORS, LINES, STEPS

_WARM_UP = 3
_MIN_RUNS = 5
_MAX_CALLS = 1 << 16
_MAX_BUFFERS = 1 << 20
_SIZES = tuple(1 << bits for bits in (14, 17, 20, 22, 24, 26, 28))
"""Bytes of the working sets for which the bandwidth is measured."""
_MEASURE = 0.02  # seconds


def main(job_path: str) -> None:
    """Profiles, prints, ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        answer = _profile(json.loads(Path(job_path).read_text()))
    except GraphoptError as error:
        answer = {"error": error.message, "hint": error.hint}
    print(json.dumps(answer), file=answers, flush=True)


def _profile(job: dict[str, Any]) -> dict[str, Any]:
    from graphopt import runtime

    shim = ctypes.CDLL(job["shim"], mode=ctypes.RTLD_GLOBAL)
    shim.graphopt_profile_record.argtypes = [ctypes.c_void_p, ctypes.c_int64] * 2
    shim.graphopt_profile_record.restype = None
    shim.graphopt_profile_count.restype = ctypes.c_int64
    shim.graphopt_profile_call.restype = ctypes.c_int64
    shim.graphopt_profile_call.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64]
    executable = runtime.load(job["artifact"], threads=job["threads"])
    library = Path(job["artifact"]) / executable.variant.library
    if not shim.graphopt_profile_open(os.fsencode(library)):
        raise GraphoptError(f"{library} has none of the kernels that the manifest names")
    with np.load(job["inputs"]) as archive:
        inputs = {name: archive[name] for name in archive.files}
    for _ in range(_WARM_UP):
        executable(inputs)
    machine = _Machine(job, shim)
    machine.measure()
    events = np.zeros((_MAX_CALLS, 4), np.int64)
    buffers = np.zeros((_MAX_BUFFERS, 3), np.int64)
    shim.graphopt_profile_record(events.ctypes.data, len(events), buffers.ctypes.data, len(buffers))
    executable(inputs)
    count = shim.graphopt_profile_count()
    calls = _calls(events[:count], buffers)
    runs: list[float] = []
    noted: list[Any] = []
    end = time.perf_counter() + job["seconds"]
    while len(runs) < _MIN_RUNS or time.perf_counter() < end:
        shim.graphopt_profile_record(None, 0, None, 0)
        runs.append(_timed(lambda: executable(inputs)))
        shim.graphopt_profile_record(events.ctypes.data, len(events), None, 0)
        executable(inputs)
        noted.append((events[:count, 1] - events[:count, 0]).copy())
    shim.graphopt_profile_record(None, 0, None, 0)
    machine.measure()
    times = np.array(noted).reshape(len(noted), count)
    for index, call in enumerate(calls):
        call["seconds"] = float(np.median(times[:, index])) * 1e-9
    return {
        "calls": calls,
        "run_seconds": statistics.median(runs),
        "runs": len(runs),
        "machine": machine.found(),
    }


def _calls(events: Any, buffers: Any) -> list[dict[str, Any]]:
    calls, start = [], 0
    for _, _, kernel, count in events.tolist():
        calls.append({"kernel": kernel, "buffers": buffers[start : start + count].tolist()})
        start += count
    return calls


class _Machine:
    """Measures the machine; the best of several measurements counts."""

    def __init__(self, job: dict[str, Any], shim: Any) -> None:
        import tvm_ffi

        self._path, self._shim = os.fsencode(job["machine"]), shim
        module = tvm_ffi.load_module(job["machine"])
        self._peak, self._read = module["peak"], module["read"]
        self._threads, self._lanes = job["threads"], job["lanes"]
        self._data = _aligned(_SIZES[-1] // 4)
        self._rates = dict.fromkeys(_SIZES, 0.0)
        self._flops, self._call = 0.0, float("inf")

    def measure(self) -> None:
        """Measures everything once more."""
        accumulators = self._threads * ACCUMULATORS * self._lanes
        x = _aligned(3 * self._lanes)
        x[:] = np.repeat([1, 0.5, 0.25], self._lanes)
        taken = _best(self._peak, x, _aligned(accumulators))
        self._flops = max(self._flops, 2 * STEPS * accumulators / taken)
        sums = _aligned(self._threads * LINES * self._lanes)
        for size in _SIZES:
            elements = size // 4 // len(sums) * len(sums)
            times = max(1, (1 << 23) // size)
            taken = _best(self._read, self._data[:elements], _aligned(times), sums)
            self._rates[size] = max(self._rates[size], 4 * elements * times / taken)
        nothing = _aligned(self._threads)
        nanoseconds = self._shim.graphopt_profile_call(
            self._path, b"__tvm_ffi_nothing", nothing.ctypes.data, self._threads
        )
        self._call = min(self._call, nanoseconds * 1e-9)

    def found(self) -> dict[str, Any]:
        """What was measured: FLOP/s, bytes per second by the size of what is read, seconds of a call."""
        return {
            "flops": self._flops,
            "bandwidths": sorted(self._rates.items()),
            "call_seconds": self._call,
        }


def _aligned(size: int) -> Any:
    from graphopt.runtime.tensors import aligned_empty

    array = aligned_empty((size,), np.dtype(np.float32))
    array.fill(1)
    return array


def _best(kernel: Callable[..., object], *arrays: Any) -> float:
    """Seconds of the fastest of several calls."""
    import tvm_ffi

    tensors = [tvm_ffi.from_dlpack(array) for array in arrays]
    best, end = float("inf"), time.perf_counter() + _MEASURE
    while time.perf_counter() < end or best == float("inf"):
        best = min(best, _timed(lambda: kernel(*tensors)))
    return best


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(*sys.argv[1:])
