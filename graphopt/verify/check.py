"""Compares a graph with what it was before a pass, value by value.

A pass is checked piece by piece. Where it says that a new value equals an old one, only what computes the
new value is run, on the old values that it reads, and the two are compared; what follows is taken to
have read the old one, and is not run again. So a fault is seen at the first value where it arises, even
if it never reaches an output, and errors don't pile up from pass to pass.

A value that a pass kept, and whose computation it changed in place, is held to be equal too. If it is not,
it may still be rightly so: a scale that moved over it, say. Then all that reads it must in the end be
values of which the pass says that they equal old ones, and they must.

What depends on an operator that draws random numbers, or that no engine runs, is left out. Where a pass changed
a region of an If or a Loop that no sample runs, it is made to run, before and after, unless it might not end. A
difference is then a fault if inputs can surely be such that the region reads what it was given; else it is noted,
as are regions that could not be compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.transaction import Transaction
from graphopt.ir.types import TensorType
from graphopt.verify.cone import applications_behind, path_between
from graphopt.verify.distance import Distance, compare
from graphopt.verify.expressions import Application, Expressions, Leaf, is_native
from graphopt.verify.grid import distance_to_grid, grid_of
from graphopt.verify.opaque import Opacity, opaque_parts, unloadable
from graphopt.verify.provenance import Provenance, provenance
from graphopt.verify.tolerance import Effect, Path, Tolerance
from graphopt.verify.unseen import (
    affected,
    changed,
    holds_control_flow,
    is_possible,
    may_not_end,
    obstacle,
    told,
    turned,
    unseen,
)
from graphopt.verify.values import Values

_NEGLIGIBLE = 0.01
"""Share of the tolerance that passes may take in sum before the whole graph is run again."""


class Incomparable(EvaluationError):
    """Nothing in a graph can be compared."""


@dataclass(frozen=True)
class Pair:
    """A value and the number of what it should equal; ``claimed``: the pass said so."""

    value: Value
    actual: int
    expected: int
    claimed: bool
    name: str
    """The output's name to the outside, or that of the value before the pass, where it has none the value's."""
    is_output: bool = False


@dataclass(frozen=True)
class Mismatch:
    """A value that is not what it should be."""

    pair: Pair
    distance: Distance
    sample: int
    region: str = ""
    """What had to be made to run to see it; empty where the sample alone shows it."""

    @property
    def value(self) -> str:
        return self.pair.name

    def __str__(self) -> str:
        what = f'output "{self.value}"' if self.pair.is_output else f"%{self.value}"
        found = self.distance
        text = f"{what} changed by {found.measured:.3g} of its largest value"
        if found.measured == float("inf"):
            text = f"{what} changed"
        detail = f" ({found.detail})" if found.detail else ""
        detail += f", with {self.region} made to run" if self.region else ""
        return f"{text}{detail}; allowed: {found.tolerance.reason}"


@dataclass
class Outcome:
    """What a comparison found: ``mismatches`` in program order, and every measured distance by name."""

    ids: dict[Value, int]
    outputs: list[int]
    pairs: list[Pair] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    distances: dict[str, float] = field(default_factory=dict)
    tolerances: dict[str, Tolerance] = field(default_factory=dict)
    """What each of these was held against."""
    fresh: set[int] = field(default_factory=set)
    """Numbers that had no value before."""
    spent: float = 0.0
    """The largest share of its tolerance that a value took."""
    left_out: list[str] = field(default_factory=list)
    """Regions that could not be compared, and why, or that differ on what they may never get."""

    def note(self, name: str, distance: Distance) -> None:
        """Keeps the largest distance of a name, and what it was held against."""
        if name not in self.distances or distance.measured > self.distances[name]:
            self.distances[name], self.tolerances[name] = distance.measured, distance.tolerance


class Checker:
    """Holds the values of a graph while passes change it.

    Attributes:
        left_out: what is not compared, and why, in words.

    Args:
        graph: before the first pass.
        samples: checked inputs.
        spare: more of them; the first on which the graph runs becomes one more sample.

    Raises:
        Incomparable: all values depend on operators that draw random numbers or that no engine runs.
        EvaluationError: no engine can run the graph.
    """

    def __init__(
        self, graph: Graph, samples: Sequence[Mapping[str, Any]], spare: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        try:
            self._begin(graph, samples, spare, Opacity())
        except Incomparable:
            raise
        except EvaluationError:
            missing = unloadable(graph)
            if not missing:
                raise
            self._begin(graph, samples, spare, Opacity(missing))

    def _begin(
        self,
        graph: Graph,
        samples: Sequence[Mapping[str, Any]],
        spare: Iterable[Mapping[str, Any]],
        opacity: Opacity,
    ) -> None:
        self.expressions = Expressions(opacity)
        self.values = Values(self.expressions, list(samples), dict(graph.opset))
        self._same: dict[int, int] = {}
        self._agreed: set[tuple[int, int]] = set()
        self._effect = Effect.EXACT
        self._spent = 0.0
        self.ids = self.number(graph)
        self.outputs = [self.ids[value] for value in graph.outputs]
        self.left_out = opaque_parts(graph, self.ids, self.expressions)
        wanted = self._comparable()
        if self.left_out and not any(isinstance(self.expressions.table[n], Application) for n in wanted):
            raise Incomparable(next(filter(None, map(self.expressions.opaque, self.outputs))))
        self.values.evaluate(wanted, spare=spare)
        # What a pass calibrates knows nothing of a spare one.
        self._typical = len(samples)

    def number(self, graph: Graph) -> dict[Value, int]:
        """The numbers of a graph's values; what was found equal to an old value has that one's."""
        return self.expressions.number(graph, lambda value, number: self._same.get(number, number))

    def compare(
        self,
        graph: Graph,
        before: Mapping[Value, int],
        outputs: Sequence[int],
        transactions: Sequence[Transaction],
        effect: Effect,
    ) -> Outcome:
        """What ``transactions`` made of a graph whose values had the numbers ``before``.

        Raises:
            EvaluationError: the graph can't be run any more.
        """
        claims = provenance(transactions, before)
        if effect is Effect.LOSSY:
            outcome = self._numbered(graph, {}, outputs, Provenance(), trusting=False)
            self._judge(outcome, effect)
            broken = [mismatch for mismatch in outcome.mismatches if self._is_broken(mismatch)]
            outcome.mismatches = [*self._off_grid(outcome, claims, before), *broken]
            return outcome
        outcome = self._numbered(graph, before, outputs, claims, trusting=True)
        self._judge(outcome, effect)
        if outcome.mismatches and not all(pair.claimed for pair in outcome.pairs):
            outcome = self._numbered(graph, before, outputs, claims, trusting=False)
            self._judge(outcome, effect)
            claimed = {pair.value for pair in outcome.pairs if pair.claimed}
            found, outcome.mismatches = outcome.mismatches, []
            for mismatch in found:
                if mismatch.pair.claimed or not _ends_in(mismatch.pair.value, claimed):
                    outcome.mismatches.append(mismatch)
                else:
                    outcome.pairs = [pair for pair in outcome.pairs if pair is not mismatch.pair]
        return outcome

    def accept(self, outcome: Outcome, effect: Effect) -> None:
        """Goes on from a graph in which nothing was found to be wrong."""
        if effect is not Effect.LOSSY:
            for pair in outcome.pairs:
                self._agreed.add((pair.actual, pair.expected))
                if outcome.ids.get(pair.value) == pair.expected and pair.actual in outcome.fresh:
                    self._same[pair.actual] = pair.expected
            if outcome.pairs and effect is Effect.APPROXIMATE:
                self._effect = effect
            self._spent += outcome.spent
        self.left_out += [text for text in outcome.left_out if text not in self.left_out]
        self.ids, self.outputs = outcome.ids, outcome.outputs
        self.values.forget_all_but([*self.ids.values(), *self.outputs])

    def drift(self, graph: Graph) -> dict[str, Distance]:
        """Runs the whole graph, whose pieces were found right one by one, on all samples but the spare one: the
        distance of each output, by name.

        Nothing where the passes took less than a hundredth of what they may, in sum.

        Raises:
            EvaluationError: it can't be run.
        """
        if self._spent < _NEGLIGIBLE:
            return {}
        plain = self.expressions.number(graph)
        actual = [plain[value] for value in graph.outputs]
        whole = Values(self.expressions, self.values.samples[: self._typical], self.values.opset)
        compared = [
            (name, number, expected)
            for name, number, expected in zip(graph.output_names, actual, self.outputs, strict=True)
            if not self.expressions.opaque(expected)
        ]
        whole.evaluate([number for _, number, _ in compared], everything=False)
        found: dict[str, Distance] = {}
        for name, number, expected in compared:
            path = path_between(self.expressions, number, (), self.values.shape)
            for a, b in zip(whole.of(number), self.values.of(expected), strict=False):
                distance = compare(a, b, self._effect, path)
                if name not in found or distance.measured > found[name].measured:
                    found[name] = distance
        whole.close()
        return found

    # --- inside -------------------------------------------------------------------------------

    def _comparable(self) -> list[int]:
        """The outputs, and what opaque operators behind them read, as far as it can be compared."""
        table = self.expressions
        opaque = [made for made in applications_behind(table, self.outputs, ()) if made.opaque]
        read = [n for made in opaque for n in made.sources if is_native(table.type_of(n))]
        return [number for number in (*self.outputs, *read) if not table.opaque(number)]

    def _numbered(
        self,
        graph: Graph,
        before: Mapping[Value, int],
        outputs: Sequence[int],
        claims: Provenance,
        *,
        trusting: bool,
    ) -> Outcome:
        """Numbers the graph and pairs its values; ``trusting``: values that were kept are taken to be equal."""
        pairs: list[Pair] = []
        names = dict(zip(graph.outputs, graph.output_names, strict=True))
        was = {number: value.name for value, number in reversed(list(before.items()))}

        def pair(value: Value, number: int, expected: int, claimed: bool) -> Pair:
            name = names.get(value) or was.get(expected) or value.name
            return Pair(value, number, expected, claimed, name, value in names)

        def settle(value: Value, number: int) -> int:
            number = self._same.get(number, number)
            claimed = claims.equal.get(value, ())
            pairs.extend(pair(value, number, n, True) for n in claimed if n != number)
            kept = before.get(value)
            if kept == number or number in claimed:
                return number
            if claimed:
                return claimed[0]
            if kept is None:
                return number
            pairs.append(pair(value, number, kept, False))
            return kept if trusting else number

        ids = self.expressions.number(graph, settle)
        now = [ids[value] for value in graph.outputs]
        paired = {(found.actual, found.expected) for found in pairs}
        for value, name, number, expected in zip(
            graph.outputs, graph.output_names, now, outputs, strict=True
        ):
            if number != expected and (number, expected) not in paired:
                pairs.append(Pair(value, number, expected, False, name, True))
        unknown = [
            found
            for found in pairs
            if (found.actual, found.expected) not in self._agreed
            and not self.expressions.opaque(found.expected)
        ]
        return Outcome(ids, now, list(dict.fromkeys(unknown)))

    def _judge(self, outcome: Outcome, effect: Effect) -> None:
        """Evaluates what is new and compares."""
        known = set(self.values.found)
        wanted = [number for pair in outcome.pairs for number in (pair.actual, pair.expected)]
        self.values.evaluate(wanted)
        outcome.fresh = {number for number in wanted if number not in known}
        for pair in outcome.pairs:
            path = self._path(pair, known)
            self._judge_pair(pair, self.values, outcome, effect, path)
            if effect is not Effect.LOSSY:
                self._judge_unseen(pair, outcome, effect, path)
        if effect is not Effect.LOSSY:
            self._name_unpaired(outcome, known)

    def _judge_pair(
        self, pair: Pair, values: Values, outcome: Outcome, effect: Effect, path: Path, region: str = ""
    ) -> None:
        actual, expected = values.of(pair.actual), values.of(pair.expected)
        for sample, (a, b) in enumerate(zip(actual, expected, strict=True)):
            distance = compare(a, b, effect, path)
            if effect is not Effect.LOSSY or sample < self._typical:
                outcome.note(pair.name, distance)
            if distance.tolerance.allowed:
                outcome.spent = max(outcome.spent, distance.measured / distance.tolerance.allowed)
            if distance.is_fault:
                outcome.mismatches.append(Mismatch(pair, distance, sample, region))

    def _judge_unseen(self, pair: Pair, outcome: Outcome, effect: Effect, path: Path) -> None:
        """Compares what the region of a node gives that no sample runs, if it changed."""
        old, new = (self.expressions.table[number] for number in (pair.expected, pair.actual))
        regions = changed(old, new) if isinstance(old, Application) else ()
        if not isinstance(old, Application) or not regions:
            return
        if nested := [
            name for name in regions if holds_control_flow(old, name) or holds_control_flow(new, name)
        ]:
            outcome.left_out.append(
                f"control flow inside of {old.label}: only what the samples run of it is compared"
            )
        found = unseen(old, self.values)
        if found is None or found.region not in regions or found.region in nested:
            return  # a loop that is made to run on what it never gets might not end
        if why := obstacle(found, new):
            outcome.left_out.append(told(found, why))
            return
        both = (pair.expected, pair.actual)
        stale = affected(found, both, self.values)
        if any(may_not_end(made) for made in stale if made not in (old, new)):
            outcome.left_out.append(told(found, "made to run other control flow might not end"))
            return
        other = turned(found, stale, self.values)
        possible = is_possible(found, both, self.expressions)
        for number in both:
            try:
                other.evaluate([number], everything=False)
            except EvaluationError as error:
                if possible and number == pair.actual:
                    raise  # it did not fail before the pass
                outcome.left_out.append(told(found, f"made to run it fails: {error.message}"))
                return
        trial = Outcome({}, [])
        self._judge_pair(pair, other, trial, effect, path, str(found))
        if trial.mismatches and not possible:
            why = "made to run it differs, on numbers that it may never get"
            outcome.left_out.append(told(found, f"{why}: {trial.mismatches[0]}"))
            return
        self._judge_pair(pair, other, outcome, effect, path, str(found))

    def _name_unpaired(self, outcome: Outcome, known: set[int]) -> None:
        """Names the regions that no sample runs of nodes that a pass made or replaced together with others, so that
        they have no node of their own to be compared with."""
        table = self.expressions.table
        if not any(map(_has_regions, table)):
            return
        paired = {table[number] for pair in outcome.pairs for number in (pair.actual, pair.expected)}
        paired -= {table[pair.actual] for pair in outcome.pairs if not _has_regions(table[pair.expected])}
        kept = {table[number] for number in outcome.ids.values()}
        for pair in outcome.pairs:
            made = applications_behind(self.expressions, [pair.actual], known)
            read = {source for each in made for source in each.sources if source in known}
            gone = applications_behind(self.expressions, [pair.expected], read - {pair.expected})
            new = [node for node in made if known.isdisjoint(node.numbers)]
            for node in (*new, *[node for node in gone if node not in kept]):
                found = unseen(node, self.values) if node not in paired else None
                text = told(found, "the pass put it in the place of something else") if found else ""
                if text and text not in outcome.left_out:
                    outcome.left_out.append(text)

    def _path(self, pair: Pair, known: Container[int]) -> Path:
        """The longer way of the two from what they have in common."""
        behind = applications_behind(self.expressions, [pair.actual], known)
        leaves = {source for made in behind for source in made.sources if source in known} - {pair.expected}
        ways = [
            path_between(self.expressions, n, leaves, self.values.shape) for n in (pair.actual, pair.expected)
        ]
        return Path(max(1, *(way.ops for way in ways)), max(way.terms for way in ways))

    def _off_grid(self, outcome: Outcome, claims: Provenance, before: Mapping[Value, int]) -> list[Mismatch]:
        """Values that are further than half a step from what they were quantized from."""
        found = []
        for new, old in claims.quantized:
            expected = outcome.ids.get(old, before.get(old))
            if expected is None or new not in outcome.ids or self.expressions.opaque(expected):
                continue
            pair = Pair(new, outcome.ids[new], expected, True, old.name)
            self.values.evaluate([pair.actual, pair.expected])
            both = zip(self.values.of(pair.actual), self.values.of(pair.expected), strict=True)
            for sample, (a, b) in enumerate(itertools.islice(both, self._typical)):
                grid = grid_of(new, np.shape(b))
                distance = distance_to_grid(a, b, grid) if grid is not None else None
                if distance is None:
                    continue
                outcome.note(pair.name, distance)
                if distance.is_fault:
                    found.append(Mismatch(pair, distance, sample))
        return found

    def _is_broken(self, mismatch: Mismatch) -> bool:
        """Whether a value is of another type or shape than it was, or NaN or infinite where it was finite: what
        no pass may make of it, whatever it loses. Sizes that depend on data may change with them."""
        pair, sample = mismatch.pair, mismatch.sample
        actual, expected = self.values.of(pair.actual)[sample], self.values.of(pair.expected)[sample]
        if not isinstance(actual, np.ndarray) or not isinstance(expected, np.ndarray):
            return type(actual) is not type(expected)
        if actual.dtype != expected.dtype or actual.ndim != expected.ndim:
            return True
        type_ = self.expressions.type_of(pair.expected)
        dims = type_.shape if isinstance(type_, TensorType) and type_.shape is not None else ()
        sizes = zip(dims, actual.shape, expected.shape, strict=False)
        if any(isinstance(dim, int) and a != b for dim, a, b in sizes):
            return True
        if actual.shape != expected.shape or expected.dtype.kind in "OSUbiu":
            return False
        return bool(np.any(np.isfinite(expected) & ~np.isfinite(actual)))


def _has_regions(entry: Application | Leaf) -> bool:
    return isinstance(entry, Application) and entry.regions is not None


def _ends_in(value: Value, claimed: Container[Value]) -> bool:
    """Whether all that depends on ``value`` ends in values of ``claimed``."""
    seen: set[Value] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for use in current.uses:
            if not isinstance(use.user, Node) or (use.user.regions and not use.user.is_fused):
                return False
            pending += [output for output in use.user.outputs if output not in claimed]
    return True
