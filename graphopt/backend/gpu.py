"""CUDA: schedules for kernels, and machine code from NVRTC with no GPU and no toolkit installed.

TVM's CUDA module holds a format name and a payload. Where no CUDA driver is installed, TVM stores
the generated source under the name ``cuda`` and leaves compiling it to the machine that loads it.
Here the payload is replaced by the cubin as soon as the source exists, and the name after linking.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tvm

from graphopt.errors import CompileError, LinkError
from graphopt.targets import Target

_HINT = 'pip install "graphopt[cuda]"'
_SOURCE_HOOK = "tvm_callback_cuda_postproc"
_FORCE_FALLBACK = "TVM_COMPILE_FORCE_FALLBACK"

# The kind of a serialised module, the length of its bytes, and the format that these begin with;
# strings are preceded by their length in eight bytes.
_WORD = (4).to_bytes(8, "little") + b"cuda"
_SERIALISED = re.compile(re.escape(_WORD) + rb".{8}" + re.escape(_WORD), re.DOTALL)


def schedule_for_gpu(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Bind the loops of every kernel to blocks and threads, by dlight's default rules.

    Raises:
        CompileError: no rule fits a kernel.
    """
    from tvm.s_tir import dlight

    gpu = dlight.gpu

    class Reduction(gpu.Reduction):  # type: ignore[misc, name-defined]
        """The rule, where a thread computes one result.

        Where it gives a thread several (the channels of a group), it divides what follows the sum in another
        way among the threads than the sum, and reads sums from the registers of threads that don't hold them.
        """

        def _normalize(self, *arguments: Any) -> tuple[Any, ...]:
            found: tuple[Any, ...] = super()._normalize(*arguments)
            return found if found[1] is None or found[1] == 1 else (None,) * len(found)

    rules = (gpu.Matmul(), gpu.GEMV(), Reduction(), gpu.GeneralReduction(), gpu.Fallback())
    with target:
        module = dlight.ApplyDefaultSchedule(*rules)(module)
    for name, function in module.functions.items():
        if isinstance(function, tvm.tirx.PrimFunc) and not _runs_on_threads(function):
            raise CompileError(f"kernel {name.name_hint}: no GPU schedule was found for it")
    return module


def _runs_on_threads(function: tvm.tirx.PrimFunc) -> bool:
    """Whether some loop is bound to threads; what is not would run on the host, on memory of the GPU."""
    import tvm_ffi

    bound: list[str] = []

    def visit(loop: Any) -> None:
        if loop.thread_binding is not None:
            bound.append(str(loop.thread_binding.thread_tag))

    tvm_ffi.structural_walk(function.body, (tvm.tirx.For, visit))
    return "threadIdx.x" in bound


@contextlib.contextmanager
def cubin_codegen(target: Target) -> Iterator[None]:
    """While this is active, TVM's CUDA modules hold a cubin for ``target.arch`` instead of source."""
    import tvm_ffi

    def compile_source(source: str, _target: Any) -> bytes:
        return compile_cubin(source, target.arch)

    previous = os.environ.get(_FORCE_FALLBACK)
    os.environ[_FORCE_FALLBACK] = "1"  # the same way on machines with a driver and without
    tvm_ffi.register_global_func(_SOURCE_HOOK, compile_source, override=True)
    try:
        yield
    finally:
        tvm_ffi.remove_global_func(_SOURCE_HOOK)
        if previous is None:
            del os.environ[_FORCE_FALLBACK]
        else:
            os.environ[_FORCE_FALLBACK] = previous


def compile_cubin(source: str, arch: str) -> bytes:
    """Machine code for ``arch`` from CUDA C++, with IEEE division and square root.

    Raises:
        CompileError: NVRTC or its headers are not installed, or it refuses the source.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise CompileError("CUDA code needs NVRTC, which is not installed", hint=_HINT) from error
    headers = _header_folder()
    options = [f"--gpu-architecture={arch}", "--std=c++17", "-default-device", "--device-int128"]
    options += [f"-I{headers}", f"-I{headers / 'cccl'}"]
    status, program = nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, None, None)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError(f"NVRTC could not start: {status.name}", hint=_HINT)
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            _, size = nvrtc.nvrtcGetProgramLogSize(program)
            log = b" " * size
            nvrtc.nvrtcGetProgramLog(program, log)
            raise CompileError(f"NVRTC refused the kernels for {arch}: {_first_errors(log.decode())}")
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        cubin: bytes = b" " * size
        nvrtc.nvrtcGetCUBIN(program, cubin)
        return cubin
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def name_cubins(library: bytes) -> bytes:
    """The shared object with its CUDA payloads named as what they are: not source to compile.

    The runtime compiles a payload named ``cuda`` and hands every other one to the driver, which
    knows a cubin by its content. The name keeps its length.

    Raises:
        LinkError: there is no CUDA module in it, so its layout is not what this knows.
    """
    named, count = _SERIALISED.subn(lambda found: found[0][:-4] + b"cubn", library)
    if count != 1:
        raise LinkError(f"the shared object holds {count} CUDA modules where one was expected")
    return named


def _header_folder() -> Path:
    for entry in map(Path, sys.path):
        for folder in sorted(entry.glob("nvidia/cu*/include")):
            if (folder / "cuda_fp16.h").is_file() and (folder / "cccl").is_dir():
                return folder
    raise CompileError("CUDA code needs NVIDIA's headers, which are not installed", hint=_HINT)


def _first_errors(log: str) -> str:
    return "; ".join(line.strip() for line in log.splitlines() if "error" in line)[:400] or log[:400]
