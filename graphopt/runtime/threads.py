"""How many threads kernels run on.

TVM keeps one pool of workers for each thread that calls, sized by half of the processors and pinned
to the first of them, wherever the process may run. Here each call sets the number that its
executable was loaded with, and workers may run wherever the calling thread may.

A forked child has none of its parent's threads, and TVM's pool waits for them forever when it is
used, and, if they were asleep, also when it is started again or cleared away at exit. New workers
spin for a tenth of a second before they sleep. So the thread that forks starts them anew just before,
and again in the child.
"""

from __future__ import annotations

import os
import threading
import time

from graphopt.errors import InputError
from graphopt.runtime.library import Runtime, runtime

_SHARE_ALL_CORES = -3  # ThreadGroup::kSpecifyThreadShareAllCore
_SPINNING = 0.03  # seconds for which new workers surely don't sleep; 300,000 yields take several times that


class _State(threading.local):
    current: int = 0
    pool: int = 0
    restarted: float = 0.0
    single: bool = False


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
    if _state.single:
        threads = 1
    if _state.current == threads:
        return
    if threads > 1 and (_state.pool != threads or _state.restarted):
        processors = sorted(os.sched_getaffinity(0))
        runtime.set_max_concurrency(threads)
        if not _state.pool:
            runtime.start_threads()
        elif _state.pool != threads:
            runtime.reset_threads()
        runtime.configure_threads(_SHARE_ALL_CORES, threads, [str(cpu) for cpu in processors])
        os.sched_setaffinity(0, processors)
        _state.pool, _state.restarted = threads, 0.0
    # Last, since configuring set it to the number of processors. With 1, kernels run inline.
    runtime.set_max_concurrency(threads)
    _state.current = threads


def _restart_workers() -> None:
    """Ends the workers of this thread and starts others, that wait for work by spinning."""
    if _state.pool:
        library = runtime()
        processors = os.sched_getaffinity(0)
        library.reset_threads()
        os.sched_setaffinity(0, processors)
        _state.current, _state.restarted = 0, time.monotonic()


def _after_fork() -> None:
    # At once: a new thread could take the place in memory of a lost worker, and be joined for it.
    if not _state.pool:
        return
    if time.monotonic() - _state.restarted < _SPINNING and "TVM_THREAD_POOL_SPIN_COUNT" not in os.environ:
        _restart_workers()
    else:
        _state.single = True


os.register_at_fork(before=_restart_workers, after_in_child=_after_fork)
