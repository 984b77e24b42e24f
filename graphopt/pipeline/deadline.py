"""Stops a pass that takes too long, also one that never comes back to graphopt.

A thread of its own watches the clock and then raises :class:`Overdue` inside the thread that runs the
pass (``PyThreadState_SetAsyncExc``), whichever that is: signals would reach the main thread alone. Python
raises it at the next function call or jump. The watcher looks at the stack first and waits while the graph
is being changed, so that the rewriter can undo an open transaction as after any other exception; it raises once. Code that
does not come back to Python (a long call of a C library, ``time.sleep``), or that catches
BaseException, is out of reach: after a grace period ``abandon`` is called, if there is one. C code that
keeps Python's lock lets no thread of Python's do even that: then ``faulthandler``, whose thread needs no lock,
writes the stack and ends the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from graphopt.ir import edits, rewriter
from graphopt.ir.rewriter import Rewriter

_GRACE = 2.0
"""Seconds that an overdue pass gets before it is abandoned, and then before the process is ended from outside."""
_AGAIN = 0.005
"""Seconds between two tries to send the exception."""
_TRIES = 1000
_CHANGING = frozenset({rewriter.__file__, edits.__file__})
"""What a frame of lies in while a graph is half changed, unless one of these is further in:"""
_BETWEEN = frozenset({Rewriter.analysis.__code__, Rewriter._infer.__code__, Rewriter._tell.__code__})
"""Where the rewriter calls code of others, and what it changed is whole or can be undone."""


class Overdue(BaseException):
    """The time is up. Not an Exception, so that a pass does not catch it by the way."""


@contextlib.contextmanager
def deadline(seconds: float | None, abandon: Callable[[str], None] | None = None) -> Iterator[None]:
    """Raises :class:`Overdue` inside the block when it takes longer than ``seconds``; None: never.

    Args:
        abandon: called, in another thread, with the place (``FILE:LINE``) where the block hangs, when it
            still runs 2 seconds later.
    """
    if seconds is None:
        yield
        return
    watch = _Watch(seconds, abandon)
    stderr = sys.__stderr__ if abandon is not None else None
    if stderr is not None:
        faulthandler.dump_traceback_later(seconds + 2 * _GRACE, exit=True, file=stderr)
    try:
        yield
    finally:
        if stderr is not None:
            faulthandler.cancel_dump_traceback_later()
        # The one exception that there is may arrive in the first call, anywhere.
        try:
            watch.stop()
        finally:
            watch.stop()


class _Watch:
    def __init__(self, seconds: float, abandon: Callable[[str], None] | None) -> None:
        self._seconds = seconds
        self._abandon = abandon
        self._watched = threading.get_ident()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._sent = False
        self._arrived = False
        arrive = self._arrive

        class Mine(Overdue):
            def __init__(self) -> None:
                arrive()

        self._exception = Mine
        threading.Thread(target=self._run, name="graphopt-deadline", daemon=True).start()

    def stop(self) -> None:
        """From here on nothing is raised any more.

        What was sent is waited for: taken back, it would leave CPython 3.11 looking for it for ever, and
        a traced function would not begin.
        """
        with contextlib.suppress(Overdue), self._lock:
            self._stopped.set()
        for _ in range(_TRIES):  # It does not arrive twice where C code has dropped it.
            if self._arrived or not self._sent:
                return
            with contextlib.suppress(Overdue):
                time.sleep(0)

    def _arrive(self) -> None:
        self._arrived = True

    def _run(self) -> None:
        left = self._seconds
        grace = _GRACE
        while not self._stopped.wait(left):
            if grace <= 0 and self._abandon is not None:
                self._abandon(_place(sys._current_frames().get(self._watched)))
                return
            with self._lock:
                if self._stopped.is_set():
                    return
                # Once and no more: sent again, it could reach what handles the first.
                self._sent = self._sent or self._try()
            left = _AGAIN
            grace -= left

    def _try(self) -> bool:
        """Sends the exception, unless the graph is half changed."""
        frame = sys._current_frames().get(self._watched)
        while frame is not None and frame.f_code not in _BETWEEN:
            if frame.f_code.co_filename in _CHANGING:
                return False
            frame = frame.f_back
        kind = ctypes.py_object(self._exception)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._watched), kind)
        return True


def _place(frame: FrameType | None) -> str:
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
