"""Forked children call what their parent loaded; a child that hangs is killed after a while."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import ArgumentError
from graphopt.runtime import Executable, load
from tests.runtime.conftest import WEIGHT

X = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def right(executable: Executable) -> bool:
    return np.allclose(executable(X)[0], X * WEIGHT + 1, atol=1e-6)


def status_of_child(work: Callable[[], bool]) -> int:
    """The wait status of a forked child: 0 when ``work`` gives True there."""
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if work() else 1)
    return os.waitpid(child, 0)[1]


def test_a_forked_child_goes_on_calling(toy_path: Path) -> None:
    with load(toy_path, threads=2) as executable:
        assert right(executable)
        assert status_of_child(lambda: right(executable)) == 0
        assert right(executable)


def test_a_forked_child_loads_again_after_a_thread_of_its_own(toy_path: Path) -> None:
    with load(toy_path, threads=2) as executable:
        assert right(executable)

        def work() -> bool:
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()
            with load(toy_path, threads=2) as again:
                return right(again)

        assert status_of_child(work) == 0


def test_a_forked_child_ends_like_any_process(toy_path: Path) -> None:
    code = (
        "import os, signal, sys, numpy, graphopt.runtime as r\n"
        f"e = r.load({str(toy_path)!r}, threads=2); x = numpy.ones((64, 8), 'f4'); e(x)\n"
        "child = os.fork()\n"
        "if child == 0: signal.alarm(30); e(x); sys.exit(5)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 5


def test_a_fork_waits_for_calls_of_other_threads(toy_path: Path) -> None:
    """Else the child would inherit a lock that nobody gives back."""
    with load(toy_path, threads=1) as executable:
        stop = threading.Event()

        def call() -> None:
            while not stop.is_set():
                executable(X)

        thread = threading.Thread(target=call)
        thread.start()
        try:
            assert [status_of_child(lambda: right(executable)) for _ in range(5)] == [0] * 5
        finally:
            stop.set()
            thread.join()


def test_an_executable_is_not_pickled(toy: Executable) -> None:
    import pickle

    with pytest.raises(ArgumentError, match="can't be pickled"):
        pickle.dumps(toy)
