"""What an item is by itself, as numbers that are equal in both graphs when it is the same.

There are grades, from all that can be said of an item down to its operator: the matcher begins with
the strict ones, so that a change of an attribute does not keep a node from being found.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum

from graphopt.diff.changes import Weights
from graphopt.diff.flat import Flat, Item, Kind
from graphopt.diff.symbols import masked, signature_symbols
from graphopt.ir.graph import Node, RefAttr, TypeAttr, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, Type

STRUCTURAL = frozenset({DType.I64, DType.U64, DType.BOOL, DType.STR})
"""Element types of shapes, indices and conditions: such constants are no weights and always count."""


def is_tolerant(dtype: DType) -> bool:
    """Whether data of this type may be ignored or be a little off; integers may be indices, whatever their width."""
    return dtype.is_float or dtype in (DType.C64, DType.C128)


class Grade(IntEnum):
    """How much of an item its label holds."""

    EXACT = 0
    UNTYPED = 1
    WEIGHTLESS = 2
    OPERATOR = 3
    PLACE = 4


@dataclass(frozen=True, slots=True)
class Parts:
    """Numbers for the parts of an item, each equal where the part is."""

    place: int
    operator: int
    attrs: int
    types: int
    constants: int
    structure: int


class Interner:
    """Small numbers for things that can be hashed: equal things, equal numbers."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __call__(self, thing: Hashable) -> int:
        return self._numbers.setdefault(thing, len(self._numbers) + 1)


class Labels:
    """Labels of the items of two graphs."""

    def __init__(self, a: Flat, b: Flat, *, weights: Weights) -> None:
        self.intern = Interner()
        self.weights = weights
        self.fixed = signature_symbols(a.graph) & signature_symbols(b.graph)
        self._types: dict[Type, int] = {}
        self._constants: dict[Value, int] = {}
        self._at: dict[tuple[int, Grade], list[int]] = {}
        self.parts = ([self._parts(item) for item in a.items], [self._parts(item) for item in b.items])

    def at(self, side: int, grade: Grade) -> list[int]:
        """The labels of one graph's items."""
        if (side, grade) not in self._at:
            self._at[side, grade] = self._graded(side, grade)
        return self._at[side, grade]

    def _graded(self, side: int, grade: Grade) -> list[int]:
        parts = self.parts[side]
        match grade:
            case Grade.EXACT:
                return [self.intern((p.operator, p.attrs, p.types, p.constants)) for p in parts]
            case Grade.UNTYPED:
                return [self.intern((p.operator, p.attrs, p.constants)) for p in parts]
            case Grade.WEIGHTLESS:
                return [self.intern((p.operator, p.attrs, p.structure)) for p in parts]
            case Grade.OPERATOR:
                return [p.operator for p in parts]
        return [p.place for p in parts]

    def constant(self, value: Value) -> int:
        """The number of a constant: its type, and its data as far as that counts."""
        if value not in self._constants:
            assert value.const is not None
            self._constants[value] = self.intern((self._type(value.type), self._data(value.const)))
        return self._constants[value]

    def operand(self, operand: object, grade: Grade) -> int:
        """What stands for a constant or absent operand: as much of its data as the grade holds."""
        if not isinstance(operand, Value) or operand.const is None:
            return 0
        structural = grade <= Grade.WEIGHTLESS and operand.const.dtype in STRUCTURAL
        return self.constant(operand) if structural or grade <= Grade.UNTYPED else -1

    def _data(self, tensor: Tensor) -> Hashable:
        exact = self.weights == "exact" or not is_tolerant(tensor.dtype)
        return tensor.digest if exact else (tensor.dtype, tensor.shape)

    def _type(self, type: Type) -> int:
        if type not in self._types:
            self._types[type] = self.intern(("type", masked(type, self.fixed)))
        return self._types[type]

    def _parts(self, item: Item) -> Parts:
        operator: Hashable = (item.kind, item.slot, item.attr)
        place = operator
        attrs: dict[str, Hashable] = {}
        if item.kind is Kind.NODE and item.owner is not None:
            node = item.owner
            bodies = tuple((attr, len(region.outputs)) for attr, region in sorted(node.regions.items()))
            operator = (node.domain, node.op, bodies)
            place = (len(item.operands), len(item.types), bodies)
            attrs = {name: self.attribute(value) for name, value in attributes(node).items()}
        elif item.kind is not Kind.PARAM:
            operator = place = item.kind
        constants = [
            (slot, self.constant(operand))
            for slot, operand in enumerate(item.operands)
            if isinstance(operand, Value)
        ]
        structure = [
            (slot, self.operand(operand, Grade.WEIGHTLESS))
            for slot, operand in enumerate(item.operands)
            if isinstance(operand, Value)
        ]
        return Parts(
            place=self.intern(("place", place)),
            operator=self.intern(("operator", operator)),
            attrs=self.intern(("attributes", tuple(attrs.items()))),
            types=self.intern(("types", tuple([self._type(type) for type in item.types]))),
            constants=self.intern(("constants", tuple(constants))),
            structure=self.intern(("structure", tuple(structure))),
        )

    def attribute(self, value: object) -> Hashable:
        """What stands for an attribute's value: equal where the value is, to the last bit."""
        match value:
            case float():
                return ("float", struct.pack("d", value))
            case Tensor():
                return ("tensor", str(value.type), self._data(value))
            case TypeAttr():
                return ("type", masked(value.type, self.fixed))
            case RefAttr():
                return ("reference", value.name, value.kind)
            case tuple():
                return ("tuple", tuple(map(self.attribute, value)))
            case int() | str() | bytes():
                return (type(value).__name__, value)
        return ("other", repr(value))


def attributes(node: Node) -> dict[str, object]:
    """The attributes of a node by name, sorted, with the operator's defaults for those left out."""
    given = dict(node.attrs)
    return dict(sorted({**defaults(node.op, node.domain), **given}.items()))


@functools.cache
def defaults(op: str, domain: str) -> dict[str, object]:
    """The values that attributes of an operator have where they are left out."""
    from onnx import helper

    from graphopt.ir.opset import CANONICAL_OPSET
    from graphopt.ops.schema import NEWEST, find_schema

    schema = find_schema(op, domain, NEWEST if domain else CANONICAL_OPSET)
    if schema is None:
        return {}
    found = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            value = helper.get_attribute_value(attribute.default_value)
            if isinstance(value, bytes):
                value = value.decode()
            found[name] = tuple(value) if isinstance(value, list) else value
    return found
