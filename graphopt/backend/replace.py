"""Putting a finished directory in the place of another one, with no moment at which neither is there."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


def replace_directory(fresh: Path, target: Path) -> None:
    """Move ``fresh`` to ``target``; what was there ends up beside ``fresh``, for the caller to delete.

    Where the file system can exchange two names in one step, readers find the old or the new
    directory at every moment; elsewhere there is an instant between two renames.

    Raises:
        OSError: the file system refuses.
    """
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not target.exists():
            fresh.rename(target)
        elif not _exchange(fresh, target):
            target.rename(fresh.with_name("old"))
            fresh.rename(target)
        os.fsync(folder)
    finally:
        os.close(folder)


def _exchange(left: Path, right: Path) -> bool:
    """Exchange two names in one step; False where the system can't."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(right))
