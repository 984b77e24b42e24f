"""Ctrl-C and SIGTERM: commands clean up and end, at once where nothing has to be cleaned up."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

STOPPING = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""Signals that end a command, and what is said then."""
_GRACE = 5.0
"""Seconds after which a process ends that is still in the middle of something."""


def raise_when_stopped() -> list[signal.Signals]:
    """Makes the first such signal a KeyboardInterrupt; those that the caller's parent ignores stay ignored.

    Python hears of a signal only between two steps of its own. So where the process is still there some seconds
    later, inside compiled code for example, a thread ends it.

    Returns:
        The signals that came, in order.
    """
    came: list[signal.Signals] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))
        if len(came) == 1:  # A second one would only keep the first from cleaning up.
            raise KeyboardInterrupt

    _handle(stop)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def end() -> None:
        with reader, writer:
            number = reader.recv(1)[0]
            time.sleep(_GRACE)
            os._exit(128 + number)

    threading.Thread(target=end, daemon=True).start()
    return came


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Lets them end the process at once, for compiled code that may run long; nothing may need cleaning up."""
    before = _handle(signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


def _handle(handler: _Handler) -> dict[signal.Signals, _Handler]:
    """Sets the handler of the signals that are not ignored; what it was."""
    heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}
