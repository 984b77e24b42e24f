"""The passes that take hand-built kernels for CPUs to what LLVM compiles.

TVM's default pipeline has forty, most of them for GPUs and for schedules; the one that looks for the
used part of every buffer takes longer than LLVM. The kernels have no blocks but the root, flat
buffers, and loops in the order in which they shall run. There is no StorageRewrite: it overlooks reads
through an alias and would let live scratch share memory.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.tirx import compilation_pipeline

NAME = "graphopt"


def _pipeline() -> tuple[Any, Any, Any]:
    transform = tirx.transform
    passes = tvm.ir.transform.Sequential(
        [
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
            transform.RemoveNoOp(),
            s_tir.transform.RewriteUnsafeSelect(),
            transform.CommonSubexprElim(),
            transform.VerifyMemory(),
            transform.AnnotateEntryFunc(),
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
    compilation_pipeline.PIPELINE_MAP.setdefault(NAME, _pipeline)
    return NAME
