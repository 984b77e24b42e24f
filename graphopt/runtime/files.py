"""Opening the files of an artifact: inside its directory, of the right size, with the right content."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from graphopt.errors import ArtifactError

HINT = "compile the model again or fetch the artifact again"


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and SHA-256 (hex) of one file of the artifact."""

    nbytes: int
    sha256: str


def open_plain(path: Path) -> tuple[int, int]:
    """A descriptor for reading a plain file, and the file's size in bytes.

    Symbolic links, pipes and devices are refused without being followed or waited for.

    Raises:
        ArtifactError: it is missing or not a plain file.
    """
    if path.is_symlink():
        raise ArtifactError(f"{path} is a symbolic link; an artifact holds only plain files", hint=HINT)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing from the artifact", hint=HINT) from None
    except OSError as error:
        raise ArtifactError(f"{path} can't be opened: {error.strerror}", hint=HINT) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path} is not a plain file", hint=HINT)
    return descriptor, found.st_size


def map_file(folder: Path, name: str, record: FileRecord, *, verify: bool) -> npt.NDArray[np.uint8]:
    """Map the file ``name`` of the artifact read-only and check it against its record.

    The pages are shared with every process that maps the file; the mapping lives as long as the array.

    Raises:
        ArtifactError: the file is missing, not plain, of another size, or its SHA-256 differs.
    """
    path = folder / name
    for above in path.parents[: name.count("/")]:
        if above.is_symlink():
            raise ArtifactError(f"{above} is a symbolic link; an artifact holds only plain files", hint=HINT)
    descriptor, size = open_plain(path)
    try:
        if size != record.nbytes:
            raise ArtifactError(f"{path} has {size} bytes, the manifest says {record.nbytes}", hint=HINT)
        if not size:
            return np.empty(0, np.uint8)
        content = np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), np.uint8)
    finally:
        os.close(descriptor)
    if verify and hashlib.sha256(content.data).hexdigest() != record.sha256:
        raise ArtifactError(f"{path} was changed after it was written (SHA-256 differs)", hint=HINT)
    return content
