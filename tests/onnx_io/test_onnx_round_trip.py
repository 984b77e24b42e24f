"""Import and export keep the meaning of every test case of the ONNX standard."""

from __future__ import annotations

from typing import Any, Literal

import onnx
import pytest
from onnx_models import DATA, RANDOM, Case, differs, node_cases, run_ort, stored_case, stored_cases

from graphopt.errors import EvaluationError, ModelError
from graphopt.evaluate import Session, example_inputs
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import OptionalType, SequenceType, TensorType, Type, UnknownType
from graphopt.onnx_io import load, to_proto

SAMPLE = 14
"""Every so many of the node cases are part of the suite, the others of the sweep."""

# ONNX's own reference evaluator, the only engine for these, fails on the models as they are too.
NO_ENGINE = {"simple/test_gradient_of_add", "simple/test_gradient_of_add_and_mul"}
WRONG_IN_ENGINE = {"test_range_bfloat16_type_positive_delta_expanded"}
REFUSED = {"test_not_2d", "test_not_3d", "test_not_4d"}


def check(case: Case) -> None:
    """Imports and exports the case, and runs what came out.

    ONNX Runtime speaks first; where it can't load the case, or disagrees with the record, the
    reference evaluator has to agree.
    """
    graph = load(case.model)
    exported = to_proto(graph)
    onnx.checker.check_model(exported)
    assert [info.name for info in exported.graph.output] == [info.name for info in case.model.graph.output]
    assert [info.name for info in exported.graph.input] == [value.name for value in graph.inputs]
    if RANDOM.search(case.name) or case.name in NO_ENGINE | WRONG_IN_ENGINE:
        return
    for inputs, outputs in case.data:
        feeds = dict(zip((info.name for info in case.model.graph.input), inputs, strict=False))
        problems = []
        for engine in ("ort", "reference"):
            problem = difference(graph, engine, feeds, outputs, case)
            if not problem:
                break
            problems.append(f"{engine}: {problem}")
        else:
            pytest.fail("; ".join(problems))


def difference(
    graph: Graph, engine: Literal["ort", "reference"], feeds: dict[str, Any], outputs: list[Any], case: Case
) -> str:
    """How the results differ from the record."""
    try:
        results = Session(graph, engine).run(feeds)
    except EvaluationError as error:
        return error.message
    rtol, atol = max(case.rtol, 1e-3), max(case.atol, 1e-5)
    pairs = zip(results.values(), outputs, strict=True)
    return next((problem for got, want in pairs if (problem := differs(got, want, rtol, atol))), "")


@pytest.mark.parametrize("shard", range(8))
def test_sample_of_node_cases(shard: int) -> None:
    names = [name for name in list(node_cases())[shard :: 8 * SAMPLE] if name not in REFUSED]
    assert names
    for name in names:
        check(node_cases()[name])


@pytest.mark.parametrize("name", stored_cases()[::6])
def test_sample_of_stored_cases(name: str) -> None:
    check(stored_case(name))


@pytest.mark.sweep
@pytest.mark.parametrize("shard", range(32))
def test_all_node_cases(shard: int) -> None:
    for name in list(node_cases())[shard::32]:
        if name not in REFUSED:
            check(node_cases()[name])


@pytest.mark.sweep
@pytest.mark.parametrize("name", stored_cases())
def test_all_stored_cases(name: str) -> None:
    check(stored_case(name))


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50", "densenet121", "inception_v1"])
def test_light_models(name: str) -> None:
    model = onnx.load(DATA / "light" / f"light_{name}.onnx")
    graph = load(model)
    onnx.checker.check_model(to_proto(graph), full_check=True)
    feeds = example_inputs(graph, seed=1)
    want = run_ort(model, feeds)
    got = Session(graph, "ort").run(feeds)
    assert not differs(list(got.values()), want, 1e-4, 1e-6)


def untyped(graph: Graph) -> list[Value]:
    """Values of which the element type or the rank is unknown."""

    def is_open(type: Type) -> bool:
        match type:
            case TensorType():
                return not type.is_known
            case SequenceType(elem=elem) | OptionalType(elem=elem):
                return isinstance(elem, UnknownType)
        return isinstance(type, UnknownType)

    return [value for node in graph.walk() for value in node.outputs if is_open(value.type)]


def test_few_node_cases_are_refused_or_untyped() -> None:
    """The bar is 3% for each; this holds the import to what it reaches."""
    refused, open_ended = [], []
    for name, case in node_cases().items():
        try:
            graph = load(case.model)
        except ModelError:
            refused.append(name)
            continue
        if untyped(graph):
            open_ended.append(name)
    assert set(refused) <= REFUSED
    assert len(open_ended) <= 0.01 * len(node_cases())
