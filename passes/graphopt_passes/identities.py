"""Operations that change nothing: x·1, x + 0, casts to the same type, pairs that undo each other.

All rules preserve the type, shape included: ``x + 0`` stays when the zero's shape broadcasts x.
Every result is bitwise that of the original, with one exception, which its rules declare:
``x + 0.0`` turns -0.0 into +0.0 and ``x`` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.types import DType
from graphopt.ops import is_pure
from graphopt.pipeline import Effect, PatternPass, register_pass
from graphopt.rewrite import Assumes, Match, Refusal, Rule, const, one_of, op, refuse, var
from graphopt_passes.conditions import keeps_type
from graphopt_passes.views import VIEW_RULES, take_x


@register_pass("simplify-identities")
@dataclass(frozen=True)
class SimplifyIdentities(PatternPass):
    """Remove operations that change nothing: no-op arithmetic, casts, reshapes and transposes."""

    effect = Effect.EXACT

    def rules(self) -> Sequence[Rule]:
        return (*ARITHMETIC_RULES, *CAST_RULES, *VIEW_RULES)


def _is_inference(match: Match) -> Refusal | None:
    if len(match.root.outputs) > 1 and match.root.outputs[1].num_uses:
        return refuse("the mask of {} is used", match.root)
    return None if is_pure(match.root) else refuse("{} may be training", match.root)


def _only_output(match: Match) -> Refusal | None:
    return None if len(match.root.outputs) == 1 else refuse("{} has several outputs", match.root)


def _power_of_floats(match: Match) -> Refusal | None:
    """Powers of integers are left alone: engines compute them as floats, of fewer digits."""
    dtype = match["x"].tensor.dtype
    if dtype is None or not dtype.is_float:
        return refuse("{} is not of floats", match["x"])
    return keeps_type(match)


def _as_add(rewriter: Rewriter, match: Match) -> Value:
    return rewriter.create("Add", [match["x"], match["y"]]).output


_x = var("x")
_zero, _one = const(value=0), const(value=1)
_true, _false = const(value=1), const(value=0)

ARITHMETIC_RULES = (
    Rule("identity", op("Identity", _x), take_x),
    Rule("dropout-at-inference", op("Dropout", _x, ...), take_x, _is_inference),
    Rule("single-operand", op(["Concat", "Max", "Min"], _x), take_x, keeps_type),
    # An engine may begin the sum with +0.
    Rule("single-term", op(["Sum", "Mean"], _x), take_x, keeps_type, (Assumes.SIGN_OF_ZERO,)),
    Rule("sum-of-two", op("Sum", _x, var("y")), _as_add),
    Rule("split-into-one", op("Split", _x, ...), take_x, _only_output),
    Rule("add-zero", op("Add", _x, _zero), take_x, keeps_type, (Assumes.SIGN_OF_ZERO,)),
    Rule("subtract-zero", op("Sub", _x, _zero), take_x, keeps_type, (Assumes.SIGN_OF_ZERO,)),
    Rule("multiply-by-one", op("Mul", _x, _one), take_x, keeps_type),
    Rule("divide-by-one", op("Div", _x, _one), take_x, keeps_type),
    Rule("power-of-one", op("Pow", _x, _one), take_x, _power_of_floats),
    Rule("and-true", op("And", _x, _true), take_x, keeps_type),
    Rule("or-false", op("Or", _x, _false), take_x, keeps_type),
    Rule("where-always", op("Where", _true, _x, var("other")), take_x, keeps_type),
    Rule("where-never", op("Where", _false, var("other"), _x), take_x, keeps_type),
    Rule(
        "undone",
        one_of(*(op(name, op(name, _x, shared=True)) for name in ("Neg", "Not", "BitwiseNot"))),
        take_x,
    ),
    Rule(
        "repeated",
        one_of(
            *(
                op(name, op(name, var("inner"), name="first", shared=True))
                for name in ("Relu", "Abs", "Ceil", "Floor", "Round", "Sign")
            )
        ),
        lambda rewriter, match: match.node("first").output,
    ),
)


def _casts_to_itself(match: Match) -> Refusal | None:
    source, target = match["x"].tensor.dtype, match.root.output.tensor.dtype
    return None if source is target is not None else refuse("{} changes the element type", match.root)


def _exact_holder(source: DType, held: DType) -> bool:
    """Whether every value of ``source`` is a value of ``held``."""
    if source is held or source is DType.BOOL:
        return True
    if source.is_float:
        wider = {
            DType.F16: (DType.F32, DType.F64),
            DType.BF16: (DType.F32, DType.F64),
            DType.F32: (DType.F64,),
        }
        return held in wider.get(source, ())
    if not source.is_integer:
        return False
    magnitude = source.bits - source.is_signed
    if held.is_integer:
        return magnitude <= held.bits - held.is_signed and held.is_signed >= source.is_signed
    return magnitude <= {DType.F16: 11, DType.BF16: 8, DType.F32: 24, DType.F64: 53}.get(held, 0)


def _loses_nothing(match: Match) -> Refusal | None:
    source, middle = match["x"].tensor.dtype, match.node("first").output.tensor.dtype
    target = match.root.output.tensor.dtype
    if source is None or middle is None or target is None:
        return refuse("an element type of {} is unknown", match.root)
    if not _exact_holder(source, middle):
        return refuse("a cast from {} to {} loses bits", source.text, middle.text)
    if 0 < min(source.bits, middle.bits, target.bits) < 8 or (target.is_float and target.bits < 16):
        return refuse("casts to {} saturate", target.text)
    # Floats out of an integer's range become anything; integers wrap.
    if source.is_integer and middle.is_float and target.is_integer and not _exact_holder(source, target):
        return refuse("{} through {} to {} does not wrap", source.text, middle.text, target.text)
    return None


def _cast_once(rewriter: Rewriter, match: Match) -> Value:
    target = match.root.output.tensor.dtype
    assert target is not None
    if match["x"].tensor.dtype is target:
        return match["x"]
    return rewriter.create("Cast", [match["x"]], {"to": target.value}).output


def _cast_like(rewriter: Rewriter, match: Match) -> Value:
    dtype = match["like"].tensor.dtype
    assert dtype is not None
    return rewriter.create("Cast", [match["x"]], {**match.root.attrs, "to": dtype.value}).output


def _known_target(match: Match) -> Refusal | None:
    dtype = match["like"].tensor.dtype
    return refuse("the element type of {} is unknown", match["like"]) if dtype is None else None


CAST_RULES = (
    Rule("cast-like", op("CastLike", _x, var("like")), _cast_like, _known_target),
    Rule("cast-to-itself", op("Cast", _x), take_x, _casts_to_itself),
    Rule("cast-of-cast", op("Cast", op("Cast", _x, name="first", shared=True)), _cast_once, _loses_nothing),
)
