"""TVM's runtime library, without TVM's Python package and without its compiler.

``libtvm_runtime.so`` (3 MB) is loaded by itself. Should ``tvm`` be imported later, it finds the
same library already there and adds the compiler beside it, so the order of imports does not matter.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import ArtifactError

_CPU = 1  # kDLCPU
_POOLED = 2  # the allocator that keeps freed memory for the next call

# tvm::runtime::threading, C++ functions without an entry in TVM's function table.
_SET_MAX_CONCURRENCY = "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"
_RESET_THREAD_POOL = "_ZN3tvm7runtime9threading15ResetThreadPoolEv"


@dataclass(frozen=True)
class Runtime:
    """Entry points of the runtime that executables use."""

    from_dlpack: Callable[..., Any]
    item: Callable[[Any, int], Any]
    allocate: Callable[..., Any]
    view: Callable[..., Any]
    clear_pool: Callable[[], None]
    configure_threads: Callable[..., None]
    set_max_concurrency: Callable[[int], None]
    start_threads: Callable[[], int]
    reset_threads: Callable[[], None]

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new tensor on the CPU."""
        import tvm_ffi

        return self.allocate(tvm_ffi.Shape(shape), tvm_ffi.dtype(dtype), tvm_ffi.device("cpu", 0), None)

    def reinterpret(self, tensor: Any, dtype: str) -> Any:
        """The same memory seen as elements of another type of the same size."""
        import tvm_ffi

        return self.view(tensor, tvm_ffi.Shape(tensor.shape), tvm_ffi.dtype(dtype), 0)


@functools.cache
def runtime() -> Runtime:
    """Load TVM's runtime library, once in a process.

    Raises:
        ArtifactError: it is not installed.
    """
    import tvm_ffi

    library = ctypes.CDLL(str(_find_library()), ctypes.RTLD_GLOBAL)
    set_max_concurrency = library[_SET_MAX_CONCURRENCY]
    set_max_concurrency.argtypes = (ctypes.c_int,)
    set_max_concurrency.restype = None
    reset_threads = library[_RESET_THREAD_POOL]
    reset_threads.restype = None
    function = tvm_ffi.get_global_func
    return Runtime(
        from_dlpack=tvm_ffi.from_dlpack,
        item=function("ffi.ArrayGetItem"),
        allocate=function("runtime.TVMTensorAllocWithScope"),
        view=function("runtime.TVMTensorCreateView"),
        clear_pool=function("vm.builtin.memory_manager.clear"),
        configure_threads=function("runtime.config_threadpool"),
        set_max_concurrency=set_max_concurrency,
        start_threads=function("runtime.NumThreads"),
        reset_threads=reset_threads,
    )


def _find_library() -> Path:
    spec = importlib.util.find_spec("tvm") if "tvm" not in sys.modules else sys.modules["tvm"].__spec__
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = (Path(folder) / "lib" / "libtvm_runtime.so").resolve()
        if path.is_file():
            return path
    raise ArtifactError(
        "running an artifact needs TVM's runtime library libtvm_runtime.so, which is not installed",
        hint="pip install apache-tvm",
    )


def load_entry(path: Path) -> Callable[..., Any]:
    """Load a shared object that holds a Relax executable and return its ``main``.

    Its code runs with the rights of this process, and stays mapped until the process ends.

    Raises:
        ArtifactError: it can't be loaded or holds no executable.
    """
    runtime()
    import tvm_ffi

    try:
        machine = tvm_ffi.load_module(str(path))["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        entry: Callable[..., Any] = machine["main"]
    except (RuntimeError, AttributeError, ValueError, TypeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ArtifactError(f"{path} can't be loaded: {reason[0]}") from error
    return entry
