"""What becomes one kernel: the body of a fused node, or a single node seen in the same form."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from graphopt.errors import CompileError
from graphopt.ir.dims import Shape, symbols
from graphopt.ir.graph import Node, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType

COMPILED_TYPES = frozenset(
    {
        DType.F32, DType.F16, DType.F64, DType.BF16, DType.BOOL, DType.U8, DType.I8, DType.U16, DType.I16,
        DType.U32, DType.I32, DType.U64, DType.I64,
    }
)  # fmt: skip
"""Element types that kernels compute with."""


@dataclass(frozen=True, eq=False)
class KernelRegion:
    """Nodes that are computed together.

    Attributes:
        label: how messages and the manifest name it.
        inputs: leaves as the nodes see them.
        outer: for each of ``inputs`` the graph's value that is passed in.
        nodes: in program order.
        outputs: values to compute, as the nodes see them.
        results: for each of ``outputs`` the graph's value that it becomes.
        data: for each of ``inputs`` its data where it is constant.
    """

    label: str
    inputs: tuple[Value, ...]
    outer: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    results: tuple[Value, ...]
    data: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, node: Node, known: Callable[[Value], Tensor | None]) -> KernelRegion:
        """The region of a fused node, or of ``node`` alone; ``known`` gives the data of constants."""
        if node.is_fused:
            body = node.body
            outer = tuple(value for value in node.inputs if value is not None)
            return cls(
                node.label,
                tuple(body.inputs),
                outer,
                tuple(body),
                tuple(body.outputs),
                tuple(node.outputs),
                tuple(map(known, outer)),
            )
        leaves = tuple(dict.fromkeys(value for value in node.inputs if value is not None))
        results = tuple(node.outputs)
        return cls(node.label, leaves, leaves, (node,), results, results, tuple(map(known, leaves)))

    @classmethod
    def copy(cls, value: Value, known: Callable[[Value], Tensor | None]) -> KernelRegion:
        """The region that copies ``value``."""
        return cls(f'copy of "{value.name}"', (value,), (value,), (), (value,), (value,), (known(value),))

    @cached_property
    def constants(self) -> dict[Value, Tensor]:
        """Data of the leaves that are constants."""
        return {value: data for value, data in zip(self.inputs, self.data, strict=True) if data is not None}

    @cached_property
    def key(self) -> Hashable:
        """Equal for regions that compute the same function, the contents of constants aside."""
        place: dict[Value, tuple[int, int]] = {value: (-1, i) for i, value in enumerate(self.inputs)}
        for row, node in enumerate(self.nodes):
            place.update({value: (row, i) for i, value in enumerate(node.outputs)})
        return (
            tuple((value.type, value in self.constants) for value in self.inputs),
            tuple(_node_key(node, place) for node in self.nodes),
            tuple(place[value] for value in self.outputs),
        )

    @property
    def name(self) -> str:
        """A C identifier that says what the kernel does, e.g. ``conv_add_relu``."""
        names = [node.op for node in self.nodes]
        text = "_".join(dict.fromkeys(names[:6])) + ("_etc" if len(names) > 6 else "")
        return re.sub(r"\W", "_", text).lower() or "copy"

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbols in the shapes of all values, in order of appearance."""
        found: dict[str, None] = {}
        for value in self._values():
            for dim in value.tensor.shape or ():
                found.update(dict.fromkeys(symbols(dim)))
        return tuple(found)

    def needed(self, finals: Iterable[Value]) -> frozenset[Value]:
        """``finals`` and what nodes compute them from."""
        needed = set(finals)
        for node in reversed(self.nodes):
            if any(value in needed for value in node.outputs):
                needed.update(value for value in node.inputs if value is not None)
        return frozenset(needed)

    def _values(self) -> Iterator[Value]:
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs


def _node_key(node: Node, place: dict[Value, tuple[int, int]]) -> Hashable:
    return (
        node.op_type,
        tuple((name, _attr_key(attr)) for name, attr in sorted(node.attrs.items())),
        tuple(None if value is None else place[value] for value in node.inputs),
        tuple(value.type for value in node.outputs),
    )


def _attr_key(attr: object) -> Hashable:
    if isinstance(attr, Tensor):
        return attr.digest
    return tuple(_attr_key(item) for item in attr) if isinstance(attr, tuple) else repr(attr)


def shape_of(value: Value) -> Shape:
    """The shape of a tensor whose rank is known.

    Raises:
        CompileError: it is not known.
    """
    shape = value.tensor.shape
    if shape is None:
        raise CompileError(
            f"{_label(value)}: the rank of {value.name!r} is not known, so no code can be made",
            hint="give input shapes at import, or declare the shapes of this model's values",
        )
    return shape


def dtype_of(value: Value) -> str:
    """Name of the element type, such as ``float32``.

    Raises:
        CompileError: kernels can't compute with it.
    """
    dtype = value.tensor.dtype
    if dtype not in COMPILED_TYPES:
        raise CompileError(f"{_label(value)}: {value.name!r} of type {value.type} can't be compiled")
    assert dtype is not None
    return dtype.numpy.name


def _label(value: Value) -> str:
    return value.producer.label if value.producer is not None else "input"
