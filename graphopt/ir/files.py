"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def destination(path: Path) -> Path:
    """Where a file of this name really goes: behind symbolic links.

    Raises:
        OSError: a device, pipe or folder is there, which must not be replaced by a file.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(0, "something that is not a plain file is there", str(path))
    return target


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside ``path``, which takes its place when the block ends well and goes when not.

    Raises:
        OSError: it can't be written, or something that is not a plain file is at ``path``.
    """
    target = destination(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
