"""A Relax module with one call per region to TVM's virtual machine, and nothing fused or folded behind it."""

from __future__ import annotations

import contextlib
from typing import Any

import tvm
from tvm import relax

from graphopt.backend import tir_pipeline
from graphopt.backend.gpu import cubin_codegen, schedule_for_gpu
from graphopt.errors import CompileError
from graphopt.targets import Target

# The code that calls kernels is compiled rather than interpreted up to this many kernels. It halves
# the cost of a call (200 kernels: 65 µs for 120), and costs about 7 ms of compile time for each.
_COMPILED_CALLS = 256

_WEIGHT_CHECKS = frozenset({"vm.builtin.check_tensor_info", "vm.builtin.match_shape"})


def build_executable(module: tvm.IRModule, target: Target, *, inputs: int) -> Any:
    """Compile ``main(*inputs, *weights) -> tuple`` and its kernels.

    Args:
        module: Relax function ``main`` made of ``call_tir``, and the kernels.
        inputs: how many of ``main``'s parameters are inputs; the rest are weights of static shape.

    Raises:
        CompileError: the module has no such ``main``, or TVM refuses it.
    """
    function = module["main"] if "main" in [name.name_hint for name in module.get_global_vars()] else None
    if not isinstance(function, relax.Function) or len(function.params) < inputs:
        raise CompileError(f"the module has no Relax function main of at least {inputs} parameters")
    tvm_target = target.to_tvm()
    static = _check_calls(module, function)
    scope: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if target.kind == "cuda":
        module = schedule_for_gpu(module, tvm_target)
        scope = cubin_codegen(target)
    try:
        # Kernels check their arguments at each call, which for small ones is most of their code. What
        # static shapes could get wrong was found above.
        # TVM's reuse of scratch gives the memory of one element type to another (which LLVM takes to
        # be apart) and overlooks reads through an alias.
        config = {"tirx.disable_assert": static, "tirx.disable_storage_rewrite": target.kind == "llvm"}
        with scope, tvm_target, tvm.transform.PassContext(opt_level=3, config=config):
            lowered = _drop_weight_checks(_lower(module), inputs)
            kernels = sum(isinstance(f, tvm.tirx.PrimFunc) for f in lowered.functions.values())
            mode = "compiled" if kernels <= _COMPILED_CALLS else "bytecode"
            pipeline = "default" if target.kind == "cuda" else tir_pipeline.register()
            return relax.build(
                lowered, tvm_target, relax_pipeline=None, tir_pipeline=pipeline, exec_mode=mode
            )
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise CompileError(f"TVM could not compile the module for {target}: {reason}") from error


def _check_calls(module: tvm.IRModule, function: relax.Function) -> bool:
    """Check every kernel call of ``main`` against the kernel's buffers; True when all shapes are static.

    Raises:
        CompileError: a call passes another number, element type or static shape than the kernel takes.
    """
    call_tir = tvm.ir.Op.get("relax.call_tir")
    static = True
    for block in function.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not isinstance(call, relax.Call) or not call.op.same_as(call_tir):
                continue
            name = call.args[0].name_hint
            buffers = list(module[call.args[0]].params)
            result = call.ty_args[0]
            results = list(result.fields) if isinstance(result, relax.TupleType) else [result]
            passed = [argument.ty for argument in call.args[1].fields] + results
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


def _extents(shape: Any) -> list[int | None]:
    return [int(extent) if isinstance(extent, tvm.tirx.IntImm) else None for extent in shape]


def _lower(module: tvm.IRModule) -> tvm.IRModule:
    """The passes that ``relax.build`` needs; those that rewrite operators or join kernels are left out."""
    transform = relax.transform
    for lowering in (
        transform.RewriteDataflowReshape(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
        transform.StaticPlanBlockMemory(),
        transform.LowerAllocTensor(),
        transform.KillAfterLastUse(),
        transform.LowerRuntimeBuiltin(),
        transform.ComputePrimValue(),
        transform.VMShapeLower(),
        transform.AttachGlobalSymbol(),
    ):
        module = lowering(module)
    return module


def _drop_weight_checks(module: tvm.IRModule, inputs: int) -> tvm.IRModule:
    """Without the checks of weights at each call: what is mapped at load was checked there."""
    variable = module.get_global_var("main")
    function = module[variable]
    weights = list(function.params)[inputs:]

    def is_weight_check(value: Any) -> bool:
        if not isinstance(value, relax.Call) or not isinstance(value.op, relax.ExternFunc):
            return False
        subject = value.args[0] if len(value.args) else None
        return (
            str(value.op.global_symbol) in _WEIGHT_CHECKS
            and isinstance(subject, relax.Var)
            and any(subject.same_as(weight) for weight in weights)
        )

    blocks = [
        relax.BindingBlock([binding for binding in block.bindings if not is_weight_check(binding.value)])
        for block in function.body.blocks
    ]
    body = relax.SeqExpr(blocks, function.body.body)
    slim = relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)
    result = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    result.update_func(variable, slim)
    return result
