"""Models for the tests of the ONNX border, and what they are compared with."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import parser

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
RANDOM = re.compile("bernoulli|randomnormal|randomuniform|multinomial|training_dropout")
"""Names of node cases whose outputs are drawn at random."""
SETS = ("simple", "pytorch-converted", "pytorch-operator")


class Case(NamedTuple):
    """A test of the ONNX standard: a model with recorded inputs and outputs."""

    name: str
    model: onnx.ModelProto
    data: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float


def parse(
    text: str, *, opset: int = 17, ir_version: int = 8, domains: Mapping[str, int] | None = None
) -> onnx.ModelProto:
    """A model of the text form of the onnx package, without its header."""
    imports = ", ".join(
        f'"{domain}": {version}' for domain, version in {"": opset, **(domains or {})}.items()
    )
    return parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{imports}]> {text}")


@functools.cache
def node_cases() -> dict[str, Case]:
    """The node cases of the onnx package by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = [case for case in collect_testcases(None) if case.model is not None]
    return {
        case.name: Case(
            case.name,
            case.model,
            [
                ([_array(x) for x in inputs], [_array(x) for x in outputs])
                for inputs, outputs in case.data_sets
            ],
            case.rtol,
            case.atol,
        )
        for case in sorted(found, key=lambda case: case.name)
    }


def stored_cases() -> list[str]:
    """Names of the cases that the onnx package carries as files."""
    return [f"{kind}/{path.name}" for kind in SETS for path in sorted((DATA / kind).iterdir())]


def stored_case(name: str) -> Case:
    """One of the cases that the onnx package carries as files."""
    folder = DATA / name
    model = onnx.load(folder / "model.onnx")
    data = []
    for record in sorted(folder.glob("test_data_set_*")):
        pairs = (("input", model.graph.input), ("output", model.graph.output))
        data.append(tuple(_recorded(record, kind, infos) for kind, infos in pairs))
    return Case(name, model, data, 1e-3, 1e-5)


def _recorded(folder: Path, kind: str, infos: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [_read(folder / f"{kind}_{index}.pb", infos[index]) for index in range(count)]


def _read(path: Path, info: onnx.ValueInfoProto) -> Any:
    if info.type.HasField("sequence_type"):
        sequence = onnx.SequenceProto()
        sequence.ParseFromString(path.read_bytes())
        return onnx.numpy_helper.to_list(sequence)
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return onnx.numpy_helper.to_array(tensor)


def _array(data: Any) -> Any:
    return onnx.numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else data


def run_ort(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """The model as it stands in ONNX Runtime, optimizations off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(feeds)))


def differs(got: Any, want: Any, rtol: float = 1e-5, atol: float = 1e-6) -> str:
    """How a result differs from the one wanted; "" when it does not."""
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return f"{got!r} for a sequence of {len(want)}"
        return next((d for a, b in zip(got, want, strict=True) if (d := differs(a, b, rtol, atol))), "")
    if want is None or got is None:
        return "" if got is want else f"{got!r} for {want!r}"
    a, b = np.asarray(got), np.asarray(want)
    if a.shape != b.shape:
        return f"shape {a.shape} for {b.shape}"
    if b.dtype.kind in "OSU":
        return "" if a.astype(str).tolist() == b.astype(str).tolist() else f"{a} for {b}"
    if a.dtype != b.dtype:
        return f"{a.dtype} for {b.dtype}"
    if b.dtype.kind not in "fiubc":
        a, b = a.astype(np.float32), b.astype(np.float32)
    if np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    return f"{a.ravel()[:8]} for {b.ravel()[:8]}"
