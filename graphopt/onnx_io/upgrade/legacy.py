"""A node on its way from an older opset to the canonical one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from graphopt.errors import ModelError
from graphopt.ir.graph import Attr, Value
from graphopt.ir.tensor import Array, Tensor


class Emitter(Protocol):
    """Makes nodes of the canonical opset before the node that is being upgraded."""

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Attr] | None = None,
        *,
        outputs: Sequence[str] = (),
    ) -> Sequence[Value]:
        """A new node with outputs of these names (one by default); types are inferred."""
        ...

    def constant(self, data: Array, hint: str) -> Value:
        """A new constant."""
        ...


Finish = Callable[[Sequence[Value], list[str]], Sequence[Value]]


@dataclass(slots=True)
class Legacy:
    """What an adapter changes: it brings the node to the version that the adapter is registered for.

    ``outputs`` are the names to give. An adapter that needs nodes after this one sets ``finish``,
    which turns the outputs of the node into the values to use; one that replaces the node
    altogether sets ``replacement``.
    """

    op: str
    label: str
    version: int
    inputs: list[Value | None]
    outputs: list[str]
    attrs: dict[str, Attr]
    emitter: Emitter
    finish: Finish | None = None
    replacement: Sequence[Value] | None = None
    graphs: tuple[str, ...] = field(default=())

    def input(self, index: int) -> Value | None:
        """Input ``index``; None when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def data(self, index: int = 0) -> Value:
        """Input ``index``, which must be there.

        Raises:
            ModelError: it is absent.
        """
        value = self.input(index)
        if value is None:
            raise self.error(f"input {index} is missing")
        return value

    def emit(self, op: str, *inputs: Value | None, **attrs: Attr) -> Value:
        """A new node with one output, before this one."""
        return self.emitter.emit(op, inputs, attrs)[0]

    def constant(self, data: ArrayLike, dtype: np.typing.DTypeLike = np.int64, hint: str = "") -> Value:
        """A new constant, by default of 64-bit integers."""
        return self.emitter.constant(np.asarray(data, dtype), hint or f"{self.outputs[0]}_const")

    def constant_like(self, number: float, like: Value, hint: str) -> Value:
        """A new scalar constant of the element type of ``like``, or f32 where that is unknown."""
        dtype = like.tensor.dtype
        return self.constant(number, np.dtype(np.float32) if dtype is None else dtype.numpy, hint)

    def number(self, name: str, default: int) -> int:
        """An integer attribute.

        Raises:
            ModelError: it is of another kind.
        """
        value = self.attrs.get(name, default)
        if not isinstance(value, int):
            raise self.error(f'attribute "{name}" is not an integer')
        return value

    def take_number(self, name: str, default: int) -> int:
        """An integer attribute, removed."""
        value = self.number(name, default)
        self.attrs.pop(name, None)
        return value

    def take_float(self, name: str, default: float) -> float:
        """A float attribute, removed.

        Raises:
            ModelError: it is of another kind.
        """
        value = self.attrs.pop(name, default)
        if not isinstance(value, int | float):
            raise self.error(f'attribute "{name}" is not a number')
        return float(value)

    def take_numbers(self, name: str) -> list[float] | None:
        """A list attribute, removed; None when it is absent.

        Raises:
            ModelError: it is of another kind.
        """
        value = self.attrs.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, tuple) or not all(isinstance(item, int | float) for item in value):
            raise self.error(f'attribute "{name}" is not a list of numbers')
        return [item for item in value if isinstance(item, int | float)]

    def rank(self, index: int = 0) -> int | None:
        """Rank of input ``index`` where it is known."""
        value = self.input(index)
        return None if value is None else value.tensor.rank

    def known_rank(self, index: int = 0) -> int:
        """Rank of input ``index``.

        Raises:
            ModelError: it is unknown, and the old form of the operator can't be written without it.
        """
        rank = self.rank(index)
        if rank is None:
            raise self.error(f"the rank of input {index} must be known to bring this opset up to date")
        return rank

    def const(self, index: int) -> Tensor | None:
        """The data of input ``index`` when it is constant."""
        value = self.input(index)
        return value.const if value is not None and value.is_constant else None

    def set_input(self, index: int, value: Value | None) -> None:
        """Sets input ``index``, with absent ones up to it."""
        self.inputs += [None] * (index + 1 - len(self.inputs))
        self.inputs[index] = value

    def error(self, what: str) -> ModelError:
        """An error located at this node."""
        return ModelError(
            f"{self.label} of opset version {self.version}: {what}",
            hint="convert the model to opset 13 or newer with the exporter that made it",
        )
