"""Compiling kernels side by side: the same bytes however many at a time, and errors that name the kernel."""

from __future__ import annotations

import signal
import threading
import time
from functools import partial
from typing import Any

import numpy as np
import pytest

from graphopt.backend.artifact import build
from graphopt.backend.link import link
from graphopt.backend.parallel import run_jobs
from graphopt.backend.relax_build import build_executable
from graphopt.backend.relax_lower import _order_sizes
from graphopt.errors import CompileError
from graphopt.targets import Target
from tests.backend import toys

NATIVE = Target.parse("native")


def repeats(count: int) -> Any:
    """``x`` of n elements to outputs of 2*n, 3*n, ... elements, each by a kernel of its own."""
    from tvm import relax, te, tirx

    def kernel(times: int) -> Any:
        n = tirx.Var("kn", "int64")
        x = te.placeholder((n,), "float32", "x")
        return te.create_prim_func([x, te.compute((n * times,), lambda i: x[i // times], "y")])

    n = tirx.Var("n", "int64")
    builder = relax.BlockBuilder()
    variables = [builder.add_func(kernel(times), f"repeat_{times}") for times in range(2, count + 2)]
    x = relax.Var("x", relax.TensorType((n,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            results = [
                builder.emit(relax.call_tir(variable, [x], relax.TensorType((n * times,), "float32")))
                for times, variable in enumerate(variables, 2)
            ]
            output = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(output)
    return builder.get()


def test_the_bytes_do_not_depend_on_how_many_kernels_are_compiled_at_a_time() -> None:
    libraries = [link(build_executable(repeats(12), NATIVE, inputs=1, workers=n), NATIVE) for n in (1, 4, 3)]
    assert libraries[0] == libraries[1] == libraries[2]


def test_a_kernel_is_called_many_times() -> None:
    module, inputs, outputs = toys.chain(2, rounds=3)
    artifact = build(module, NATIVE, weights=[], inputs=inputs, outputs=outputs, gir="")
    x = np.arange(16, dtype=np.float32).reshape(1, 16)
    np.testing.assert_array_equal(artifact.load()(x)[0], x + 3 * (1 + 2))


def test_each_kernel_is_a_step() -> None:
    steps: list[tuple[int, int, str]] = []
    build_executable(toys.chain(3)[0], NATIVE, inputs=1, progress=lambda *step: steps.append(step))
    assert steps == [(0, 4, "main"), (1, 4, "add_1"), (2, 4, "add_2"), (3, 4, "add_3")]


def _sizes_function(*statements: str) -> Any:
    """A function as Relax makes them to compute sizes, of statements on its slots ``H``."""
    import tvm
    from tvm import tirx

    slots = tirx.decl_buffer((8,), "int64", "H")

    def make(statement: str) -> Any:
        if statement == "nothing":
            return tirx.Evaluate(tirx.const(0, "int64"))
        target, source = map(int, statement.split("="))
        return tirx.BufferStore(slots, slots[source] * 2, [tirx.IntImm("int64", target)])

    function = tirx.PrimFunc([slots], tirx.SeqStmt([make(statement) for statement in statements]))
    return tvm.IRModule({"sizes": function.with_attr("tirx.is_host_func", True)})


@pytest.mark.parametrize(
    ("statements", "ordered"),
    [
        (["5=0", "3=1", "4=0"], ["3=1", "4=0", "5=0"]),
        (["5=0", "nothing", "3=1"], ["5=0", "nothing", "3=1"]),
        (["5=0", "3=1", "5=2"], ["5=0", "3=1", "5=2"]),
    ],
)
def test_sizes_are_computed_in_one_order(statements: list[str], ordered: list[str]) -> None:
    """Stores to a slot each are put in order; what is anything else stays as it is."""
    import tvm

    result = _order_sizes(_sizes_function(*statements))
    tvm.ir.assert_structural_equal(result, _sizes_function(*ordered))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_kernel_that_can_t_be_compiled_is_named(workers: int) -> None:
    import tvm
    from tvm import te, tirx

    module = toys.chain(4)[0]
    x = te.placeholder((1, 16), "float32", "x")
    strange = te.compute(
        (1, 16), lambda i, j: x[i, j] + tirx.call_intrin("float32", "tirx.tvm_load_matrix_sync"), "y"
    )
    module.update_func(module.get_global_var("add_3"), te.create_prim_func([x, strange]))
    assert isinstance(module, tvm.IRModule)
    with pytest.raises(CompileError, match="TVM could not compile kernel add_3 for "):
        build_executable(module, NATIVE, inputs=1, workers=workers)


def test_results_are_in_the_order_given_whichever_ends_first() -> None:
    second_is_done = threading.Event()

    def first() -> int:
        assert second_is_done.wait(30)  # so they run at the same time
        return 1

    def second() -> int:
        second_is_done.set()
        return 2

    assert list(run_jobs({"a": first, "b": second}, workers=2).items()) == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("interrupted", [False, True])
def test_after_an_error_or_interrupt_nothing_more_is_begun_and_no_thread_is_left(interrupted: bool) -> None:
    begun: list[str] = []

    def fails() -> None:
        raise CompileError("no")

    def slow(name: str) -> None:
        begun.append(name)
        time.sleep(0.01)

    def progress(done: int, total: int, name: str) -> None:
        if interrupted and done == 2:
            signal.raise_signal(signal.SIGINT)

    jobs: dict[str, Any] = {str(number): partial(slow, str(number)) for number in range(1000)}
    if not interrupted:
        jobs["2"] = fails
    with pytest.raises(KeyboardInterrupt if interrupted else CompileError):
        run_jobs(jobs, workers=2, progress=progress)
    assert 2 <= len(begun) < 200
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("graphopt-compile")]
