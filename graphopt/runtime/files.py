"""Opening the files of an artifact: inside its directory, of the right size, with the right content."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphopt.errors import ArtifactError
from graphopt.runtime.manifest import FileRecord

_HINT = "compile the model again or fetch the artifact again"


def open_file(folder: Path, name: str, record: FileRecord, *, verify: bool) -> npt.NDArray[np.uint8]:
    """Map the file ``name`` of the artifact read-only and check it against its record.

    Symbolic links and other things that are not regular files are refused. The pages are shared
    with every process that maps the file; the mapping lives as long as the array.

    Raises:
        ArtifactError: the file is missing, not regular, of another size, or its SHA-256 differs.
    """
    path = folder
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise ArtifactError(f"{path} is a symbolic link; an artifact holds only plain files", hint=_HINT)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing from the artifact", hint=_HINT) from None
    except OSError as error:
        raise ArtifactError(f"{path} can't be opened: {error.strerror}", hint=_HINT) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError(f"{path} is not a plain file", hint=_HINT)
        if found.st_size != record.nbytes:
            raise ArtifactError(
                f"{path} has {found.st_size} bytes, the manifest says {record.nbytes}", hint=_HINT
            )
        if not found.st_size:
            return np.empty(0, np.uint8)
        content = np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), np.uint8)
    finally:
        os.close(descriptor)
    if verify and hashlib.sha256(content.data).hexdigest() != record.sha256:
        raise ArtifactError(f"{path} was changed after it was written (SHA-256 differs)", hint=_HINT)
    return content
