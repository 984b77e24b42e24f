"""How many threads kernels run on.

TVM keeps one pool of workers for each thread that calls, sized by half of the processors and pinned
to the first of them, wherever the process may run. Here each call sets the number that its
executable was loaded with, and workers may run wherever the calling thread may.
"""

from __future__ import annotations

import os
import threading

from graphopt.errors import InputError
from graphopt.runtime.library import Runtime

_SHARE_ALL_CORES = -3  # ThreadGroup::kSpecifyThreadShareAllCore


class _State(threading.local):
    current: int = 0
    pool: int = 0


_state = _State()


# More threads than that only wait for each other; TVM starts as many as it is told.
_MOST_PER_PROCESSOR = 4


def thread_count(threads: int | None) -> int:
    """The number of threads to use: what was asked for, or as many as this process has processors.

    Raises:
        InputError: the number is not a positive integer.
    """
    if threads is None:
        return len(os.sched_getaffinity(0))
    most = _MOST_PER_PROCESSOR * (os.cpu_count() or 1)
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most:
        raise InputError(f"threads must be a number from 1 to {most} on this machine, not {threads!r}")
    return threads


def use_threads(runtime: Runtime, threads: int) -> None:
    """Let kernels called from this thread run on ``threads`` threads, this one included."""
    if _state.current == threads:
        return
    if threads > 1 and _state.pool != threads:
        processors = sorted(os.sched_getaffinity(0))
        runtime.set_max_concurrency(threads)
        if _state.pool:
            runtime.reset_threads()
        else:
            runtime.start_threads()
        runtime.configure_threads(_SHARE_ALL_CORES, threads, [str(cpu) for cpu in processors])
        os.sched_setaffinity(0, processors)
        _state.pool = threads
    # Last, since configuring set it to the number of processors. With 1, kernels run inline.
    runtime.set_max_concurrency(threads)
    _state.current = threads
