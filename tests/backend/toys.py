"""Small Relax modules made by hand, and artifacts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.backend.artifact import Artifact, build
from graphopt.runtime import TensorSpec
from graphopt.targets import Target


def scale_and_add(
    dtype: str = "float32", width: int | str = 8
) -> tuple[Any, list[TensorSpec], list[TensorSpec]]:
    """``(x*w + 1, x)`` for x[n, width] and w[1, width]: dynamic rows, and an output that is an input."""
    import tvm
    from tvm import relax, te, tirx

    rows = tirx.Var("n", "int64")
    columns = tirx.Var("m", "int64") if isinstance(width, str) else width
    weight_columns = columns if isinstance(width, int) else 1

    def kernel(dynamic: Any, wide: Any) -> Any:
        x = te.placeholder((dynamic, wide), dtype, "x")
        w = te.placeholder((1, weight_columns), dtype, "w")
        one = tirx.const(1, dtype)
        y = te.compute(
            (dynamic, wide), lambda i, j: x[i, j] * w[0, j if isinstance(width, int) else 0] + one, "y"
        )
        return te.create_prim_func([x, w, y])

    builder = relax.BlockBuilder()
    kernel_rows = tirx.Var("kn", "int64")
    kernel_columns = tirx.Var("km", "int64") if isinstance(width, str) else width
    variable = builder.add_func(kernel(kernel_rows, kernel_columns), "scale_and_add")
    x = relax.Var("x", relax.TensorType((rows, columns), dtype))
    w = relax.Var("w", relax.TensorType((1, weight_columns), dtype))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            out = relax.call_tir(variable, [x, w], relax.TensorType((rows, columns), dtype))
            y = builder.emit(out)
            result = builder.emit_output(relax.Tuple([y, x]))
        builder.emit_func_output(result)
    module = builder.get()
    assert isinstance(module, tvm.IRModule)
    shape: tuple[int | str, ...] = ("n", width)
    specs = [TensorSpec("x", dtype, shape)]
    return module, specs, [TensorSpec("y", dtype, shape), TensorSpec("x_out", dtype, shape)]


def multiply(size: int = 64, threads: bool = False) -> tuple[Any, list[TensorSpec], list[TensorSpec]]:
    """``(x @ w,)`` for square float32 matrices; with ``threads``, rows in parallel."""
    import tvm
    from tvm import relax, te

    x = te.placeholder((size, size), "float32", "x")
    w = te.placeholder((size, size), "float32", "w")
    k = te.reduce_axis((0, size), "k")
    y = te.compute((size, size), lambda i, j: te.sum(x[i, k] * w[k, j], axis=k), "y")
    function = te.create_prim_func([x, w, y])
    if threads:
        schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": function}))
        block = schedule.get_sblock("y")
        schedule.parallel(schedule.get_loops(block)[0])
        function = schedule.mod["main"].without_attr("global_symbol")
    builder = relax.BlockBuilder()
    variable = builder.add_func(function, "multiply")
    square = relax.TensorType((size, size), "float32")
    parameters = [relax.Var("x", square), relax.Var("w", square)]
    with builder.function("main", parameters):
        with builder.dataflow():
            result = builder.emit(relax.call_tir(variable, parameters, square))
            output = builder.emit_output(relax.Tuple([result]))
        builder.emit_func_output(output)
    spec = (size, size)
    return builder.get(), [TensorSpec("x", "float32", spec)], [TensorSpec("y", "float32", spec)]


def artifact(
    toy: tuple[Any, Sequence[TensorSpec], Sequence[TensorSpec]],
    weight: np.ndarray[Any, Any],
    target: str = "native",
) -> Artifact:
    """The toy compiled with that weight."""
    module, inputs, outputs = toy
    return build(
        module,
        Target.parse(target),
        weights=[("w", weight)],
        inputs=inputs,
        outputs=outputs,
        gir="toy\n",
        pipeline="fold-constants",
        kernels={"scale_and_add": ("Mul_0", "Add_1")},
    )


def copies(dtypes: Sequence[str], shape: tuple[int, ...]) -> tuple[Any, list[TensorSpec], list[TensorSpec]]:
    """One input of each element type, each copied to an output by a kernel; no weights."""
    from tvm import relax, te

    def copy(dtype: str) -> Any:
        x = te.placeholder(shape, dtype, "x")
        return te.create_prim_func([x, te.compute(shape, x if shape else lambda: x[()], "y")])

    builder = relax.BlockBuilder()
    kinds = [relax.TensorType(shape, dtype) for dtype in dtypes]
    parameters = [relax.Var(f"x_{dtype}", kind) for dtype, kind in zip(dtypes, kinds, strict=True)]
    variables = []
    for dtype in dtypes:
        variables.append(builder.add_func(copy(dtype), f"copy_{dtype}"))
    with builder.function("main", parameters):
        with builder.dataflow():
            results = [
                builder.emit(relax.call_tir(variable, [parameter], kind))
                for variable, parameter, kind in zip(variables, parameters, kinds, strict=True)
            ]
            output = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(output)
    inputs = [TensorSpec(f"x_{dtype}", dtype, shape) for dtype in dtypes]
    return builder.get(), inputs, [TensorSpec(f"y_{dtype}", dtype, shape) for dtype in dtypes]


def chain(length: int, rounds: int = 1) -> tuple[Any, list[TensorSpec], list[TensorSpec]]:
    """``x + rounds*(1 + 2 + ... + length)`` for float32 x[1, 16], a kernel for each number; no weights."""
    from tvm import relax, te, tirx

    def add(step: int) -> Any:
        x = te.placeholder((1, 16), "float32", "x")
        y = te.compute((1, 16), lambda i, j: x[i, j] + tirx.const(step, "float32"), "y")
        return te.create_prim_func([x, y])

    builder = relax.BlockBuilder()
    kind = relax.TensorType((1, 16), "float32")
    parameter = relax.Var("x", kind)
    variables = [builder.add_func(add(step), f"add_{step}") for step in range(1, length + 1)]
    with builder.function("main", [parameter]):
        with builder.dataflow():
            value: Any = parameter
            for variable in variables * rounds:
                value = builder.emit(relax.call_tir(variable, [value], kind))
            output = builder.emit_output(relax.Tuple([value]))
        builder.emit_func_output(output)
    return builder.get(), [TensorSpec("x", "float32", (1, 16))], [TensorSpec("y", "float32", (1, 16))]
