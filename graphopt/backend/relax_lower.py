"""Relax's own lowering: memory planned, sizes computed, calls of the virtual machine's builtins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tvm
from tvm import relax

_WEIGHT_CHECKS = frozenset({"vm.builtin.check_tensor_info", "vm.builtin.match_shape"})


def lower_calls(module: tvm.IRModule, inputs: int) -> tvm.IRModule:
    """What ``relax.build`` takes, of a module whose ``main(*inputs, *weights)`` is made of ``call_tir``.

    Passes that rewrite operators or join kernels are left out.
    """
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
    return _order_sizes(_drop_weight_checks(module, inputs))


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


def _order_sizes(module: tvm.IRModule) -> tvm.IRModule:
    """The functions that compute sizes from symbols, with their statements in order of what they store.

    Each statement fills a slot of its own from slots that functions before it filled; TVM takes them from
    a hash table. A function of any other form is left as it is.
    """
    result = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    for variable, function in module.functions.items():
        if isinstance(function, tvm.tirx.PrimFunc) and function.attrs.get("tirx.is_host_func", False):
            body = function.body
            stores = _by_slot(body.seq) if isinstance(body, tvm.tirx.SeqStmt) else None
            if stores is not None:
                result.update_func(variable, function.with_body(tvm.tirx.SeqStmt(stores)))
    return result


def _by_slot(statements: Iterable[Any]) -> list[Any] | None:
    """Statements in order of the slots they store; None if they are not stores to one slot each."""
    slots: dict[int, Any] = {}
    for statement in statements:
        if not isinstance(statement, tvm.tirx.BufferStore) or len(statement.indices) != 1:
            return None
        (slot,) = statement.indices
        if not isinstance(slot, tvm.tirx.IntImm) or int(slot) in slots:
            return None
        slots[int(slot)] = statement
    return [slots[slot] for slot in sorted(slots)]
