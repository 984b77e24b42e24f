"""From a Relax module with one call per region to machine code, and nothing fused or folded behind it.

On CPUs every kernel is a module of LLVM of its own: they are compiled side by side on all processors,
and what the bytes are does not depend on how many there are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tvm
from tvm import relax

from graphopt.backend import tir_pipeline
from graphopt.backend.gpu import cubin_codegen, schedule_for_gpu
from graphopt.backend.parallel import run_jobs
from graphopt.backend.relax_lower import lower_calls
from graphopt.errors import CompileError
from graphopt.targets import Target

# The code that calls kernels is compiled rather than interpreted up to this many kernels. It halves
# the cost of a call (200 kernels: 65 µs for 120), and costs about 7 ms of compile time for each.
_COMPILED_CALLS = 256

T = TypeVar("T")


@dataclass(frozen=True)
class Built:
    """Machine code that is not linked yet.

    Attributes:
        executable: what ``relax.build`` made of ``main`` and, for a GPU, of the kernels.
        objects: on CPUs the object file of each kernel, by the kernel's name.
    """

    executable: Any
    objects: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def build_executable(
    module: tvm.IRModule,
    target: Target,
    *,
    inputs: int,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, kernel: None,
) -> Built:
    """Compile ``main(*inputs, *weights) -> tuple`` and its kernels.

    Args:
        module: Relax function ``main`` made of ``call_tir``, and the kernels.
        inputs: how many of ``main``'s parameters are inputs; the rest are weights of static shape.
        workers: how many kernels are compiled at a time; as many as there are processors when None.
        progress: called with (kernels done, kernels in all, name of the next).

    Raises:
        CompileError: the module has no such ``main``, or TVM refuses it; names the kernel if it is one.
    """
    function = module["main"] if "main" in [name.name_hint for name in module.get_global_vars()] else None
    if not isinstance(function, relax.Function) or len(function.params) < inputs:
        raise CompileError(f"the module has no Relax function main of at least {inputs} parameters")
    # Kernels check their arguments at each call, which for small ones is most of their code. What
    # static shapes could get wrong is found here.
    compiler = _Compiler(target, checks=not _check_calls(module, function))
    if target.kind == "cuda":
        return Built(compiler.for_gpu(module, inputs))
    kernels = kernels_of(module)
    jobs: dict[str, Callable[[], Any]] = {
        "main": partial(compiler.calls, module, inputs),
        **{name: partial(compiler.kernel, name, function) for name, function in kernels.items()},
    }
    built = run_jobs(jobs, workers=workers, progress=progress)
    return Built(built.pop("main"), built)


def build_kernel(name: str, function: tvm.tirx.PrimFunc, target: Target) -> bytes:
    """The object file of one kernel for a CPU, of static shapes that its caller gets right.

    Raises:
        CompileError: TVM refuses it.
    """
    return _Compiler(target, checks=False).kernel(name, function)


class _Compiler:
    """Calls TVM; its methods can run in any thread.

    Args:
        checks: whether kernels check the shapes of what they are passed.
    """

    def __init__(self, target: Target, checks: bool) -> None:
        self._target = target
        self._tvm_target = target.to_tvm()
        # TVM's reuse of scratch gives the memory of one element type to another (which LLVM takes to
        # be apart) and overlooks reads through an alias.
        self._config = {
            "tirx.disable_assert": not checks,
            "tirx.disable_storage_rewrite": target.kind == "llvm",
        }

    def for_gpu(self, module: tvm.IRModule, inputs: int) -> Any:
        """The executable of a module with its kernels, scheduled and compiled for a GPU."""
        module = schedule_for_gpu(module, self._tvm_target)
        with cubin_codegen(self._target):
            return self._run("the module", partial(self._build, module, inputs, "default"))

    def calls(self, module: tvm.IRModule, inputs: int) -> Any:
        """The executable of ``main`` alone, whose kernels are to be linked to it."""
        return self._run("main", partial(self._build, module, inputs, tir_pipeline.register_calls()))

    def kernel(self, name: str, function: tvm.tirx.PrimFunc) -> bytes:
        """The object file of one kernel."""

        def compile_kernel() -> bytes:
            module = tvm.IRModule({name: function.with_attr("global_symbol", name)})
            code = tvm.tirx.build(module, target=self._tvm_target, pipeline=tir_pipeline.register())
            with tempfile.TemporaryDirectory(prefix="graphopt-kernel-") as folder:
                path = Path(folder) / "kernel.o"
                code.write_to_file(str(path))
                return path.read_bytes()

        return self._run(f"kernel {name}", compile_kernel)

    def _build(self, module: tvm.IRModule, inputs: int, pipeline: str) -> Any:
        names = kernels_of(module)
        lowered = lower_calls(module, inputs)
        mode = "compiled" if len(names) <= _COMPILED_CALLS else "bytecode"
        if self._target.kind == "llvm":
            lowered = tir_pipeline.elsewhere(lowered, names, symbols=mode == "compiled")
        return relax.build(
            lowered, self._tvm_target, relax_pipeline=None, tir_pipeline=pipeline, exec_mode=mode
        )

    def _run(self, what: str, step: Callable[[], T]) -> T:
        """Run a step in TVM's scopes, which belong to a thread.

        Raises:
            CompileError: TVM refused it.
        """
        try:
            with self._tvm_target, tvm.transform.PassContext(opt_level=3, config=self._config):
                return step()
        except (RuntimeError, ValueError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise CompileError(f"TVM could not compile {what} for {self._target}: {reason}") from error


def _check_calls(module: tvm.IRModule, function: relax.Function) -> bool:
    """Check every kernel call of ``main`` against the kernel's buffers; True when all shapes are static.

    Raises:
        CompileError: a call passes another number, element type or static shape than the kernel takes.
    """
    static = True
    for variable, passed in _kernel_calls(function):
        name, buffers = variable.name_hint, list(module[variable].params)
        if len(passed) != len(buffers):
            raise CompileError(f"kernel {name} takes {len(buffers)} buffers, its call has {len(passed)}")
        for position, (kind, buffer) in enumerate(zip(passed, buffers, strict=True)):
            if not isinstance(kind, relax.TensorType):  # a symbolic dimension, passed as a number
                static = False
                continue
            given, taken = _extents(kind.shape), _extents(buffer.shape)
            fits = len(given) == len(taken) and all(
                left == right or None in (left, right) for left, right in zip(given, taken, strict=True)
            )
            if not fits or str(kind.dtype) != str(buffer.dtype):
                raise CompileError(
                    f"kernel {name}: buffer {position} is {buffer.dtype}{list(buffer.shape)}, "
                    f"its call passes {kind.dtype}{list(kind.shape)}"
                )
            static = static and None not in given + taken
    return static


def _kernel_calls(function: relax.Function) -> Iterator[tuple[Any, list[Any]]]:
    """The kernel of each call, and the types of what it is passed: by ``call_tir``, or results last."""
    call_tir = tvm.ir.Op.get("relax.call_tir")
    for block in function.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not isinstance(call, relax.Call):
                continue
            if isinstance(call.op, relax.GlobalVar):
                yield call.op, [argument.ty for argument in call.args]
            elif call.op.same_as(call_tir):
                result = call.ty_args[0]
                results = list(result.fields) if isinstance(result, relax.TupleType) else [result]
                yield call.args[0], [argument.ty for argument in call.args[1].fields] + results


def kernels_of(module: tvm.IRModule) -> dict[str, tvm.tirx.PrimFunc]:
    """The kernels of a module that is not lowered yet, by name."""
    return {
        variable.name_hint: function
        for variable, function in module.functions.items()
        if isinstance(function, tvm.tirx.PrimFunc)
    }


def _extents(shape: Any) -> list[int | None]:
    return [int(extent) if isinstance(extent, tvm.tirx.IntImm) else None for extent in shape]
