"""The process in which one engine lives: ``python -m graphopt.bench.worker JOB.json``.

It loads, warms up and writes its outputs, and says what that took, or why it failed. Then it answers
each line on stdin (seconds to measure) with a line of JSON on stdout (milliseconds of each call), and
``memory`` with the most memory that it held.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.bench.engines import Job, engine

_WARM_UP_CALLS = 3
_MIN_CALLS = 3


def main(job_path: str) -> None:
    """Serves measurements until stdin ends."""
    # Libraries print to stdout as they like; the answers go to a copy of it that they don't have.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job: dict[str, Any] = json.loads(Path(job_path).read_text())
    with np.load(job["inputs"]) as archive:
        inputs = {name: archive[name] for name in archive.files}
    try:
        chosen = engine(job["engine"])
        chosen.prepare(job["threads"])
        before = _forget_peak()
        started = time.perf_counter()
        run = chosen.load(Job(Path(job["file"]), job["threads"], job["shapes"], job["symbols"]))
        loaded = time.perf_counter()
        outputs = [np.array(output) for output in run(inputs)]
        first = time.perf_counter()
    except Exception as error:  # Engines raise what they like; the other process says it to the user.
        print(json.dumps({"error": " ".join(str(error).split()) or type(error).__name__}), file=answers)
        return
    np.savez(job["outputs"], *outputs)
    for _ in range(_WARM_UP_CALLS - 1):
        run(inputs)
    said = {"load_seconds": loaded - started, "first_ms": (first - loaded) * 1e3}
    print(json.dumps({**said, "precision": chosen.precision}), file=answers)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(json.dumps(max(_status("VmHWM") - before, 0)), file=answers)
        else:
            print(json.dumps(_measure(lambda: run(inputs), float(line))), file=answers)


def _measure(call: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    call()
    end = time.perf_counter() + seconds
    while len(times) < _MIN_CALLS or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def _forget_peak() -> int:
    """Lets the count of the most memory held start anew; bytes that are held now."""
    with contextlib.suppress(OSError):  # Not allowed everywhere; the peak of importing then counts too.
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    """Bytes that Linux gives in ``/proc/self/status``; 0 where it does not."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) << 10 if found else 0


if __name__ == "__main__":
    main(*sys.argv[1:])
