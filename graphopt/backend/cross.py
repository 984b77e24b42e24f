"""Running artifacts for aarch64 on another machine: a small C runner under QEMU's user emulation.

The runner is built from ``runner/runner.c`` by zig and linked with the runtime libraries of the
aarch64 wheels of TVM, so the code runs on what it will run on there. Libraries and runner are kept
in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.backend.link import run_tool, zig_command
from graphopt.errors import ArtifactError, InputError, TargetError
from graphopt.runtime import manifest as manifests
from graphopt.runtime.dtypes import DTYPES, numpy_dtype
from graphopt.runtime.files import map_file
from graphopt.runtime.manifest import Manifest, TensorSpec, Variant
from graphopt.runtime.signature import Signature

Array = npt.NDArray[Any]

_MACHINE = "aarch64"
_GLIBC = "2.34"
_SYSROOT = Path("/usr/aarch64-linux-gnu")
_APT = "apt install qemu-user-static libc6-arm64-cross libstdc++6-arm64-cross"
_WHEELS = {"apache-tvm": "libtvm_runtime.so", "apache-tvm-ffi": "libtvm_ffi.so"}
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_24_aarch64", "manylinux2014_aarch64")
_RUNNER = Path(__file__).parent / "runner" / "runner.c"

# Type codes of DLPack (dlpack.h, DLDataTypeCode).
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_BFLOAT = 4


def emulation_missing() -> str | None:
    """What is not installed of what :func:`run_emulated` needs, or None when all is there."""
    if _emulator() is None:
        return f"qemu-aarch64-static ({_APT})"
    for library in ("ld-linux-aarch64.so.1", "libstdc++.so.6"):
        if not (_SYSROOT / "lib" / library).exists():
            return f"{_SYSROOT}/lib/{library} ({_APT})"
    if importlib.util.find_spec("ziglang") is None:
        return 'ziglang (pip install "graphopt[zig]")'
    return None


def run_emulated(
    path: str | os.PathLike[str], inputs: Mapping[str, Array], *, timeout: float = 600
) -> list[Array]:
    """Run the aarch64 code of an artifact under emulation, in a process of its own.

    Args:
        path: the artifact's directory.
        inputs: an array for each input, by name.
        timeout: seconds after which the emulator is stopped.

    Returns:
        The outputs in order.

    Raises:
        ArtifactError: the artifact is damaged.
        InputError: the arrays don't fit its inputs, or the code failed on them.
        TargetError: it holds no aarch64 code, something to emulate with is missing, or time ran out.
        LinkError: the runner can't be built.
    """
    folder = Path(path).resolve()
    manifest = manifests.read(folder)
    variant = _variant(manifest, folder)
    signature = Signature(manifest.inputs, manifest.outputs, manifest.sizes)
    arrays = [
        _dense(spec, array)
        for spec, array in zip(manifest.inputs, signature.arrange((), inputs), strict=True)
    ]
    signature.bind([array.shape for array in arrays])
    for name in (variant.library, manifests.WEIGHTS_NAME):
        if name in manifest.files:
            map_file(folder, name, manifest.files[name], verify=True)
    missing = emulation_missing()
    if missing is not None:
        raise TargetError(f"{folder.name} can't be emulated here: {missing} is missing")
    runner = _runner()
    with tempfile.TemporaryDirectory(prefix="graphopt-emulate-") as scratch:
        plan = _write_plan(Path(scratch), folder, manifest, variant, arrays)
        printed = _emulate([str(runner), str(plan)], runner.parent, timeout)
        return [
            _read_output(Path(scratch) / f"output{index}", line)
            for index, line in enumerate(printed.splitlines())
        ]


def _variant(manifest: Manifest, folder: Path) -> Variant:
    for variant in manifest.variants:
        if variant.kind == "llvm" and variant.triple.partition("-")[0] == _MACHINE:
            return variant
    held = ", ".join(variant.target for variant in manifest.variants)
    raise TargetError(
        f"{folder} holds no {_MACHINE} code, only {held}", hint="compile it with target aarch64"
    )


def _dense(spec: TensorSpec, array: Array) -> Array:
    if not isinstance(array, np.ndarray) or array.dtype != numpy_dtype(spec.dtype):
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"input {spec.name!r}: expected {spec.dtype}, got {got}")
    return np.asarray(array, order="C")


def _write_plan(
    scratch: Path, folder: Path, manifest: Manifest, variant: Variant, arrays: Sequence[Array]
) -> Path:
    # Paths in a plan hold no blanks, whatever the artifact's own path is.
    (scratch / "artifact").symlink_to(folder)
    lines = [f"library {scratch}/artifact/{variant.library}"]
    for index, (spec, array) in enumerate(zip(manifest.inputs, arrays, strict=True)):
        (scratch / f"input{index}").write_bytes(array.tobytes())
        lines.append(_tensor_line(spec.dtype, array.shape, 0, scratch / f"input{index}"))
    weights = {spec.name: spec for spec in manifest.weights}
    for name in variant.weights:
        weight = weights[name]
        where = scratch / "artifact" / manifests.WEIGHTS_NAME
        lines.append(_tensor_line(weight.dtype, weight.shape, weight.offset, where))
    lines += [f"output {scratch}/output{index}" for index in range(len(manifest.outputs))]
    plan = scratch / "plan"
    plan.write_text("\n".join(lines) + "\n")
    return plan


def _tensor_line(dtype: str, shape: Sequence[int], offset: int, path: Path) -> str:
    code, bits = _type_code(dtype)
    return " ".join(map(str, ("tensor", code, bits, len(shape), *shape, offset, path)))


def _type_code(dtype: str) -> tuple[int, int]:
    if dtype == "bfloat16":
        return _BFLOAT, 16
    kind = numpy_dtype(dtype)
    return _CODES[kind.kind], kind.itemsize * 8


def _read_output(path: Path, line: str) -> Array:
    code, bits, _, *shape = map(int, line.split())
    dtype = next(name for name in sorted(DTYPES) if _type_code(name) == (code, bits))
    return np.frombuffer(bytearray(path.read_bytes()), numpy_dtype(dtype)).reshape(shape)


def _emulator() -> str | None:
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def _emulate(command: Sequence[str], libraries: Path, timeout: float) -> str:
    """What the command prints when QEMU runs it."""
    emulator = _emulator()
    assert emulator is not None
    settings = [f"LD_LIBRARY_PATH={libraries}", "TVM_NUM_THREADS=1"]
    arguments = [
        emulator,
        "-L",
        str(_SYSROOT),
        *(word for pair in settings for word in ("-E", pair)),
        *command,
    ]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise TargetError(f"the emulated run took longer than {timeout:g} s and was stopped") from None
    if done.returncode < 0:
        raise TargetError(f"the emulated run was ended by signal {-done.returncode}: {done.stderr.strip()}")
    if done.returncode:
        raise InputError(f"the emulated run failed: {' '.join(done.stderr.split())}")
    return done.stdout


def _runner() -> Path:
    """The runner's binary in the cache folder, beside the libraries that it loads; made where absent.

    Raises:
        TargetError: the libraries can't be fetched.
        LinkError: zig is not installed or refuses the source.
    """
    versions = {name: importlib.metadata.version(name) for name in _WHEELS}
    key = hashlib.sha256(repr((sorted(versions.items()), _GLIBC)).encode() + _RUNNER.read_bytes()).hexdigest()
    final = _cache_folder() / f"{_MACHINE}-{key[:16]}"
    if not (final / "runner").exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}.") as name:
            scratch = Path(name) / "new"
            scratch.mkdir()
            _fetch_libraries(versions, scratch)
            _build_runner(scratch)
            if not final.exists():  # another process may have been quicker
                scratch.rename(final)
    return final / "runner"


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "graphopt"


def _fetch_libraries(versions: Mapping[str, str], folder: Path) -> None:
    """Take the runtime libraries out of the aarch64 wheels of the installed versions."""
    with tempfile.TemporaryDirectory(prefix="graphopt-wheels-") as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--python-version=3.11", f"--dest={wheels}"]
        command += [f"--platform={platform}" for platform in _PLATFORMS]
        command += [f"{name}=={version}" for name, version in versions.items()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join(done.stderr.split())[-400:]
            raise TargetError(f"the {_MACHINE} runtime libraries can't be fetched by pip: {said}")
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    if Path(member).name in _WHEELS.values():
                        (folder / Path(member).name).write_bytes(archive.read(member))
    for library in _WHEELS.values():
        if not (folder / library).exists():
            raise ArtifactError(f"the {_MACHINE} wheels hold no {library}")


def _build_runner(folder: Path) -> None:
    import tvm_ffi.libinfo

    includes = [f"-I{tvm_ffi.libinfo.find_include_path()}", f"-I{tvm_ffi.libinfo.find_dlpack_include_path()}"]
    libraries = ["-Wl,--no-as-needed", *(f"./{name}" for name in sorted(_WHEELS.values()))]
    command = [
        *zig_command("cc", _MACHINE, _GLIBC),
        "-std=c11",
        "-O1",
        *includes,
        str(_RUNNER),
        "-o",
        "runner",
    ]
    run_tool([*command, *libraries, "-Wl,-rpath,$ORIGIN"], folder)
    shutil.rmtree(folder / "zig-cache", ignore_errors=True)
