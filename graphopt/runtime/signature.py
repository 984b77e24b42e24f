"""Checking what a caller passes against the inputs and outputs that an artifact declares."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.errors import InputError
from graphopt.ir.dim_text import parse_dim
from graphopt.ir.dims import Dim, SymDim, evaluate
from graphopt.runtime.manifest import TensorSpec
from graphopt.runtime.sizes import SizeRule, check_rule
from graphopt.units import counted


class Signature:
    """The inputs and outputs of an executable, prepared for checks at each call."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        rules: Sequence[SizeRule] = (),
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._rules = tuple(rules)
        self._defaults = dict(defaults or {})
        self._names = [spec.name for spec in inputs]
        self._input_dims = [_dims(spec) for spec in inputs]
        self._output_dims = [_dims(spec) for spec in outputs]

    def arrange(self, args: Sequence[Any], named: Mapping[str, Any]) -> Sequence[Any]:
        """The arrays in the order of the inputs, defaults for those that are not given.

        Raises:
            InputError: one is missing, given twice, or not an input.
        """
        if len(args) == len(self._names) and not named:
            return args
        if len(args) > len(self._names):
            raise InputError(
                f"{counted(len(args), 'array')} for {counted(len(self._names), 'input')}: {self._listing()}"
            )
        given: dict[str, Any] = dict(zip(self._names, args, strict=False))
        for name, array in named.items():
            if name not in self._names:
                close = difflib.get_close_matches(name, self._names, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"the inputs are {self._listing()}"
                raise InputError(f"the model has no input {name!r}", hint=hint)
            if name in given:
                raise InputError(f"input {name!r} was passed twice, by position and by name")
            given[name] = array
        given = {**self._defaults, **given}
        missing = [name for name in self._names if name not in given]
        if missing:
            raise InputError(f"input {missing[0]!r} was not passed; the inputs are {self._listing()}")
        return [given[name] for name in self._names]

    def bind(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """Values of the symbolic dimensions, from the shapes of the inputs.

        Raises:
            InputError: a shape does not fit, two inputs need different values of one symbol, or sizes
                that some node takes together don't fit together.
        """
        values: dict[str, int] = {}
        origin: dict[str, str] = {}
        for spec, dims, shape in zip(self.inputs, self._input_dims, shapes, strict=True):
            if len(shape) != len(dims):
                raise InputError(f"{_expected(spec)}, got {list(shape)} of rank {len(shape)}")
            for axis, (dim, extent) in enumerate(zip(dims, shape, strict=True)):
                if isinstance(dim, int):
                    if dim != extent:
                        raise InputError(f"{_expected(spec)}, got {list(shape)} (axis {axis} must be {dim})")
                elif (symbol := dim.symbol) is not None and values.setdefault(symbol, extent) != extent:
                    raise InputError(
                        f"{_expected(spec)}, got {list(shape)}: axis {axis} is {symbol}, "
                        f"which is {values[symbol]} in input {origin[symbol]!r}"
                    )
                elif symbol is not None:
                    origin.setdefault(symbol, spec.name)
        for spec, dims, shape in zip(self.inputs, self._input_dims, shapes, strict=True):
            _check_expressions(f"{_expected(spec)}, got {list(shape)}", dims, shape, values)
        for rule in self._rules:
            check_rule(rule, values)
        return values

    def check_output(self, index: int, shape: tuple[int, ...], values: Mapping[str, int]) -> None:
        """Check the shape of an array to write output ``index`` into.

        Raises:
            InputError: the output will have another shape.
        """
        spec, dims = self.outputs[index], self._output_dims[index]
        what = f"out: output {spec.name!r} is {spec.dtype}{_shape(spec)}, the array given has {list(shape)}"
        if len(shape) != len(dims):
            raise InputError(what)
        _check_expressions(what, dims, shape, values)

    def _listing(self) -> str:
        return ", ".join(repr(name) for name in self._names) or "none"


def _dims(spec: TensorSpec) -> tuple[Dim, ...]:
    return tuple(extent if isinstance(extent, int) else parse_dim(extent) for extent in spec.shape)


def _check_expressions(
    what: str, dims: Sequence[Dim], shape: Sequence[int], values: Mapping[str, int]
) -> None:
    for axis, (dim, extent) in enumerate(zip(dims, shape, strict=True)):
        try:
            wanted = evaluate(dim, values)
        except (KeyError, ZeroDivisionError):
            continue  # depends on the data: the run decides
        if wanted != extent:
            reason = f"axis {axis} must be {dim}" + (f" = {wanted}" if isinstance(dim, SymDim) else "")
            raise InputError(f"{what} ({reason})")


def _expected(spec: TensorSpec) -> str:
    return f"input {spec.name!r}: expected {spec.dtype}{_shape(spec)}"


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(str(extent) for extent in spec.shape) + "]"
