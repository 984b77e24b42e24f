"""Type rules against the outputs that ONNX's own node tests record."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.errors import TypeInferenceError
from graphopt.ir.dims import Dim, evaluate, sym
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, OptionalType, SequenceType, TensorType, Type
from graphopt.ops import SEMANTICS
from tests.ops.support import Importer, node_cases, type_of

# Scan as it was in opset 8, with a batch axis and another order of inputs; importing upgrades it.
OUTDATED = {"test_scan_sum"}
CONTENT_INPUTS = {"depth", "scales", "start", "limit", "delta"}


@functools.cache
def cases() -> list[Any]:
    return [case for case in node_cases() if case.name not in OUTDATED]


def arrays(values: Any) -> list[Any]:
    whole = [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]
    return [np.asarray(v) if isinstance(v, np.generic) else v for v in whole]


def contradiction(type: Type, data: Any, sizes: dict[str, int]) -> str | None:
    """What is wrong with ``type`` for ``data`` when the symbols in ``sizes`` have these values."""
    match type:
        case OptionalType():
            return None if data is None else contradiction(type.elem, data, sizes)
        case SequenceType():
            if not isinstance(data, list):
                return f"{type} for {np.shape(data)}"
            return next((p for item in data if (p := contradiction(type.elem, item, sizes))), None)
        case TensorType():
            array = np.asarray(data)
            if isinstance(data, list) or (type.dtype is not None and type.dtype is not DType.of(array.dtype)):
                return f"{type} for {array.dtype}"
            if type.shape is None:
                return None
            bound = [_value(dim, sizes) for dim in type.shape]
            wrong = len(bound) != array.ndim or any(
                b is not None and b != n for b, n in zip(bound, array.shape, strict=True)
            )
            return f"{type} for {array.shape} with {sizes}" if wrong else None
    return None


def _value(dim: Dim, sizes: dict[str, int]) -> int | None:
    try:
        return evaluate(dim, sizes)
    except KeyError:
        return None


def is_known(type: Type) -> bool:
    if isinstance(type, SequenceType | OptionalType):
        return is_known(type.elem)
    return isinstance(type, TensorType) and type.is_known


def variant(case: Any, mode: str) -> tuple[Importer, dict[str, int]]:
    """An importer for the case, and the sizes that its symbols stand for.

    "declared": types as declared, contents of inputs unknown; "constant": small integer inputs are
    constants; "symbolic": besides, every dimension of the others is a symbol of its own.
    """
    types: dict[str, Type] = {}
    constants: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    for info, data in zip(case.model.graph.input, arrays(case.data_sets[0][0]), strict=False):
        type = type_of(info.type)
        if mode == "declared" or not isinstance(type, TensorType) or not isinstance(data, np.ndarray):
            continue
        assert type.dtype is not None
        integral = type.dtype.is_integer or type.dtype is DType.BOOL or info.name in CONTENT_INPUTS
        if integral and data.ndim <= 1 and data.size <= 64 and data.dtype == type.dtype.numpy:
            constants[info.name] = Tensor.of(data)
        elif mode == "symbolic":
            names = [f"{info.name}_{i}" for i in range(data.ndim)]
            sizes.update(zip(names, data.shape, strict=True))
            types[info.name] = TensorType(type.dtype, tuple(sym(name) for name in names))
    return Importer(types, constants), sizes


@pytest.mark.parametrize(("mode", "least"), [("declared", 0.975), ("constant", 0.975), ("symbolic", 0.973)])
def test_types_agree_with_recorded_outputs(mode: str, least: float) -> None:
    wrong: list[str] = []
    known = 0
    for case in cases():
        importer, sizes = variant(case, mode)
        try:
            graph = importer.run(case.model)
        except TypeInferenceError as error:
            wrong.append(f"{case.name}: {error}")
            continue
        outputs = arrays(case.data_sets[0][1])
        pairs = list(zip(graph.outputs, outputs, strict=True))
        wrong += [f"{case.name}: {p}" for v, data in pairs if (p := contradiction(v.type, data, sizes))]
        known += all(is_known(value.type) for value, _ in pairs)
    assert not wrong, "\n".join(wrong[:20])
    # The rest are bodies of loops that declare no types, sequences of unranked tensors, opset 27 and later.
    assert known >= least * len(cases())


def test_static_inputs_give_static_outputs() -> None:
    """Where the shape does not depend on data, constants must lead to numbers, not symbols."""
    symbolic: dict[str, str] = {}
    for case in cases():
        if len(case.model.graph.node) == 1:
            importer, _ = variant(case, "constant")
            for value in importer.run(case.model).outputs:
                if isinstance(value.type, TensorType) and not value.type.is_static:
                    symbolic[case.model.graph.node[0].op_type] = f"{case.name}: {value.type}"
    assert set(symbolic) == DATA_DEPENDENT, {op: symbolic.get(op) for op in set(symbolic) ^ DATA_DEPENDENT}


DATA_DEPENDENT = {
    "Compress", "ImageDecoder", "Loop", "NonMaxSuppression", "NonZero", "StringNormalizer", "StringSplit", "Unique",
}  # fmt: skip


def test_check_accepts_every_node_in_its_current_form() -> None:
    found: list[str] = []
    for case in cases():
        (version,) = [o.version for o in case.model.opset_import if o.domain in ("", "ai.onnx")] or [0]

        def examine(node: Any, version: int = version) -> None:
            problem = SEMANTICS.check(node)
            if problem is not None and _is_current(node.op, version):
                found.append(problem)

        importer, _ = variant(case, "declared")
        importer.on_node = examine
        importer.run(case.model)
    assert not found, found[:20]


def _is_current(op: str, version: int) -> bool:
    """Whether the form of an operator at opset ``version`` is that of the canonical or the newest opset."""
    if not version or not onnx.defs.has(op):
        return True
    here = onnx.defs.get_schema(op, version, "").since_version
    return here in {onnx.defs.get_schema(op, v, "").since_version for v in (26, 1000)}
