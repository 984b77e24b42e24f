"""What the machine can do at most, by small kernels of our own that are compiled for the artifact's target."""

from __future__ import annotations

from typing import Any

from graphopt.targets import Target

ACCUMULATORS = 12
"""Vectors that are multiplied and added to side by side: enough to hide the latency, few enough for registers."""
STEPS = 4096
"""Multiply-adds of each accumulator in a call."""
LINES = 8
"""Vectors that are read side by side."""


def machine_library(target: Target, threads: int) -> bytes:
    """A shared object with kernels that do nothing but one thing, on ``threads`` threads.

    ``peak(x, out)`` does multiply-adds in registers, ``read(data, times, out)`` sums what it reads, as often
    as ``times`` is long, ``nothing(out)`` costs a call and the waking of threads.

    Raises:
        LinkError: there is no C toolchain.
    """
    import tvm

    from graphopt.backend import tir_pipeline
    from graphopt.backend.link import link
    from graphopt.backend.relax_build import Built

    lanes = vector_lanes(target)
    functions = {"peak": _peak(lanes, threads), "read": _read(lanes, threads), "nothing": _nothing(threads)}
    module = tvm.IRModule(
        {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    )
    described = target.to_tvm()
    with described, tvm.transform.PassContext(opt_level=3):
        built = tvm.tirx.build(module, target=described, pipeline=tir_pipeline.register())
    return link(Built(built), target)


def vector_lanes(target: Target) -> int:
    """Numbers of float32 in a vector register."""
    return target.vector_bits // 32


def _peak(lanes: int, threads: int) -> Any:
    from graphopt.backend.kernels.emit import lanes_of, parallel, register, serial, store_lanes
    from graphopt.backend.kernels.standalone import kernel_prim_func

    def body(buffers: dict[str, Any]) -> None:
        start, factor, term = (lanes_of(buffers["x"], index * lanes, lanes) for index in range(3))
        with parallel(threads) as thread:
            sums = [register(lanes, "float32") for _ in range(ACCUMULATORS)]
            for sum in sums:
                store_lanes(sum, 0, lanes, start)
            with serial(STEPS):
                for sum in sums:
                    store_lanes(sum, 0, lanes, lanes_of(sum, 0, lanes) * factor + term)
            for index, sum in enumerate(sums):
                place = (thread * ACCUMULATORS + index) * lanes
                store_lanes(buffers["out"], place, lanes, lanes_of(sum, 0, lanes))

    return kernel_prim_func(
        {"x": ((3 * lanes,), "float32"), "out": ((threads * ACCUMULATORS * lanes,), "float32")}, body
    )


def _read(lanes: int, threads: int) -> Any:
    from tvm import tirx

    from graphopt.backend.kernels.emit import lanes_of, parallel, register, serial, store_lanes
    from graphopt.backend.kernels.standalone import kernel_prim_func

    size, times = tirx.Var("size", "int64"), tirx.Var("times", "int64")
    step = LINES * lanes

    def body(buffers: dict[str, Any]) -> None:
        rows = size // (threads * step)
        with parallel(threads) as thread:
            sums = [register(lanes, "float32") for _ in range(LINES)]
            for index, sum in enumerate(sums):
                store_lanes(sum, 0, lanes, lanes_of(buffers["data"], index * lanes, lanes))
            with serial(times), serial(rows) as row:
                for index, sum in enumerate(sums):
                    place = (thread * rows + row) * step + index * lanes
                    read = lanes_of(buffers["data"], place, lanes)
                    store_lanes(sum, 0, lanes, lanes_of(sum, 0, lanes) + read)
            for index, sum in enumerate(sums):
                place = thread * step + index * lanes
                store_lanes(buffers["out"], place, lanes, lanes_of(sum, 0, lanes))

    return kernel_prim_func(
        {
            "data": ((size,), "float32"),
            "times": ((times,), "float32"),
            "out": ((threads * step,), "float32"),
        },
        body,
    )


def _nothing(threads: int) -> Any:
    from tvm.script.ir_builder import tirx as T

    from graphopt.backend.kernels.emit import parallel, serial
    from graphopt.backend.kernels.standalone import kernel_prim_func

    def body(buffers: dict[str, Any]) -> None:
        with (parallel if threads > 1 else serial)(threads) as thread:
            T.buffer_store(buffers["out"], T.float32(1), [thread])

    return kernel_prim_func({"out": ((threads,), "float32")}, body)
