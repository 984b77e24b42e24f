"""The engines that can be measured: each loads a file and gives a function from inputs to outputs.

A package adds one of its own by an entry point of the group ``graphopt.engines`` that names a
subclass of :class:`Engine`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from graphopt.ir.tensor import Array

Run = Callable[["dict[str, Array]"], "list[Array]"]
GROUP = "graphopt.engines"


@dataclass(frozen=True, slots=True)
class Job:
    """What an engine is to load.

    Attributes:
        file: an artifact or an ONNX model, as the engine reads.
        threads: how many threads it may use.
        shapes: shapes by input name when they are fixed for all calls, so that it may plan for them.
        symbols: the numbers that these shapes give to the named dimensions of the model.
    """

    file: Path
    threads: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    symbols: Mapping[str, int] = field(default_factory=dict)


class Engine(ABC):
    """One engine. Its methods run in a process of its own, but for :meth:`version`.

    Attributes:
        name: what the command line calls it.
        title: what tables call it.
        package: the distribution that brings it.
        module: the module without which it can't run.
        hint: how to install it.
        reads: ``"artifact"`` or ``"onnx"``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    module: ClassVar[str]
    hint: ClassVar[str] = ""
    reads: ClassVar[Literal["artifact", "onnx"]] = "onnx"

    @classmethod
    def version(cls) -> str | None:
        """The installed version; None when it is not installed."""
        if importlib.util.find_spec(cls.module) is None:
            return None
        return importlib.metadata.version(cls.package)

    def prepare(self, threads: int) -> None:
        """Imports what the engine needs; memory and time of that don't count."""
        importlib.import_module(self.module)

    @abstractmethod
    def load(self, job: Job) -> Run:
        """A function from arrays by input name to the outputs in order."""

    @property
    def precision(self) -> str:
        """The type in which floats are computed, as far as the engine says."""
        return "float32"


class Graphopt(Engine):
    """An artifact in graphopt's own runtime."""

    name, title, package, module, reads = "graphopt", "graphopt", "graphopt", "graphopt", "artifact"

    def prepare(self, threads: int) -> None:
        from graphopt.runtime.library import runtime

        runtime()

    def load(self, job: Job) -> Run:
        from graphopt import runtime

        executable = runtime.load(job.file, threads=job.threads)
        return lambda inputs: list(executable(inputs))


class OnnxRuntime(Engine):
    """ONNX Runtime with all its optimizations, on the CPU.

    One thread alone has nobody to spin for; several spin as they do by default.
    """

    name, title, package, module = "onnxruntime", "ONNX Runtime", "onnxruntime", "onnxruntime"
    optimizes: ClassVar[bool] = True

    def load(self, job: Job) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not self.optimizes:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "01"[job.threads > 1])
        for symbol, size in job.symbols.items():
            options.add_free_dimension_override_by_name(symbol, size)
        session = onnxruntime.InferenceSession(str(job.file), options, providers=["CPUExecutionProvider"])
        return lambda inputs: list(session.run(None, inputs))


class Reference(OnnxRuntime):
    """ONNX Runtime with its optimizations off: what the outputs should be. It is not timed."""

    name, title = "reference", "ONNX Runtime, no optimizations"
    optimizes = False


class OpenVino(Engine):
    """OpenVINO on the CPU in float32: no bfloat16, no activations quantized on the fly, threads not pinned."""

    name, title, package, module = "openvino", "OpenVINO", "openvino", "openvino"
    hint = 'pip install "graphopt[bench]"'

    def __init__(self) -> None:
        self._precision = "float32"

    def load(self, job: Job) -> Run:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(job.file))
        if job.shapes:
            model.reshape({name: openvino.PartialShape(list(shape)) for name, shape in job.shapes.items()})
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": job.threads,
                "ENABLE_CPU_PINNING": False,
                "INFERENCE_PRECISION_HINT": "f32",
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            },
        )
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self._precision = {"f32": "float32", "dynamic": "float32"}.get(used, used)
        request = compiled.create_infer_request()
        count = len(compiled.outputs)

        def run(inputs: dict[str, Array]) -> list[Array]:
            results = request.infer(inputs, share_inputs=True, share_outputs=True)
            return [results[index] for index in range(count)]

        return run

    @property
    def precision(self) -> str:
        return self._precision


class Tvm(Engine):
    """TVM as it comes: its ONNX importer and its default pipeline, which schedules nothing on CPUs."""

    name, title, package, module = "tvm", "TVM, unscheduled", "apache-tvm", "tvm"

    def prepare(self, threads: int) -> None:
        os.environ["TVM_NUM_THREADS"] = str(threads)
        import tvm.relax.frontend.onnx  # noqa: F401

    def load(self, job: Job) -> Run:
        import onnx
        import tvm
        from tvm import relax
        from tvm.relax.frontend.onnx import from_onnx

        from graphopt.targets.features import highest_level
        from graphopt.targets.host import host_features

        model = onnx.load(job.file)
        shapes = {name: list(shape) for name, shape in job.shapes.items()} or None
        module = from_onnx(model, shape_dict=shapes)
        module = relax.get_pipeline("zero")(module)
        built = tvm.compile(
            module, target=tvm.target.Target({"kind": "llvm", "mcpu": highest_level(host_features())})
        )
        machine = relax.VirtualMachine(built, tvm.cpu())
        constants = {item.name for item in model.graph.initializer}
        names = [item.name for item in model.graph.input if item.name not in constants]

        def run(inputs: dict[str, Array]) -> list[Array]:
            results = machine["main"](*(tvm.runtime.tensor(inputs[name]) for name in names))
            many = results if not isinstance(results, tvm.runtime.Tensor) else [results]
            return [result.numpy() for result in many]

        return run


BUILT_IN: tuple[type[Engine], ...] = (Graphopt, OnnxRuntime, OpenVino, Tvm)
DEFAULT = ("onnxruntime", "openvino")
"""What graphopt is compared with when nothing else is asked for."""


@functools.cache
def engines() -> dict[str, type[Engine]]:
    """All engines by name, installed or not."""
    found = {engine.name: engine for engine in BUILT_IN}
    for point in importlib.metadata.entry_points(group=GROUP):
        found[point.name] = point.load()
    return found


def engine(name: str) -> Engine:
    """A new engine of this name.

    Raises:
        KeyError: there is none.
    """
    return Reference() if name == Reference.name else engines()[name]()
