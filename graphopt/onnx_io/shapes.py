"""Shapes fixed on the way in: numbers for named dimensions, and whole shapes for inputs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from graphopt.errors import ModelError
from graphopt.ir.dims import Dim
from graphopt.ir.types import TensorType, Type
from graphopt.onnx_io.text import check_graph_text, check_text
from graphopt.onnx_io.types import DimReader, is_anonymous
from graphopt.units import counted

if TYPE_CHECKING:
    import onnx


def fixed_inputs(
    model: onnx.ModelProto, fixed: Mapping[str, int], shapes: Mapping[str, Sequence[int | str]]
) -> tuple[DimReader, dict[str, Type]]:
    """The reader of the model's dimensions, and the types of the inputs that have a given shape.

    A number given where an input has a named dimension holds for this name in the whole model.

    Raises:
        ModelError: an unknown dimension or input, or a shape that contradicts the model's.
    """
    check_graph_text(model.graph, "the graph")
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = {info.name: info for info in model.graph.input if info.name not in initializers}
    names: dict[str, None] = {}
    for info in inputs.values():
        params = _names(info)
        check_text(params, f'the shape of "{info.name}"')
        names.update(dict.fromkeys(name for name in params if name))
    for name, number in fixed.items():
        if name not in names:
            raise _unknown("dimension", name, names)
        if number < 0:
            raise ModelError(f'dimension "{name}" can\'t be {number}', hint="dimensions are 0 or more")
    known: dict[str, int] = dict(fixed)
    shapes = {**_shapes_of_fixed(inputs.values(), fixed), **shapes}
    for name, shape in shapes.items():
        if name not in inputs:
            raise _unknown("input", name, inputs)
        _bind(inputs[name], shape, known)
    new = (dim for shape in shapes.values() for dim in shape if isinstance(dim, str))
    reader = DimReader(known, (*names, *new))
    types: dict[str, Type] = {}
    for name, shape in shapes.items():
        declared = reader.type(inputs[name].type, name)
        if not isinstance(declared, TensorType):
            raise ModelError(f'input "{name}" is {declared}, which has no shape to fix')
        given = [_given(dim, declared, axis, reader, name) for axis, dim in enumerate(shape)]
        types[name] = declared.with_shape(tuple(given))
    return reader, types


def _given(dim: int | str, declared: TensorType, axis: int, reader: DimReader, name: str) -> Dim:
    if isinstance(dim, int):
        return dim
    if is_anonymous(dim) and declared.shape is not None:
        return declared.shape[axis]
    return reader.named(dim, f"{name}_d{axis}")


def _bind(info: onnx.ValueInfoProto, shape: Sequence[int | str], known: dict[str, int]) -> None:
    if any(isinstance(dim, int) and dim < 0 for dim in shape):
        raise ModelError(
            f'input "{info.name}" can\'t have the shape {list(shape)}', hint="dimensions are 0 or more"
        )
    if not info.type.tensor_type.HasField("shape"):
        return
    declared = _dims(info)
    if len(declared) != len(shape):
        raise ModelError(
            f'input "{info.name}" has {counted(len(declared), "dimension")}, the shape given for it has {len(shape)}'
        )
    for axis, (dim, given) in enumerate(zip(declared, shape, strict=True)):
        if not isinstance(given, int):
            continue
        named = bool(dim.dim_param) and not is_anonymous(dim.dim_param)
        fixed = known.get(dim.dim_param) if named else None
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            fixed = dim.dim_value
        if fixed is not None and fixed != given:
            raise ModelError(
                f'dimension {axis} of input "{info.name}" is {fixed}, and {given} is given for it',
                hint="only dimensions that the model leaves open can be fixed",
            )
        if named:
            known[dim.dim_param] = given


def _names(info: onnx.ValueInfoProto) -> list[str]:
    """The name of each dimension: its own, the one that import will give it, or "" for a number."""
    names = []
    for axis, dim in enumerate(_dims(info)):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            names.append("")
        elif dim.dim_param and not is_anonymous(dim.dim_param):
            names.append(dim.dim_param)
        else:
            names.append(f"{info.name}_d{axis}")
    return names


def _shapes_of_fixed(
    inputs: Iterable[onnx.ValueInfoProto], fixed: Mapping[str, int]
) -> dict[str, list[int | str]]:
    """Shapes of the inputs that have a dimension without a name of its own and a number for it."""
    shapes: dict[str, list[int | str]] = {}
    for info in inputs:
        names, dims = _names(info), _dims(info)
        own = {dim.dim_param for dim in dims}
        if any(name in fixed and name not in own for name in names):
            shapes[info.name] = [
                fixed.get(name, dim.dim_param) if name else dim.dim_value
                for name, dim in zip(names, dims, strict=True)
            ]
    return shapes


def _dims(info: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    return list(info.type.tensor_type.shape.dim)


def _unknown(what: str, name: str, names: Iterable[str]) -> ModelError:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    known = ", ".join(f'"{known}"' for known in names) or "none"
    hint = f'did you mean "{close[0]}"?' if close else f"the model has: {known}"
    return ModelError(f'the model has no {what} named "{name}"', hint=hint)
