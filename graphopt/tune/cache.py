"""What tuning found, in a file: for each kernel and target the choices that were fastest.

The file is JSON with its entries in order of their keys, so that two can be compared. It is replaced
whole, under a lock, and what another process wrote in the meantime is kept.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from graphopt.errors import TuneError


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kernel on a target.

    Attributes:
        kernel: its name, for people.
        target: text of the target.
        code: digest of the code that makes kernels; choices of other code are not used.
        choices: for each knob that is not as the models choose the option to take.
        complete: whether everything was tried, so that there is nothing left to tune.
        analytic_us: microseconds of a call as the models choose.
        tuned_us: microseconds of a call with these choices.
    """

    kernel: str
    target: str
    code: str
    choices: dict[str, str]
    complete: bool
    analytic_us: float
    tuned_us: float


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    graphopt_tune_cache: Literal[1]
    kernels: dict[str, Entry]


@dataclass
class TuneCache:
    """Entries by the digest of their kernel, :func:`graphopt.backend.lower.kernel_digest`."""

    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> TuneCache:
        """The entries of a file.

        Raises:
            TuneError: it is missing, can't be read, or is not a tuning cache of this format.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise TuneError(
                f"{path}: there is no such tuning cache", hint="compile --tune SECONDS makes one"
            ) from None
        except OSError as error:
            raise TuneError(f"{path} can't be read: {error.strerror}") from error
        try:
            return cls(msgspec.json.decode(content, type=_File).kernels)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TuneError(
                f"{path} is not a tuning cache of this version of graphopt: {error}",
                hint="give another file, or delete this one and tune again",
            ) from error

    def usable(self) -> dict[str, Entry]:
        """The entries that this version of graphopt made."""
        code = code_digest()
        return {digest: entry for digest, entry in self.entries.items() if entry.code == code}

    @property
    def choices(self) -> dict[str, Mapping[str, str]]:
        """What :func:`graphopt.backend.compile.compile_graph` takes."""
        return {digest: entry.choices for digest, entry in self.usable().items() if entry.choices}

    @property
    def stale(self) -> int:
        """How many entries another version of graphopt made."""
        return len(self.entries) - len(self.usable())

    def save(self, path: Path) -> None:
        """Adds the entries to a file, which need not exist.

        Raises:
            TuneError: it can't be written, its folder is missing, or what is there is not a tuning cache.
        """
        if not path.parent.is_dir():
            raise TuneError(
                f"{path} can't be written: there is no folder {path.parent}", hint="make it first"
            )
        try:
            with _locked(path.parent):
                before = TuneCache.read(path).entries if path.exists() else {}
                merged = dict(sorted({**before, **self.entries}.items()))
                encoded = msgspec.json.encode(_File(1, merged), order="sorted")
                _replace(path, msgspec.json.format(encoded, indent=1) + b"\n")
        except OSError as error:
            raise TuneError(f"{path} can't be written: {error.strerror}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other writers out of a folder; the lock ends with the process at the latest."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def default_path() -> Path:
    """Where tuning keeps what it finds unless it is told: in ``$GRAPHOPT_CACHE``, else in the user's cache folder."""
    own = os.environ.get("GRAPHOPT_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(own) if own else user / "graphopt") / "tuned.json"


@functools.cache
def code_digest() -> str:
    """Digest of all that turns choices into machine code: the back end's sources, and TVM's version."""
    backend = Path(__file__).resolve().parent.parent / "backend"
    digest = hashlib.sha256(importlib.metadata.version("apache-tvm").encode())
    for source in sorted(backend.rglob("*.py")):
        digest.update(source.relative_to(backend).as_posix().encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]
