"""What numbered values are, on each sample: found once, kept while a graph needs them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.evaluate import Session
from graphopt.ir.types import TensorType
from graphopt.verify.cone import Cone, applications_behind, cone_of
from graphopt.verify.expressions import Expressions, Leaf, is_native

MEMORY = 2 << 30
"""Bytes of values that are held in memory; more go to temporary files, mapped."""
_SPILLED = 1 << 16
"""Smaller values stay in memory in any case."""


@dataclass
class Values:
    """Evaluates numbers in ONNX Runtime.

    Args:
        expressions: what the numbers stand for.
        samples: inputs by name, as :func:`graphopt.evaluate.check_inputs` gives them; it may grow by one.
        opset: of the operators' domains.
    """

    expressions: Expressions
    samples: list[Mapping[str, Any]]
    opset: dict[str, int]
    found: dict[int, list[Any]] = field(default_factory=dict)
    """Results by number on each sample; a single one where no input changes it."""
    sessions: int = 0
    """How many graphs were run."""
    _held: int = 0

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
        found = self.found[number]
        return found if self.expressions.varies(number) else found * len(self.samples)

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape of a value on the first sample; of one that was not evaluated as far as its type tells,
        with 1 for what it does not."""
        entry = self.expressions.table[number]
        if number in self.found or isinstance(entry, Leaf):
            return tuple(np.shape(self.of(number)[0])) if self.samples else ()
        type = self.expressions.type_of(number)
        shape = type.shape if isinstance(type, TensorType) and type.shape is not None else ()
        return tuple(dim if isinstance(dim, int) else 1 for dim in shape)

    def evaluate(
        self, wanted: Iterable[int], *, everything: bool = True, spare: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Finds the values of ``wanted`` and, with ``everything``, those on the way.

        The first of ``spare`` on which they can be computed becomes one more sample; that is for the first call.

        Raises:
            EvaluationError: no engine can run what computes them.
        """
        missing = [n for n in dict.fromkeys(wanted) if n not in self.found and not self._is_leaf(n)]
        varies, type_of = self.expressions.varies, self.expressions.type_of
        behind = applications_behind(self.expressions, missing, self)
        # What no input changes, weights in pieces perhaps, is the same on all samples.
        read = [n for made in behind if made.varies for n in made.sources if is_native(type_of(n))]
        fixed = [n for n in (*missing, *read) if not (varies(n) or n in self.found or self._is_leaf(n))]
        if fixed:
            self._evaluate(fixed, everything, range(1))
        varying = [n for n in missing if varies(n)]
        if varying:
            self._evaluate(varying, everything, range(len(self.samples)), spare)

    def _evaluate(
        self, wanted: list[int], everything: bool, on: Sequence[int], spare: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        cone = cone_of(self.expressions, wanted, self, self.opset, everything=everything)
        self.sessions += 1
        with Session(cone.graph) as session:
            results = [session.run(self._feeds(cone, sample)) for sample in on]
            results += self._one_more(cone, session, spare)
        for number, name in zip(cone.results, cone.graph.output_names, strict=True):
            self.found[number] = [self._kept(result[name]) for result in results]

    def forget_all_but(self, needed: Iterable[int]) -> None:
        """Lets go of values that no graph needs any more."""
        kept = set(needed)
        for number in [number for number in self.found if number not in kept]:
            self._held -= sum(_bytes(item) for item in self.found.pop(number))

    def close(self) -> None:
        """Lets go of all values."""
        self.forget_all_but(())

    def _one_more(
        self, cone: Cone, session: Session, spare: Iterable[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        for sample in spare:
            self.samples.append(sample)
            try:
                return [session.run(self._feeds(cone, len(self.samples) - 1))]
            except EvaluationError:
                self.samples.pop()
        return []

    def _is_leaf(self, number: int) -> bool:
        return isinstance(self.expressions.table[number], Leaf)

    def _feeds(self, cone: Cone, sample: int) -> dict[str, Any]:
        names = [value.name for value in cone.graph.inputs]
        return {name: self.of(number)[sample] for name, number in zip(names, cone.feeds, strict=True)}

    def _kept(self, item: Any) -> Any:
        """A result, in a mapped file when memory is short."""
        size = _bytes(item)
        if self._held + size <= MEMORY or size < _SPILLED or item.dtype.hasobject:
            self._held += size
            return item
        # The file has no name, and is gone with the array that is mapped to it.
        with tempfile.TemporaryFile(prefix="graphopt-verify-") as file:
            mapped = np.memmap(file, item.dtype, "w+", shape=item.shape)
        mapped[...] = item
        return mapped


def _bytes(item: Any) -> int:
    return item.nbytes if isinstance(item, np.ndarray) and not isinstance(item, np.memmap) else 0
