"""Timing kernels in a process that may crash, and what the search keeps."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi
from onnx import helper

import graphopt as go
from graphopt.backend.compile import compile_graph
from graphopt.errors import TargetError
from graphopt.targets import Target, host_features
from graphopt.targets.features import X86_EXTRAS
from graphopt.tune import TuneCache, tune_graph
from graphopt.tune.cache import Entry, code_digest
from graphopt.tune.candidates import Candidate, Subject, Workshop, subjects_of
from graphopt.tune.process import CandidateError, Timer
from graphopt.tune.search import _result, _Search, _State
from tests.backend.programs import NATIVE, assert_close, expected_of, numbers, program

N = helper.make_node
X = {"x": numbers(0, 1, 32, 14, 14)}
WEIGHTS = {"w1": numbers(1, 32, 32, 3, 3), "w2": numbers(2, 48, 32, 1, 1)}


@pytest.fixture(scope="module")
def network() -> go.Graph:
    """Two convolutions, the second one pointwise."""
    nodes = [
        N("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        N("Relu", ["a"], ["b"]),
        N("Conv", ["b", "w2"], ["y"]),
    ]
    return go.optimize(program(nodes, X, WEIGHTS), "O2", target=NATIVE)


# Kernels that take (x, y) and set y[0], each in its own way.
_SOURCE = """
#include <stdlib.h>
#include <time.h>
#include <tvm/ffi/c_api.h>
int __tvm_ffi_kernel(void* self, const TVMFFIAny* args, int32_t n, TVMFFIAny* ret) {
  float* y = (float*)((DLTensor*)((char*)args[1].v_ptr + (args[1].type_index >= 64 ? sizeof(TVMFFIObject) : 0)))->data;
  BODY
  return 0;
}
"""
_SLEEP = "struct timespec t = {0, 3000000}; nanosleep(&t, 0);"
_BODIES = {
    "fast": "y[0] = 2.0f;",
    "slow": f"y[0] = 2.0f; {_SLEEP}",
    "wrong": "y[0] = 2.1f;",
    "crash": "abort();",
    "hang": "for (;;) { volatile int i = 0; (void)i; }",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Candidate]:
    """Kernels written in C."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("kernels")
    includes = [f"-I{tvm_ffi.libinfo.find_include_path()}", f"-I{tvm_ffi.libinfo.find_dlpack_include_path()}"]
    candidates = {}
    for name, body in _BODIES.items():
        (folder / f"{name}.c").write_text(_SOURCE.replace("BODY", body))
        library = folder / f"{name}.so"
        subprocess.run(
            [compiler, "-shared", "-fPIC", *includes, str(folder / f"{name}.c"), "-o", str(library)],
            check=True,
        )
        job = {
            "id": name,
            "library": str(library),
            "kernel": "kernel",
            "inputs": [{"shape": [4], "dtype": "float32", "seed": 0}],
            "outputs": [{"shape": [1], "dtype": "float32", "channels": None}],
        }
        candidates[name] = Candidate({"knob": name}, {"knob": tuple(_BODIES)}, job)
    return candidates


@pytest.fixture(scope="module")
def timer() -> Iterator[Timer]:
    with Timer() as timer:
        yield timer


def test_a_crash_is_survived(made: Mapping[str, Candidate], timer: Timer) -> None:
    with pytest.raises(CandidateError, match="ended with code -6"):
        timer.race([made["fast"], made["crash"]], threads=1, rounds=3)
    assert len(timer.race([made["fast"], made["fast"]], threads=1, rounds=3)) == 3


def test_a_kernel_that_does_not_end_is_ended(made: Mapping[str, Candidate], timer: Timer) -> None:
    timer.race([made["fast"]], threads=1, rounds=1)  # The process is up.
    usual, timer.patience = timer.patience, 0.5
    with pytest.raises(CandidateError, match="did not end"):
        timer.race([made["hang"]], threads=1, rounds=1)
    timer.patience = usual
    assert timer.difference(made["fast"], made["fast"]) == 0


def test_a_library_that_does_not_load(made: Mapping[str, Candidate], timer: Timer, tmp_path: Path) -> None:
    (tmp_path / "bad.so").write_text("no library")
    job = {**made["fast"].job, "id": "bad", "library": str(tmp_path / "bad.so")}
    with pytest.raises(CandidateError, match=r"bad\.so"):
        timer.race([Candidate({}, {}, job)], threads=1, rounds=1)


def test_results_are_compared(made: Mapping[str, Candidate], timer: Timer) -> None:
    assert timer.difference(made["fast"], made["slow"]) == 0
    assert timer.difference(made["fast"], made["wrong"]) == pytest.approx(0.05, rel=1e-5)


def test_a_hopeless_candidate_is_given_up_early(made: Mapping[str, Candidate], timer: Timer) -> None:
    assert len(timer.race([made["fast"], made["slow"]], threads=1, rounds=50)) == 3


class _Shelf:
    """Hands out kernels that are made already, by the answer to their one knob."""

    def __init__(self, made: Mapping[str, Candidate]) -> None:
        self.made = made

    def make(
        self, wanted: list[tuple[Subject, Mapping[str, str]]], unlike: Candidate
    ) -> list[Candidate | None]:
        return [self.made[answers["knob"]] for _, answers in wanted]


