"""Work on all processors of the machine.

Threads are enough: TVM's passes and LLVM run outside of Python's lock, each job in a context of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_jobs(
    jobs: Mapping[str, Callable[[], T]],
    *,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> dict[str, T]:
    """What each job returns, by name and in the order given, whichever ends first.

    Args:
        workers: how many run at a time; as many as this process has processors when None.
        progress: called with (jobs done, jobs in all, name of the job waited for).

    Raises:
        BaseException: whatever a job raised, the first in order; those that had not begun never run.
    """
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)), "graphopt-compile")
    try:
        running = {name: pool.submit(job) for name, job in jobs.items()}
        results: dict[str, T] = {}
        for name, future in running.items():
            progress(len(results), len(jobs), name)
            results[name] = future.result()
        return results
    finally:
        pool.shutdown(cancel_futures=True)
