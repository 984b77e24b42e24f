"""What becomes of the backend test cases of the onnx package on the way in, through O2 and out.

    python -m tests.sweep.backend_cases [part of a name ...]

prints a line for each case that is refused, untyped or wrong, and the counts.
"""

from __future__ import annotations

import collections
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from graphopt.errors import EvaluationError, GraphoptError, ModelError
from graphopt.evaluate import Session
from graphopt.ir.equality import graphs_equal
from graphopt.ir.graph import Graph, Value
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.sidecar import Sidecar
from graphopt.ir.types import OptionalType, SequenceType, TensorType, Type
from graphopt.onnx_io import load, to_proto
from graphopt.pipeline import Context, Pipeline
from tests.onnx_io.onnx_models import DATA, Case, differs, node_cases, run_ort, stored_case, stored_cases

RANDOM = {
    "test_bernoulli",
    "test_bernoulli_double",
    "test_bernoulli_double_expanded",
    "test_bernoulli_expanded",
    "test_bernoulli_seed",
    "test_bernoulli_seed_expanded",
    "test_training_dropout",
    "test_training_dropout_default",
    "test_training_dropout_default_mask",
    "test_training_dropout_mask",
}
"""Cases whose outputs are drawn at random: everything but the numbers is checked."""

NO_ENGINE = {"simple/test_gradient_of_add", "simple/test_gradient_of_add_and_mul"}
"""Cases that neither ONNX Runtime nor the reference evaluator can load as they are."""


@dataclass
class Outcome:
    """What became of one case."""

    name: str
    refused: str = ""
    untyped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    engines: list[str] = field(default_factory=list)
    seconds: float = 0.0


def case_names() -> list[str]:
    """All cases in a fixed order: node, simple, pytorch-converted, pytorch-operator, light."""
    light = sorted(f"light/{path.stem}" for path in (DATA / "light").glob("light_*.onnx"))
    return [*node_cases(), *stored_cases(), *light]


def case_of(name: str) -> Case:
    """The case of this name."""
    if name.startswith("light/"):
        return _light_case(name, DATA / f"{name}.onnx")
    return stored_case(name) if "/" in name else node_cases()[name]


def _light_case(name: str, path: Path) -> Case:
    """The recorded output is that of a ramp from 0 to 1, as ONNX's own runner feeds it."""
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for info in model.graph.input:
        if info.name not in weights:
            shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    output = onnx.TensorProto()
    output.ParseFromString(path.with_name(f"{path.stem}_output_0.pb").read_bytes())
    return Case(name, model, [(inputs, [onnx.numpy_helper.to_array(output)])], 1e-3, 1e-5)


def with_constants(case: Case, kept: int) -> Case | None:
    """The case with all but its first ``kept`` tensor inputs made constants, so that folding and fusion
    have something to do; None where there is nothing to change."""
    ((inputs, outputs),) = case.data if len(case.data) == 1 else ((None, None),)
    infos = list(case.model.graph.input)
    if inputs is None or len(inputs) != len(infos):
        return None
    model, left = onnx.ModelProto(), []
    model.CopyFrom(case.model)
    for index, (info, data) in enumerate(zip(infos, inputs, strict=True)):
        if index >= kept and info.type.HasField("tensor_type") and isinstance(data, np.ndarray):
            model.graph.initializer.append(onnx.numpy_helper.from_array(data, info.name))
        else:
            left.append((info, data))
    if len(left) == len(infos):
        return None
    del model.graph.input[:]
    model.graph.input.extend(info for info, _ in left)
    return case._replace(model=model, data=[([data for _, data in left], outputs)])


def examine(name: str, kept: int | None = None) -> Outcome:
    """Takes the case through import, O2 and export, and looks at everything on the way.

    Args:
        kept: how many inputs stay inputs, see :func:`with_constants`; by default the case is as it is.
    """
    case, outcome = case_of(name), Outcome(name)
    if kept is not None:
        changed = with_constants(case, kept)
        if changed is None:
            return outcome
        case = changed
    start = time.perf_counter()
    try:
        graph = load(case.model)
    except ModelError as error:
        outcome.refused = str(error)
        if not error.message or not error.hint:
            outcome.problems.append(f"refused without a hint: {error}")
        return outcome
    outcome.untyped = [f"%{v.name}: {v.type}" for v in untyped_values(graph)]
    try:
        outcome.problems += _print_and_parse(graph, "imported")
        Pipeline.parse("O2").run(graph, context=Context(), verify="structure")
        outcome.problems += _print_and_parse(graph, "optimized")
        exported = to_proto(graph)
        onnx.checker.check_model(exported)
        outcome.problems += _signature_changes(case.model, exported)
        if name not in RANDOM | NO_ENGINE:
            _run(case, graph, outcome, folds=kept is not None)
    except Exception:  # Whatever it is, the sweep goes on and names the case.
        outcome.problems.append(traceback.format_exc(limit=-3))
    outcome.seconds = time.perf_counter() - start
    return outcome


