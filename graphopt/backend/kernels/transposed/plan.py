"""How a transposed convolution is computed: its plan, and where the weights of its convolutions lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm.ir import PointerType, PrimType
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.conv_spec import Store
from graphopt.backend.kernels.emit import Buffer, ceil_div, i64
from graphopt.backend.kernels.knobs import part_of
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.transposed.phases import Phases

Array = npt.NDArray[np.generic]

_LINE = 16  # elements: weights of every convolution begin at a multiple


@dataclass(frozen=True)
class TransposedPlan:
    """How a transposed convolution wants its weights, and its loops.

    Attributes:
        form: equal for equal ways of packing.
        pack: weights ``[in, out / groups, *kernel]`` in the order in which ``emit`` reads them.
        emit: emit(x, w, store), ``x`` flat where channels lie in blocks; store(value, (n, o, *position)).
        dtype: of the packed weights.
        methods: what to say of it in the kernel's name.
    """

    form: Hashable
    weight_shape: tuple[int, ...]
    pack: Callable[[Array], Array]
    emit: Callable[[Buffer, Buffer, Store], None]
    dtype: str
    methods: tuple[str, ...] = ()


def joined_weights(shapes: list[tuple[int, ...]], dtype: str, parts: Iterable[Array]) -> Array:
    """The packed weights of all parts one after the other."""
    joined = np.zeros(joined_size(shapes), dtype)
    start = 0
    for shape, part in zip(shapes, parts, strict=True):
        joined[start : start + part.size] = part.reshape(-1)
        start += _room(shape)
    return joined


def joined_size(shapes: list[tuple[int, ...]]) -> int:
    """Elements of the packed weights of all parts."""
    return max(sum(map(_room, shapes)), 1)


def _room(shape: tuple[int, ...]) -> int:
    size: int = ceil_div(math.prod(shape), _LINE) * _LINE
    return size


def split_weights(w: Buffer, shapes: list[tuple[int, ...]]) -> Iterator[Buffer]:
    """Views of the weights of each part."""
    start = 0
    for shape in shapes:
        if len(shapes) == 1:
            yield T.decl_buffer(shape, w.dtype, data=w.data)
            return
        data = T.Bind(T.address_of(w[i64(start)]), PointerType(PrimType(w.dtype)))
        yield T.decl_buffer(shape, w.dtype, data=data)
        start += _room(shape)


def own_machines(parts: list[Phases], machine: Machine) -> list[Machine]:
    """A machine for each part; only those that are equal convolutions share what is chosen."""
    convs = [part.conv for part in parts]
    return [part_of(machine, f"phases {convs.index(conv)}") for conv in convs]
