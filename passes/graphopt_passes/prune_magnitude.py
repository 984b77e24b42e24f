"""Magnitude pruning: the weights closest to zero become zero (Han et al., 2015).

With ``sparsity`` (0.5 when nothing is said) exactly ``floor(sparsity * n)`` of ``n`` weights are zeroed, those of smallest
magnitude; among equal magnitudes the earlier position goes first, so that the result is determined.
``n`` counts the weights of each layer (``scope=layer``) or of all chosen layers together
(``scope=global``), where layers follow program order. With ``threshold`` all weights of smaller
magnitude are zeroed, however many. A NaN counts as larger than everything.

Weights are the constant operands of Conv, ConvTranspose, Gemm and MatMul; biases are never touched.
A constant that chosen layers share is pruned once; other users keep the original.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from graphopt.ir.graph import Node, Use, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.pipeline import Context, Effect, Pass, register_pass
from graphopt_passes.weights import chosen, weight_uses

_DEFAULT_SPARSITY = 0.5

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Magnitudes = np.ndarray[Any, np.dtype[np.float64]]


class Scope(enum.Enum):
    """Among which weights the smallest are found."""

    LAYER = "layer"
    GLOBAL = "global"


@register_pass("prune-magnitude")
@dataclass(frozen=True)
class PruneMagnitude(Pass):
    """Set the weights of smallest magnitude to zero."""

    effect = Effect.LOSSY
    sparsity: float | None = field(
        default=None,
        metadata={"help": "share of the weights to zero; 0.5 without a threshold", "min": 0, "max": 1},
    )
    scope: Scope = field(default=Scope.LAYER, metadata={"help": "count in each layer, or over all layers"})
    threshold: float | None = field(
        default=None, metadata={"help": "zero weights of smaller magnitude instead of counting", "min": 0}
    )
    include: tuple[str, ...] = field(
        default=("*",), metadata={"help": "shell patterns of the layers, by name of node, output or weight"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "shell patterns of layers to leave alone"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity is not None and self.threshold is not None:
            raise ValueError("sparsity and threshold exclude each other; give one of them")
        if self.scope is Scope.GLOBAL and self.threshold is not None:
            raise ValueError("scope=global goes with sparsity; a threshold is the same for all layers")

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Prunes and notes what became of each layer."""
        layers: dict[Value, list[Use]] = {}
        found = list(weight_uses(rewriter.graph))
        for use, value in chosen(found, _node_and_weight, self.include, self.exclude, context.logger):
            layers.setdefault(value, []).append(use)
        masks = self._masks(list(layers))
        for (value, uses), mask in zip(layers.items(), masks, strict=True):
            _prune(rewriter, value, uses, mask)
        context.notes["layers"] = [
            {"weight": value.name, "size": mask.size, "zeroed": int(mask.sum())}
            for value, mask in zip(layers, masks, strict=True)
        ]

    def _masks(self, weights: Sequence[Value]) -> list[Mask]:
        """Which elements of each weight to zero, flat."""
        found = [magnitudes(value) for value in weights]
        if self.threshold is not None:
            return [m < self.threshold for m in found]
        if self.scope is Scope.LAYER or not found:
            return [smallest(m, self._count(m.size)) for m in found]
        together = np.concatenate(found)
        cuts = np.cumsum([m.size for m in found])[:-1]
        return np.split(smallest(together, self._count(together.size)), cuts)

    def _count(self, size: int) -> int:
        """``floor(sparsity * size)`` of the sparsity as it is written: 0.29 of 100 is 29."""
        share = _DEFAULT_SPARSITY if self.sparsity is None else self.sparsity
        return int(Fraction(repr(float(share))) * size)


def _node_and_weight(found: tuple[Use, Value]) -> tuple[Node, Value]:
    use, value = found
    assert isinstance(use.user, Node)
    return use.user, value


def magnitudes(value: Value) -> Magnitudes:
    """Absolute values in double precision, flat; NaN counts as infinity."""
    assert value.const is not None
    flat = np.abs(value.const.numpy().astype(np.float64).reshape(-1))
    return np.where(np.isnan(flat), np.inf, flat)


def smallest(values: Magnitudes, count: int) -> Mask:
    """Marks the ``count`` smallest of ``values``, the earlier of equal ones first."""
    if count <= 0:
        return np.zeros(values.shape, np.bool_)
    limit = np.partition(values, count - 1)[count - 1]
    mask: Mask = values < limit
    mask[np.flatnonzero(values == limit)[: count - int(mask.sum())]] = True
    return mask


def _prune(rewriter: Rewriter, value: Value, uses: Sequence[Use], mask: Mask) -> None:
    assert value.const is not None
    data = value.const.numpy()
    marked = mask.reshape(data.shape)
    if not (data[marked] != 0).any():
        return
    pruned = np.where(marked, data.dtype.type(0), data)
    with rewriter.rewrite("prune-weight", uses[0].user):  # type: ignore[arg-type]
        replacement = rewriter.constant(Tensor.of(pruned, value.const.dtype), value.name)
        for use in uses:
            rewriter.set_input(use.user, use.index, replacement)  # type: ignore[arg-type]
        if not value.num_uses:
            rewriter.erase_constant(value)
            rewriter.rename(replacement, value.name)
