"""The process in which one engine lives: ``python -m graphopt.bench.worker ENGINE FILE INPUTS.npz OUTPUTS.npz THREADS``.

It loads, warms up and writes its outputs, and says how long loading took, or why it failed. Then it answers each line on stdin (seconds to measure)
with a line of JSON on stdout (milliseconds of each call).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from graphopt.bench.engines import ENGINES

_WARM_UP_CALLS = 3
_MIN_CALLS = 3


def main(engine: str, file: str, inputs_path: str, outputs_path: str, threads: str) -> None:
    """Serves measurements until stdin ends."""
    # Libraries print to stdout as they like; the answers go to a copy of it that they don't have.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with np.load(inputs_path) as archive:
        inputs = {name: archive[name] for name in archive.files}
    try:
        started = time.perf_counter()
        run = ENGINES[engine](Path(file), int(threads))
        load_seconds = time.perf_counter() - started
        outputs = run(inputs)
    except Exception as error:  # Engines raise what they like; the other process says it to the user.
        print(json.dumps({"error": " ".join(str(error).split())}), file=answers)
        return
    np.savez(outputs_path, *outputs)
    for _ in range(_WARM_UP_CALLS - 1):
        run(inputs)
    print(json.dumps({"load_seconds": load_seconds}), file=answers)
    for line in sys.stdin:
        print(json.dumps(_measure(lambda: run(inputs), float(line))), file=answers)


def _measure(call: object, seconds: float) -> list[float]:
    assert callable(call)
    times: list[float] = []
    call()
    end = time.perf_counter() + seconds
    while len(times) < _MIN_CALLS or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    return times


if __name__ == "__main__":
    main(*sys.argv[1:])