def untyped_values(graph: Graph) -> list[Value]:
    """Values of which the element type or the rank is unknown."""
    return [value for node in graph.walk() for value in node.outputs if not _is_known(value.type)]


def _is_known(type: Type) -> bool:
    if isinstance(type, SequenceType | OptionalType):
        return _is_known(type.elem)
    return isinstance(type, TensorType) and type.is_known


def _print_and_parse(graph: Graph, stage: str) -> Iterator[str]:
    sidecar = Sidecar()
    text = print_graph(graph, sidecar=sidecar)
    try:
        again = parse_graph(text, sidecar=sidecar)
    except GraphoptError as error:
        yield f"{stage}: the text does not parse: {error}"
        return
    difference = graphs_equal(again, graph)
    if difference:
        yield f"{stage}: parsed again it differs: {difference}"


def _signature_changes(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[str]:
    weights = {tensor.name for tensor in before.graph.initializer}
    fixed = {tensor.name for tensor in after.graph.initializer}
    for what, old, new in (
        ("inputs", before.graph.input, after.graph.input),
        ("outputs", before.graph.output, after.graph.output),
    ):
        was = [info.name for info in old if info.name not in weights or what == "outputs"]
        now = [info.name for info in new if info.name not in fixed or what == "outputs"]
        if was != now:
            yield f"{what} were {was} and are {now}"


def _run(case: Case, graph: Graph, outcome: Outcome, *, folds: bool) -> None:
    """Compares with the record in ONNX Runtime. Where that can't load the case, or gives something
    else for the case as it is too, the reference evaluator has to give what is recorded.

    Args:
        folds: O2 folded the case, with ONNX Runtime, so that the reference evaluator can't tell: it
            is enough to agree with what ONNX Runtime gives for the case as it is.
    """
    weights = {tensor.name for tensor in case.model.graph.initializer}
    names = [info.name for info in case.model.graph.input]
    for inputs, outputs in case.data:
        if len(inputs) < len(names):
            names = [name for name in names if name not in weights]
        feeds = dict(zip(names, inputs, strict=False))
        problem = _difference(case, graph, "ort", feeds, outputs)
        if not problem:
            outcome.engines.append("ort")
            continue
        original = _ort_as_it_is(case, feeds)
        if original is not None and folds and not _difference(case, graph, "ort", feeds, original):
            outcome.engines.append("ort")
            continue
        if original is not None and not _first_difference(case, original, outputs):
            outcome.problems.append(f"ONNX Runtime is right before O2 and not after: {problem}")
            continue
        second = _difference(case, graph, "reference", feeds, outputs)
        if second:
            outcome.problems.append(f"ort: {problem}; reference: {second}")
        outcome.engines.append("reference")


def _difference(
    case: Case,
    graph: Graph,
    engine: Literal["ort", "reference"],
    feeds: Mapping[str, Any],
    outputs: list[Any],
) -> str:
    try:
        with Session(graph, engine) as session:
            results = list(session.run(feeds).values())
    except EvaluationError as error:
        return error.message
    return _first_difference(case, results, outputs)


def _first_difference(case: Case, results: Iterable[Any], outputs: Iterable[Any]) -> str:
    pairs = zip(results, outputs, strict=True)
    return next((found for got, want in pairs if (found := differs(got, want, case.rtol, case.atol))), "")


def _ort_as_it_is(case: Case, feeds: Mapping[str, Any]) -> list[Any] | None:
    try:
        return run_ort(case.model, feeds)
    except Exception:  # ONNX Runtime's exceptions have no common base but Exception.
        return None


def summary(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many cases there were, and how many of each fate."""
    counts: collections.Counter[str] = collections.Counter()
    for outcome in outcomes:
        counts["cases"] += 1
        counts["refused"] += bool(outcome.refused)
        counts["imported"] += not outcome.refused
        counts["untyped"] += bool(outcome.untyped)
        counts["wrong"] += bool(outcome.problems)
        counts["by ONNX Runtime"] += bool(outcome.engines) and set(outcome.engines) == {"ort"}
        counts["by the reference evaluator"] += "reference" in outcome.engines
        counts["random"] += outcome.name in RANDOM
    return dict(counts)


def main(parts: list[str]) -> int:
    """Prints what is not as it should be, then the counts."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    outcomes = []
    for name in case_names():
        if parts and not any(part in name for part in parts):
            continue
        outcome = examine(name)
        outcomes.append(outcome)
        if outcome.refused:
            print(f"REFUSED {name}: {outcome.refused}")
        if outcome.untyped:
            print(f"UNTYPED {name}: {outcome.untyped[:2]}")
        for problem in outcome.problems:
            print(f"WRONG {name}: {problem[:600]}", flush=True)
    slow = sorted(outcomes, key=lambda outcome: -outcome.seconds)[:5]
    print("slowest:", ", ".join(f"{o.name} {o.seconds:.1f} s" for o in slow))
    print(summary(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
