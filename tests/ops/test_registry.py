"""The table of operators is complete, and says what is pure."""

from __future__ import annotations

import numpy as np
import onnx.defs
import pytest

from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.ir.types import UnknownType, tensor
from graphopt.ops import Kind, info, is_pure
from graphopt.ops.registry import INFOS, RULES
from tests.ops.test_symbolic_types import IMAGE, Scratch


def test_every_operator_of_onnx_is_declared() -> None:
    every = {(s.domain, s.name) for s in onnx.defs.get_all_schemas() if s.domain in ("", "ai.onnx.ml")}
    assert every <= set(INFOS)
    canonical = {
        s.name
        for s in onnx.defs.get_all_schemas_with_history()
        if s.domain == "" and s.since_version <= CANONICAL_OPSET
    }
    # Own rules for the whole canonical opset: ONNX's inference is the resort for other domains only.
    assert {("", name) for name in canonical} <= set(RULES)


def test_random_operators_are_those_that_onnx_calls_nondeterministic() -> None:
    flagged = {
        s.name
        for s in onnx.defs.get_all_schemas()
        if s.domain == "" and s.node_determinism == onnx.defs.OpSchema.NodeDeterminism.NonDeterministic
    }
    # Decided node by node (is_pure), and AffineGrid, which is arithmetic.
    flagged -= {"AffineGrid", "Dropout", "If", "Loop", "Scan", "SequenceMap"}
    assert {name for (domain, name), known in INFOS.items() if not domain and not known.pure} == flagged


def test_purity_of_nodes() -> None:
    scratch = Scratch()
    assert is_pure(scratch.node("Relu", [IMAGE]))
    assert not is_pure(scratch.node("RandomNormalLike", [IMAGE]))
    assert not is_pure(scratch.node("Foo", [IMAGE]))
    assert is_pure(scratch.node("Dropout", [IMAGE]))
    assert is_pure(scratch.node("Dropout", [IMAGE, np.float32(0.5), np.bool_(False)]))
    assert not is_pure(scratch.node("Dropout", [IMAGE, np.float32(0.5), np.bool_(True)]))
    assert not is_pure(scratch.node("Dropout", [IMAGE, np.float32(0.5), tensor("bool")]))


def test_control_flow_is_as_pure_as_its_bodies() -> None:
    scratch = Scratch()
    builder = scratch.builder
    node = builder.node("If", [scratch.value(np.bool_(True))], [("y", UnknownType())])
    for branch, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        region = builder.region(node, branch)
        builder.outputs(
            builder.node(op, [scratch.value(IMAGE)], [("z", IMAGE)], region=region).outputs, region
        )
    assert is_pure(node)
    inner = node.regions["else_branch"]
    builder.node("RandomUniform", [], [("r", UnknownType())], {"shape": (1,)}, region=inner)
    assert not is_pure(node)


@pytest.mark.parametrize(
    ("op", "kind", "commutative"),
    [
        ("Add", Kind.ELEMENTWISE, True),
        ("Sub", Kind.ELEMENTWISE, False),
        ("Conv", Kind.HEAVY, False),
        ("Transpose", Kind.MOVEMENT, False),
        ("Softmax", Kind.REDUCTION, False),
        ("Loop", Kind.CONTROL, False),
    ],
)
def test_kinds(op: str, kind: Kind, commutative: bool) -> None:
    known = INFOS["", op]
    assert (known.kind, known.commutative) == (kind, commutative)


def test_info_of_unknown_operators_is_none() -> None:
    assert info(Scratch().node("Foo", [IMAGE])) is None
    assert info(Scratch().node("Relu", [IMAGE], domain="somewhere.else")) is None
