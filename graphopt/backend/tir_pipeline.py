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


# Fields of a DLTensor, as tvm_struct_get numbers them (TVMStructFieldKind).
_DATA, _BYTE_OFFSET = 1, 8


@tvm.transform.module_pass(opt_level=0, name="ReadAtOffsets")  # type: ignore[untyped-decorator]
def _read_at_offsets(module: Any, _: Any) -> Any:
    """Kernels whose buffers begin where their tensors' byte offsets say, which TVM demands to be 0."""
    result = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            result.update_func(variable, function.with_body(_at_offsets(function.body)))
    return result


def _at_offsets(body: Any) -> Any:
    def field(call: Any) -> int | None:
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "tirx.tvm_struct_get":
            return None
        return int(call.args[2])

    def rewrite(call: Any) -> Any:
        kind = field(call)
        if kind == _BYTE_OFFSET:
            return tirx.IntImm("uint64", 0)  # what is checked
        if kind == _DATA:
            offset = tirx.tvm_struct_get(call.args[0], 0, _BYTE_OFFSET, "uint64")
            return tirx.handle_add_byte_offset(call, tirx.Cast("int64", offset))
        return call

    return tvm_ffi.structural_map(body, (tvm.ir.Call, rewrite))


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
            _read_at_offsets,
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