def test_the_search_keeps_the_fastest_that_is_right(
    made: Mapping[str, Candidate], timer: Timer, network: go.Graph
) -> None:
    """From a slow kernel it comes to the fast one, past those that crash or give other numbers."""
    subject = subjects_of(network, NATIVE, 0.0).tunable[0]
    # The wrong one sleeps less than the first, and so would win if it were right.
    order = ("slow", "wrong", "crash", "fast")
    shelf = {name: Candidate(made[name].answers, {"knob": order}, made[name].job) for name in order}
    search = _Search(_Shelf(shelf), timer, 0.0, 1, 1e-4, lambda name: None)  # type: ignore[arg-type]
    state = _State(subject, shelf["slow"], shelf["slow"], 1.0)
    search._search(state, time.perf_counter() + 300)
    assert state.best is shelf["fast"]
    assert (len(state.tried), state.complete) == (3, True)
    search._confirm([state], 0.1)
    result = _result(state)
    assert result.choices == {"knob": "fast"}
    assert result.analytic == {"knob": "slow"}
    assert 0 < result.tuned_seconds < result.analytic_seconds


def test_what_does_not_win_in_the_end_is_not_kept(
    made: Mapping[str, Candidate], timer: Timer, network: go.Graph
) -> None:
    subject = subjects_of(network, NATIVE, 0.0).tunable[0]
    search = _Search(_Shelf(made), timer, 0.0, 1, 1e-4, lambda name: None)  # type: ignore[arg-type]
    for best in ("slow", "wrong", "crash"):
        state = _State(subject, made["fast"], made[best], 1.0)
        search._confirm([state], 0.0)
        assert state.best is made["fast"], best
        assert _result(state).saved == 0


def test_a_way_that_is_no_other_is_left_out(network: go.Graph, tmp_path: Path) -> None:
    subject = subjects_of(network, NATIVE, 0.0).tunable[0]
    workshop = Workshop(tmp_path, NATIVE, 0.0, 0)
    first, second = workshop.make([(subject, {}), (subject, {"no such knob": "1"})])
    assert first is not None and second is not None
    assert first.knobs == second.knobs
    assert Path(first.job["library"]).read_bytes() == Path(second.job["library"]).read_bytes()
    assert workshop.make([(subject, {"no such knob": "1"})], unlike=first) == [None]


def test_subjects_are_kernels_with_knobs(network: go.Graph) -> None:
    found = subjects_of(network, NATIVE, 5e-5)
    starts = zip(found.tunable, ("conv_relu", "conv"), strict=True)
    assert all(subject.name.startswith(name) for subject, name in starts)
    assert found.symbolic == 0
    assert found.weight_bytes == sum(array.nbytes for array in WEIGHTS.values())


def test_kernels_of_symbolic_sizes_are_counted(network: go.Graph) -> None:
    nodes = [N("Conv", ["x", "w1"], ["y"], pads=[1, 1, 1, 1])]
    graph = program(nodes, X, WEIGHTS, dims={"x": ["n", 32, 14, 14]})
    found = tune_graph(graph, NATIVE, 0.1)
    assert (found.kernels, found.symbolic, found.unfinished) == ((), 1, 0)


def test_a_search_finds_kernels_that_compute_the_same(network: go.Graph) -> None:
    """A real search; what is faster here is for the machine to say."""
    progress: list[tuple[int, int, str]] = []
    found = tune_graph(network, NATIVE, 2, progress=lambda *step: progress.append(step))
    assert found.target == NATIVE.text
    assert {step[1] for step in progress} == {2}
    assert [kernel.nodes for kernel in found.kernels] != []
    for kernel in found.kernels:
        assert set(kernel.choices) == set(kernel.analytic)
        assert kernel.tuned_seconds <= kernel.analytic_seconds
        entry = found.cache.entries[kernel.digest]
        assert (entry.kernel, entry.choices, entry.complete) == (
            kernel.kernel,
            kernel.choices,
            kernel.complete,
        )
    with compile_graph(network, NATIVE, choices=found.cache.choices).load(threads=1) as executable:
        assert_close(np.asarray(executable(X)[0]), expected_of(network, X)[0], 1e-4)


def test_a_search_goes_on_where_the_last_one_ended(network: go.Graph) -> None:
    subjects = subjects_of(network, NATIVE, 5e-5).tunable
    done = {s.digest: Entry(s.name, NATIVE.text, code_digest(), {}, True, 1.0, 1.0) for s in subjects}
    found = tune_graph(network, NATIVE, 30, cache=TuneCache(done))
    assert (found.known, found.kernels, found.unfinished) == (2, (), 0)
    assert found.cache == TuneCache(done)
    old = {digest: Entry("conv", NATIVE.text, "other", {}, True, 1.0, 1.0) for digest in done}
    assert tune_graph(network, NATIVE, 0.001, cache=TuneCache(old)).known == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("aarch64", "can't be timed on this machine, which is x86_64"),
        ("cuda:sm_80", "can't be tuned, only those for CPUs"),
        *(
            (f"x86-64-v4+{name}", f"its CPU lacks.* {name}")
            for name in sorted(X86_EXTRAS - host_features())[:1]
        ),
    ],
)
def test_targets_of_other_machines_are_refused(network: go.Graph, target: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        tune_graph(network, Target.parse(target), 1)
