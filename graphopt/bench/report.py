"""Several comparisons together: what was measured, on which machine, and how the ratios average."""

from __future__ import annotations

import datetime
import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.bench.compare import Comparison


@dataclass(slots=True)
class Report:
    """Comparisons of one run of the benchmark.

    Attributes:
        command: what reproduces it.
        rounds: how many times each engine was measured.
        seconds: how long each time.
        machine: what it ran on, by what it says.
        day: when.
        failed: what is wrong with models that could not be measured, a paragraph each that names the model.
    """

    comparisons: Sequence[Comparison]
    command: str
    rounds: int
    seconds: float
    machine: dict[str, str] = field(default_factory=lambda: describe_machine())
    day: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date().isoformat())
    failed: Sequence[str] = ()

    @property
    def threads(self) -> list[int]:
        """The numbers of threads that were measured."""
        return list(dict.fromkeys(comparison.threads for comparison in self.comparisons))

    @property
    def engines(self) -> dict[str, str]:
        """Titles of all engines by name, with their versions, in order."""
        return {
            result.engine: f"{result.title} {result.version}".strip()
            for comparison in self.comparisons
            for result in comparison.results
        }

    def of_threads(self, threads: int) -> list[Comparison]:
        """The comparisons with so many threads."""
        return [comparison for comparison in self.comparisons if comparison.threads == threads]

    def mean_ratio(self, engine: str, threads: int) -> float | None:
        """Geometric mean over the models of an engine's time by the fastest other engine's."""
        ratios = [
            ratio
            for comparison in self.of_threads(threads)
            if any(result.engine == engine for result in comparison.results)
            and (ratio := comparison.ratio(engine)) is not None
        ]
        return math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "command": self.command,
            "day": self.day,
            "machine": self.machine,
            "engines": self.engines,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
            "failed": list(self.failed),
            "mean_ratios": [
                {"threads": threads, **{name: self.mean_ratio(name, threads) for name in self.engines}}
                for threads in self.threads
            ],
        }


def describe_machine() -> dict[str, str]:
    """Processor, cores that this process may use, memory, system."""
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model.group(1) if model else platform.machine(),
        "processors used": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }
