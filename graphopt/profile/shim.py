"""Builds the library that stands between an artifact's entry point and its kernels (``shim.c``)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from graphopt.targets import host_machine

_SOURCE = Path(__file__).parent / "shim.c"
_PREFIX = "__tvm_ffi_"  # what TVM puts before the name of a function that takes its packed arguments


def shim_library(kernels: Sequence[str]) -> bytes:
    """The shared object for an artifact with these kernels, whose events have their indices.

    Raises:
        LinkError: there is no C compiler, or it failed.
    """
    import tvm_ffi

    from graphopt.backend.link import compiler_command, run_tool

    wraps = " ".join(f"X({index}, {_PREFIX}{name})" for index, name in enumerate(kernels))
    includes = [f"-I{tvm_ffi.libinfo.find_include_path()}", f"-I{tvm_ffi.libinfo.find_dlpack_include_path()}"]
    with tempfile.TemporaryDirectory(prefix="graphopt-profile-") as name:
        folder = Path(name)
        (folder / "shim.c").write_text(f"#define KERNELS(X) {wraps}\n{_SOURCE.read_text()}")
        command = [*compiler_command(host_machine()), "-O2", "-shared", "-fPIC", *includes]
        run_tool([*command, "shim.c", "-o", "shim.so", "-ldl"], folder)
        return (folder / "shim.so").read_bytes()
