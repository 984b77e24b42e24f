"""What numbered values are, on each sample: found once, kept while a graph needs them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.evaluate import Session
from graphopt.ir.types import TensorType
from graphopt.verify.cone import Cone, cone_of
from graphopt.verify.expressions import Expressions, Leaf

MEMORY = 2 << 30
"""Bytes of values that are held in memory; more go to a temporary folder, mapped."""
_SPILLED = 1 << 16
"""Smaller values stay in memory in any case."""


@dataclass
class Values:
    """Evaluates numbers in ONNX Runtime.

    Args:
        expressions: what the numbers stand for.
        samples: inputs by name, as :func:`graphopt.evaluate.check_inputs` gives them.
        opset: of the operators' domains.
    """

    expressions: Expressions
    samples: Sequence[Mapping[str, Any]]
    opset: dict[str, int]
    found: dict[int, list[Any]] = field(default_factory=dict)
    """Results on each sample by number."""
    sessions: int = 0
    """How many graphs were run."""
    _held: int = 0
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def __contains__(self, number: object) -> bool:
        return number in self.found

    def of(self, number: int) -> list[Any]:
        """A value on each sample.

        Raises:
            KeyError: it was not evaluated.
        """
        entry = self.expressions.table[number]
        if number not in self.found and isinstance(entry, Leaf):
            if entry.data is not None:
                return [entry.data.numpy()] * len(self.samples)
            return [sample[entry.name] for sample in self.samples]
        return self.found[number]

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape of a value on the first sample; of one that was not evaluated as far as its type tells,
        with 1 for what it does not."""
        entry = self.expressions.table[number]
        if number in self.found or isinstance(entry, Leaf):
            return tuple(np.shape(self.of(number)[0])) if self.samples else ()
        type = self.expressions.type_of(number)
        shape = type.shape if isinstance(type, TensorType) and type.shape is not None else ()
        return tuple(dim if isinstance(dim, int) else 1 for dim in shape)

    def evaluate(self, wanted: Iterable[int], *, everything: bool = True) -> None:
        """Finds the values of ``wanted`` and, with ``everything``, those on the way.

        Raises:
            EvaluationError: no engine can run what computes them.
        """
        missing = [n for n in dict.fromkeys(wanted) if n not in self.found and not self._is_leaf(n)]
        if not missing:
            return
        cone = cone_of(self.expressions, missing, self, self.opset, everything=everything)
        self.sessions += 1
        with Session(cone.graph) as session:
            results = [session.run(self._feeds(cone, sample)) for sample in range(len(self.samples))]
        for number, name in zip(cone.results, cone.graph.output_names, strict=True):
            self.found[number] = [self._kept(result[name]) for result in results]

    def forget_all_but(self, needed: Iterable[int]) -> None:
        """Lets go of values that no graph needs any more."""
        kept = set(needed)
        for number in [number for number in self.found if number not in kept]:
            self._held -= sum(_bytes(item) for item in self.found.pop(number))

    def close(self) -> None:
        """Lets go of all values."""
        self.found.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _is_leaf(self, number: int) -> bool:
        return isinstance(self.expressions.table[number], Leaf)

    def _feeds(self, cone: Cone, sample: int) -> dict[str, Any]:
        names = [value.name for value in cone.graph.inputs]
        return {name: self.of(number)[sample] for name, number in zip(names, cone.feeds, strict=True)}

    def _kept(self, item: Any) -> Any:
        """A result, in a mapped file when memory is short."""
        size = _bytes(item)
        if self._held + size <= MEMORY or size < _SPILLED:
            self._held += size
            return item
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphopt-verify-")
        file = Path(self._folder.name) / f"{len(list(Path(self._folder.name).iterdir()))}.npy"
        np.save(file, item)
        return np.load(file, mmap_mode="r")


def _bytes(item: Any) -> int:
    return item.nbytes if isinstance(item, np.ndarray) and not isinstance(item, np.memmap) else 0
