"""Control flow (If, Loop, Scan, SequenceMap) and fused regions: types come from inside."""

from __future__ import annotations

from graphopt.errors import TypeInferenceError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import FUSED_DOMAIN, FUSED_OP, Node, Region
from graphopt.ir.types import OptionalType, SequenceType, TensorType, Type, UnknownType
from graphopt.ops.access import axis, fail, fresh, integer, integers, tensor, value_of
from graphopt.ops.content import static_content
from graphopt.ops.registry import Kind, declare


def join(node: Node, index: int, a: Type, b: Type) -> Type:
    """What holds of a value that is of one of two types; sizes that differ become fresh symbols.

    Raises:
        TypeInferenceError: the types are of different kinds or element types.
    """
    if a == b:
        return a
    match a, b:
        case (UnknownType(), _) | (_, UnknownType()):
            return UnknownType()
        case TensorType(), TensorType():
            if None not in (a.dtype, b.dtype) and a.dtype is not b.dtype:
                raise _mismatch(node, index, a, b)
            dtype = None if None in (a.dtype, b.dtype) else a.dtype
            if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
                return TensorType(dtype, None)
            pairs = enumerate(zip(a.shape, b.shape, strict=True))
            return TensorType(dtype, tuple(x if x == y else fresh(node, index, i) for i, (x, y) in pairs))
        case SequenceType(), SequenceType():
            return SequenceType(join(node, index, a.elem, b.elem))
        case OptionalType(), OptionalType():
            return OptionalType(join(node, index, a.elem, b.elem))
        # An optional may stand beside what it holds: a branch that gives the value, one that gives none.
        case OptionalType(), _:
            return OptionalType(join(node, index, a.elem, b))
        case _, OptionalType():
            return OptionalType(join(node, index, a, b.elem))
    raise _mismatch(node, index, a, b)


def _mismatch(node: Node, index: int, a: Type, b: Type) -> TypeInferenceError:
    return TypeInferenceError(
        f"{node.label}: output {index} would be {a} or {b}, which have nothing in common"
    )


def _region(node: Node, name: str) -> Region:
    if name not in node.regions:
        raise TypeInferenceError(f'{node.label}: region "{name}" is missing')
    return node.regions[name]


@declare(Kind.OTHER, FUSED_OP, domain=FUSED_DOMAIN)
def fused(node: Node) -> list[Type]:
    """Types of the body's outputs."""
    return [value.type for value in _region(node, "body").outputs]


@declare(Kind.CONTROL, "If")
def if_rule(node: Node) -> list[Type]:
    """What the two branches have in common; the types of one branch where it is sure to be taken."""
    yes, no = _region(node, "then_branch").outputs, _region(node, "else_branch").outputs
    if len(yes) != len(no):
        raise TypeInferenceError(f"{node.label}: the branches give {len(yes)} and {len(no)} values")
    taken = static_content(value_of(node, 0))
    if taken in ((0,), (1,)):
        return [value.type for value in (yes if taken == (1,) else no)]
    return [join(node, i, a.type, b.type) for i, (a, b) in enumerate(zip(yes, no, strict=True))]


@declare(Kind.CONTROL, "Loop")
def loop(node: Node) -> list[Type]:
    """Carried values (as they enter or as the body leaves them), then scan outputs stacked in front."""
    body = _region(node, "body")
    carried = len(node.inputs) - 2
    if len(body.outputs) < carried + 1 or len(body.inputs) != carried + 2:
        raise TypeInferenceError(
            f"{node.label}: {carried} carried values, but the body takes {len(body.inputs) - 2} "
            f"and gives {len(body.outputs) - 1}"
        )
    types: list[Type] = []
    for i in range(carried):
        initial, after = node.inputs[i + 2], body.outputs[i + 1].type
        if initial is None:
            raise fail(node, i + 2, "a carried value")
        types.append(join(node, i, initial.type, after))
    trips = _trips(node, body)
    for index, value in enumerate(body.outputs[carried + 1 :], carried):
        types.append(_stacked(node, index, value.type, trips, 0))
    return types


def _trips(node: Node, body: Region) -> Dim | None:
    """How often a loop runs when that is sure: a known count, and a condition that never turns false."""
    count, condition, again = node.input(0), node.input(1), body.outputs[0]
    if count is None or (condition is not None and static_content(condition) != (1,)):
        return None
    while (
        again.producer is not None
        and again.producer.op == "Identity"
        and again.producer.inputs[0] is not None
    ):
        again = again.producer.inputs[0]
    if again is not body.inputs[1] and static_content(again) != (1,):
        return None
    known = static_content(count)
    return known[0] if known is not None and len(known) == 1 and known[0] >= 0 else None


def _stacked(node: Node, index: int, elem: Type, count: Dim | None, at: int) -> Type:
    if not isinstance(elem, TensorType):
        return UnknownType()
    if elem.shape is None:
        return TensorType(elem.dtype, None)
    at = axis(node, at, len(elem.shape) + 1)
    size = fresh(node, index, at) if count is None else count
    return TensorType(elem.dtype, (*elem.shape[:at], size, *elem.shape[at:]))


@declare(Kind.CONTROL, "Scan")
def scan(node: Node) -> list[Type]:
    """State variables, then scan outputs stacked along their axes."""
    body = _region(node, "body")
    scanned = integer(node, "num_scan_inputs", 0)
    states = len(node.inputs) - scanned
    if states < 0 or len(body.inputs) != len(node.inputs) or len(body.outputs) < states:
        raise TypeInferenceError(f"{node.label}: its inputs don't fit its body's")
    count = _scanned_length(node, scanned)
    types: list[Type] = []
    for i in range(states):
        initial = node.inputs[i]
        if initial is None:
            raise fail(node, i, "a state")
        types.append(join(node, i, initial.type, body.outputs[i].type))
    outputs = body.outputs[states:]
    places = integers(node, "scan_output_axes") or (0,) * len(outputs)
    for i, value in enumerate(outputs):
        types.append(_stacked(node, states + i, value.type, count, places[i]))
    return types


def _scanned_length(node: Node, scanned: int) -> Dim | None:
    """How long the inputs are that a Scan goes along."""
    count: Dim | None = None
    axes = integers(node, "scan_input_axes") or (0,) * scanned
    for i in range(scanned):
        shape = tensor(node, len(node.inputs) - scanned + i).shape
        if shape is not None and not isinstance(count, int):
            count = shape[axis(node, axes[i], len(shape), "scan axis")]
    return count


def repetitions(node: Node) -> Dim | None:
    """How often a run computes the regions of a node of control flow; None where data decides. The branches of an
    If count once each, though only one is taken."""
    if node.op == "Loop":
        return _trips(node, _region(node, "body"))
    if node.op == "Scan":
        return _scanned_length(node, integer(node, "num_scan_inputs", 0))
    return 1 if node.op == "If" else None


@declare(Kind.CONTROL, "SequenceMap")
def sequence_map(node: Node) -> list[Type]:
    """Sequences of what the body gives."""
    return [SequenceType(value.type) for value in _region(node, "body").outputs]
