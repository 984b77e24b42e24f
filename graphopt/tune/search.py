"""The search: kernel by kernel, the most expensive first, one knob at a time around the models' choice."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from graphopt.backend.compile import KERNEL_ERROR, check_layouts, check_operators
from graphopt.errors import TargetError
from graphopt.ir.graph import Graph
from graphopt.targets import Target, host_machine, missing_features
from graphopt.tune.cache import Entry, TuneCache, code_digest
from graphopt.tune.process import CandidateError, Timer
from graphopt.tune.result import KernelResult, Tuned

if TYPE_CHECKING:
    from graphopt.tune.candidates import Candidate, Subject, Workshop

T = TypeVar("T")

_LEAST_GAIN = 0.98
"""A candidate is taken when in most rounds it needs no more than this share of the time."""
_NO_LOSS = 1.02
"""With all threads it may need this share."""
_ROUNDS = 9
_FIRST_ROUNDS = 5
_LAST_RACES = 3
_LAST = 0.1
"""The share of the time for the last races."""
_SURE = 0.75
"""The share of rounds that must show a gain."""
_TOLERANCE = 1e-4
"""Largest difference of results relative to the largest number; what Winograd may add comes on top."""
_FAR = 64 << 20
"""Bytes; of weights that are further apart than this all come from memory alike."""


def refuse_target(target: Target) -> None:
    """Makes sure that code for ``target`` runs on this machine.

    Raises:
        TargetError: it does not; says why.
    """
    hint = "tune on such a machine, and compile elsewhere with the cache that it wrote: --tune-cache FILE"
    if target.kind != "llvm":
        raise TargetError(
            f"kernels for {target} can't be tuned, only those for CPUs", hint="leave --tune out"
        )
    if target.machine != host_machine():
        raise TargetError(
            f"kernels for {target} can't be timed on this machine, which is {host_machine()}", hint=hint
        )
    missing = missing_features(target.required_features)
    if missing:
        raise TargetError(
            f"kernels for {target} can't be timed on this machine: its CPU lacks {', '.join(missing)}",
            hint=hint,
        )


def tune_graph(
    graph: Graph,
    target: Target,
    seconds: float,
    *,
    kernel_error: float = KERNEL_ERROR,
    cache: TuneCache | None = None,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, step: None,
) -> Tuned:
    """Searches faster ways to make the kernels of a graph, by timing them on this machine.

    A way is taken when it is faster on one thread and no slower on all of them, and when its results are
    those of the way before it.

    Args:
        graph: as :func:`graphopt.backend.compile.compile_graph` takes it; stays as it is.
        seconds: when to stop; what was begun is finished.
        kernel_error: bound of what Winograd's transforms may add to a convolution's relative error.
        cache: what is known already: kernels that were searched whole are left out, others go on.
        threads: all of them; as many as this process has processors by default.
        progress: called with (seconds passed, seconds in all, what is being tuned).

    Raises:
        TargetError: this machine can't run code for the target.
        CompileError: the graph can't be compiled.
        LinkError: no C toolchain.
    """
    refuse_target(target)
    from graphopt.tune.candidates import Workshop, subjects_of

    check_operators(graph)
    check_layouts(graph, target)
    started = time.perf_counter()
    known = {} if cache is None else cache.usable()
    found = subjects_of(graph, target, kernel_error)
    open_ = [s for s in found.tunable if s.digest not in known or not known[s.digest].complete]
    with tempfile.TemporaryDirectory(prefix="graphopt-tune-") as folder, Timer() as timer:
        search = _Search(
            Workshop(Path(folder), target, kernel_error, min(found.weight_bytes, _FAR)),
            timer,
            started + seconds,
            threads or _processors(),
            _TOLERANCE + kernel_error,
            lambda name: progress(int(time.perf_counter() - started), round(seconds), name),
        )
        starts = {digest: entry.choices for digest, entry in known.items()}
        results = search.run(open_, starts)
    entries = dict(cache.entries) if cache is not None else {}
    entries.update({result.digest: _entry(result, target) for result in results})
    return Tuned(
        target.text,
        tuple(results),
        len(found.tunable) - len(open_),
        found.symbolic,
        len(open_) - sum(result.complete for result in results),
        time.perf_counter() - started,
        TuneCache(entries),
    )


def _entry(result: KernelResult, target: Target) -> Entry:
    return Entry(
        result.kernel,
        target.text,
        code_digest(),
        dict(result.choices),
        result.complete,
        round(result.analytic_seconds * 1e6, 2),
        round(result.tuned_seconds * 1e6, 2),
    )


@dataclass
class _State:
    """How far the search of one kernel is."""

    subject: Subject
    analytic: Candidate
    best: Candidate
    seconds: float
    """Of a call of `analytic`."""
    tried: list[dict[str, str]] = field(default_factory=list)
    complete: bool = False
    settled: set[str] = field(default_factory=set)
    """Knobs whose options were all tried."""
    last: list[list[float]] = field(default_factory=list)
    """Rounds of the last races of `analytic` and `best`."""


@dataclass
class _Search:
    workshop: Workshop
    timer: Timer
    end: float
    threads: int
    tolerance: float
    say: Callable[[str], None]

    def run(self, subjects: Sequence[Subject], starts: Mapping[str, Mapping[str, str]]) -> list[KernelResult]:
        """Searches all kernels until the time is over."""
        states: list[_State] = []
        for group in _batches(subjects, _processors()):
            if time.perf_counter() >= self.end:
                break
            self.say(group[0].name)
            states += self._begin(group, starts)
        states.sort(key=lambda state: -_run_seconds(state))
        last = max(0.0, self.end - time.perf_counter()) * _LAST
        while (open_ := [state for state in states if not state.complete]) and self._left(last) > 0:
            for index, state in enumerate(open_):
                # Each gets of the time that is left what it takes of the run that is left.
                share = _run_seconds(state) / sum(map(_run_seconds, open_[index:]))
                self._search(state, time.perf_counter() + self._left(last) * share)
        self._confirm(states, last)
        return [_result(state) for state in states]

    def _left(self, last: float) -> float:
        """Seconds until only ``last`` are left."""
        return self.end - last - time.perf_counter()

    def _begin(
        self, subjects: Sequence[Subject], starts: Mapping[str, Mapping[str, str]]
    ) -> Iterator[_State]:
        """Kernels as the models choose, and as they were tuned before; those that can't be run are left out."""
        earlier = [subject for subject in subjects if starts.get(subject.digest)]
        wanted: list[tuple[Subject, Mapping[str, str]]] = [(subject, {}) for subject in subjects]
        made = self.workshop.make(wanted + [(subject, starts[subject.digest]) for subject in earlier])
        tuned = {s.digest: candidate for s, candidate in zip(earlier, made[len(subjects) :], strict=True)}
        for subject, analytic in zip(subjects, made, strict=False):
            if analytic is None:
                continue
            try:
                rounds = self.timer.race([analytic], threads=1, rounds=_FIRST_ROUNDS)
            except CandidateError:
                continue
            best = tuned.get(subject.digest) or analytic
            yield _State(subject, analytic, best, statistics.median(times[0] for times in rounds))

    def _search(self, state: _State, end: float) -> None:
        """One knob after the other; a knob that only shows after another has changed comes last."""
        while True:
            knobs = [knob for knob in state.best.knobs if knob not in state.settled]
            if not knobs:
                state.complete = True
                return
            fresh = [ways for ways in _other_ways(state.best, knobs[0]) if ways not in state.tried]
            for ways in _batches(fresh, _processors()):
                if time.perf_counter() >= end:
                    return
                self.say(f"{state.subject.name}, {knobs[0]}")
                wanted = [(state.subject, answers) for answers in ways]
                state.tried += ways
                for candidate in self.workshop.make(wanted, unlike=state.best):
                    if candidate is not None and self._wins(state.best, candidate):
                        state.best = candidate
            state.settled.add(knobs[0])

    def _wins(self, best: Candidate, candidate: Candidate) -> bool:
        """Whether a candidate is right and faster."""
        try:
            if not self._gains(self.timer.race([best, candidate], threads=1, rounds=_ROUNDS), _LEAST_GAIN):
                return False
            if self.threads > 1:
                rounds = self.timer.race([best, candidate], threads=self.threads, rounds=_FIRST_ROUNDS)
                if statistics.median(second / first for first, second in rounds) > _NO_LOSS:
                    return False
            return self.timer.difference(best, candidate) <= self.tolerance
        except CandidateError:
            return False

    @staticmethod
    def _gains(rounds: Sequence[Sequence[float]], least: float) -> bool:
        ratios = sorted(second / first for first, second in rounds)
        return ratios[int(_SURE * (len(ratios) - 1))] <= least

    def _confirm(self, states: Sequence[_State], seconds: float) -> None:
        """Goes back to the models' choice where the best does not win in last races, which are spread over time:
        processors, more so those that are shared, are faster and slower for seconds, and not at everything alike."""
        changed = [state for state in states if state.best is not state.analytic]
        for number in range(_LAST_RACES):
            begun = time.perf_counter()
            for state in changed:
                self.say(f"{state.subject.name}, last races")
                state.last += self._last_race(state)
            if changed and number + 1 < _LAST_RACES:
                time.sleep(max(0.0, begun + seconds / _LAST_RACES - time.perf_counter()))
        for state in changed:
            if not self._gains(state.last, _LEAST_GAIN):
                state.best = state.analytic

    def _last_race(self, state: _State) -> list[list[float]]:
        try:
            rounds = self.timer.race([state.analytic, state.best], threads=1, rounds=_FIRST_ROUNDS)
            right = self.timer.difference(state.analytic, state.best) <= self.tolerance
        except CandidateError:
            right = False
        return rounds if right else [[1.0, float("inf")]] * _ROUNDS


def _result(state: _State) -> KernelResult:
    seconds = tuned = state.seconds
    if state.best is not state.analytic:
        seconds = statistics.median(first for first, _ in state.last)
        tuned = seconds * statistics.median(second / first for first, second in state.last)
    return KernelResult(
        state.subject.digest,
        state.subject.name,
        tuple(state.subject.nodes),
        seconds,
        tuned,
        dict(sorted(state.best.answers.items())),
        {knob: state.analytic.knobs.get(knob, ("",))[0] for knob in state.best.answers},
        len(state.tried),
        state.complete,
    )


def _run_seconds(state: _State) -> float:
    return state.seconds * len(state.subject.nodes)


def _other_ways(best: Candidate, knob: str) -> list[dict[str, str]]:
    """The answers of ``best`` with each other option of a knob, nearest first."""
    taken = best.answers.get(knob, best.knobs[knob][0])
    return [{**best.answers, knob: option} for option in best.knobs[knob] if option != taken]


def _processors() -> int:
    """How many kernels are compiled side by side."""
    return len(os.sched_getaffinity(0))


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
