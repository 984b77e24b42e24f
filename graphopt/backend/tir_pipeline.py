"""The passes that take hand-built kernels for CPUs to what LLVM compiles.

TVM's default pipeline has forty, most of them for GPUs and for schedules; the one that looks for the
used part of every buffer takes longer than LLVM. The kernels have no blocks but the root, flat
buffers, and loops in the order in which they shall run. There is no StorageRewrite: it overlooks reads
through an alias and would let live scratch share memory. Common subexpressions are left to LLVM: found
here they take longer, and make more code that is no faster.
"""

from __future__ import annotations

from collections.abc import Container
from functools import partial
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.tirx import compilation_pipeline

_ELSEWHERE = "graphopt.elsewhere"

# What TVM puts before the name of a function that takes packed arguments (TVM_FFI_SYMBOL_PREFIX).
_PREFIX = "__tvm_ffi_"


def _pipeline(*first: tvm.ir.transform.Pass) -> tuple[Any, Any, Any]:
    transform = tirx.transform
    passes = tvm.ir.transform.Sequential(
        [
            *first,
            s_tir.transform.LowerInitBlock(),
            s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.LowerOpaqueBlock(),
            transform.FlattenBuffer(),
            transform.BF16ComputeLegalize(),
            transform.NarrowDataType(32),
            transform.VectorizeLoop(True),
            transform.UnrollLoop(),
            transform.StmtSimplify(),
            s_tir.transform.RewriteUnsafeSelect(),
            transform.VerifyMemory(),
            transform.SplitHostDevice(),
            transform.MakePackedAPI(),
            transform.BF16StorageLegalize(),
        ]
    )

    @tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
    def run(module: Any, _: Any) -> Any:
        return passes(module)

    return run, compilation_pipeline.finalize_host_passes, compilation_pipeline.finalize_device_passes


def register() -> str:
    """Makes the pipeline known to TVM; gives its name."""
    compilation_pipeline.PIPELINE_MAP.setdefault("graphopt", _pipeline)
    return "graphopt"


def register_calls() -> str:
    """The same pipeline, without the functions that are compiled :func:`elsewhere`."""

    @tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
    def calls(module: Any, _: Any) -> Any:
        kept = {
            variable: _declare_once(function)
            for variable, function in module.functions.items()
            if _ELSEWHERE not in function.attrs
        }
        return tvm.IRModule(kept, attrs=module.attrs)

    compilation_pipeline.PIPELINE_MAP.setdefault("graphopt-calls", partial(_pipeline, calls))
    return "graphopt-calls"


def _declare_once(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with the prefix at the first mention only of each kernel that it calls.

    TVM looks for a callee of the name with the prefix before it, and where the module has none
    declares one of the name as it is: with the prefix each call would declare its callee again.
    """
    declared: set[str] = set()

    def name(text: tvm.ir.StringImm) -> tvm.ir.StringImm:
        if text.value in declared:
            return tvm.ir.StringImm(text.value.removeprefix(_PREFIX))
        if text.value.startswith(_PREFIX):
            declared.add(text.value)
        return text

    return function.with_body(tvm_ffi.structural_map(function.body, (tvm.ir.StringImm, name)))


def elsewhere(module: tvm.IRModule, names: Container[str], *, symbols: bool) -> tvm.IRModule:
    """The module with these kernels marked as compiled in object files of their own.

    Args:
        symbols: whether they are called by symbol rather than looked up by name.
    """
    result = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    for variable, function in module.functions.items():
        if variable.name_hint in names:
            marked = function.with_attr(_ELSEWHERE, True)
            if symbols:
                marked = marked.with_attr("global_symbol", _PREFIX + variable.name_hint)
            result.update_func(variable, marked)
    return result
