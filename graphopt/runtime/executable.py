"""Artifacts made callable."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from graphopt.errors import ArgumentError, ArtifactError, InputError, TargetError, require
from graphopt.runtime import manifest as manifests
from graphopt.runtime.dtypes import numpy_dtype
from graphopt.runtime.files import map_file
from graphopt.runtime.library import load_entry, runtime
from graphopt.runtime.manifest import Manifest, TensorSpec, Variant
from graphopt.runtime.signature import Signature
from graphopt.runtime.tensors import Array, Feeder, export, to_numpy
from graphopt.runtime.threads import thread_count, use_threads
from graphopt.targets.host import host_machine, missing_features
from graphopt.units import counted

_KNOWN_SHAPES = 32
_executables: weakref.WeakSet[Executable] = weakref.WeakSet()
_fork = threading.Lock()
_held: list[Any] = []


def load(path: str | os.PathLike[str], *, threads: int | None = None, verify: bool = True) -> Executable:
    """Load an artifact. **This runs code that the artifact holds**: load only what you trust.

    Args:
        path: the artifact's directory, ``NAME.gopt``.
        threads: how many threads kernels use; by default one for each processor of this process.
        verify: check the SHA-256 of every file that is used, and of the graph's text.

    Raises:
        ArtifactError: the artifact is missing, damaged, edited or of another format version.
        TargetError: it holds no code that this CPU can run.
        InputError: the number of threads is wrong.
        ArgumentError: ``path`` is no path.
    """
    require("path", path, (str, os.PathLike))
    folder = Path(path)
    count = thread_count(threads)
    refuse_model(folder)
    manifest = manifests.read(folder, verify=verify)
    return Executable(folder, manifest, choose_variant(manifest, folder), threads=count, verify=verify)


def refuse_model(path: Path) -> None:
    """Says what to do with a model that is given where an artifact, a directory, is expected.

    Raises:
        ArtifactError: it is a file.
    """
    if path.is_file():
        model = path.suffix in (".onnx", ".gir")
        raise ArtifactError(
            f"{path} is not an artifact but a {'model' if model else 'file'}",
            hint=f"compile it first: graphopt compile {path} -o {path.with_suffix('.gopt').name}"
            if model
            else "an artifact is the directory NAME.gopt that graphopt compile writes",
        )


def choose_variant(manifest: Manifest, folder: Path) -> Variant:
    """The first variant that this machine can run.

    Raises:
        TargetError: there is none; the message says for each what is lacking.
    """
    machine = host_machine()
    reasons: list[str] = []
    for variant in manifest.variants:
        if variant.kind != "llvm":
            reasons.append(f"{variant.target} is for a GPU, and this runtime runs code for CPUs")
        elif (needed := variant.triple.partition("-")[0]) != machine:
            reasons.append(f"{variant.target} is for {needed}, this machine is {machine}")
        elif missing := missing_features(variant.required_features):
            reasons.append(f"{variant.target} needs {', '.join(missing)}, which this CPU lacks")
        else:
            return variant
    hint = "compile it for this CPU with --target native, or for a lower level such as x86-64-v3"
    if any(variant.kind == "llvm" and variant.triple.startswith("aarch64") for variant in manifest.variants):
        hint += "; graphopt run --emulate runs aarch64 code under QEMU"
    raise TargetError(f"{folder} holds no code that runs here: " + "; ".join(reasons), hint=hint)


class Executable:
    """A loaded artifact: call it with arrays, get arrays.

    Several threads may call one executable; their calls take turns. For calls that run side by side,
    load the artifact once for each thread: the weights are shared, the working memory is not. A forked
    child may go on calling it. It can't be pickled: send the path of the artifact instead.

    Returned arrays belong to the caller and stay valid after further calls and after :meth:`close`.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, variant: Variant, *, threads: int, verify: bool
    ) -> None:
        self.path = folder
        self.manifest = manifest
        self.variant = variant
        self.threads = threads
        self._lock = threading.RLock()
        map_file(folder, variant.library, manifest.files[variant.library], verify=verify)
        if verify and manifests.GRAPH_NAME in manifest.files:
            map_file(folder, manifests.GRAPH_NAME, manifest.files[manifests.GRAPH_NAME], verify=True)
        self._runtime = runtime()
        arrays = self._map_weights(verify)
        specs = {spec.name: spec for spec in manifest.weights}
        self._weights = [export(self._runtime, arrays[name], specs[name].dtype) for name in variant.weights]
        defaults = {spec.name: arrays[spec.default] for spec in manifest.inputs if spec.default}
        self._signature = Signature(manifest.inputs, manifest.outputs, manifest.sizes, defaults)
        self._weight_pointers = frozenset(weight.data_ptr() for weight in self._weights)
        self._entry: Any = load_entry(folder / variant.library)
        self._feeders = [Feeder(self._runtime, spec) for spec in manifest.inputs]
        self._bound: dict[tuple[tuple[int, ...], ...], dict[str, int]] = {}
        _executables.add(self)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Names, element types and shapes of the inputs, in order."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Names, element types and shapes of the outputs, in order."""
        return self.manifest.outputs

    def __call__(
        self, *args: Any, out: Array | Sequence[Array] | Mapping[str, Array] | None = None, **named: Any
    ) -> list[Array]:
        """Run the model.

        Args:
            args: arrays by position, or one mapping from input names to arrays. NumPy arrays and
                whatever supports DLPack on the CPU; contiguous data that is
                aligned to its element type is used in place (by older artifacts, to 64 bytes), other
                data is copied.
            out: arrays to write outputs into, all in order or some by name; of a model with one
                output just the array.
            named: arrays by input name; an input named ``out`` goes into the mapping.

        Returns:
            The outputs in order; where ``out`` has an array for one, that array.

        Raises:
            InputError: the arrays don't fit the inputs or outputs; nothing was computed or written.
            ArtifactError: the executable was closed.
        """
        if args and isinstance(args[0], Mapping):
            mapping, *args_left = args
            for name in filter(named.__contains__, mapping):
                raise InputError(f"input {name!r} was passed twice, in the mapping and by name")
            args, named = tuple(args_left), {**mapping, **named}
        arrays = self._signature.arrange(args, named)
        with self._lock:
            if self._entry is None:
                raise ArtifactError(f"{self.path} was closed", hint="load it again")
            tensors = [feed(array) for feed, array in zip(self._feeders, arrays, strict=True)]
            values = self._bind(tuple(tuple(tensor.shape) for tensor in tensors))
            targets = self._targets(out, values) if out is not None else {}
            use_threads(self._runtime, self.threads)
            results = self._run(tensors)
            return self._own(results, tensors, targets)

    def close(self) -> None:
        """Let go of the weights and of the working memory; arrays that were returned stay valid."""
        with self._lock:
            self._entry = None
            self._weights = []
            self._feeders = []
            self._runtime.clear_pool()

    def __enter__(self) -> Executable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise ArgumentError(
            "an Executable can't be pickled or copied: it is code and working memory of this process",
            hint=f"send the path, and load it there: graphopt.runtime.load({str(self.path)!r})",
        )

    def __repr__(self) -> str:
        signature = ", ".join(map(str, self.inputs)) + " -> " + ", ".join(map(str, self.outputs))
        return f"<Executable {self.path.name} for {self.variant.target}: {signature}>"

    def _map_weights(self, verify: bool) -> dict[str, Array]:
        """The weights that are used here, and the defaults of inputs."""
        used = {*self.variant.weights, *(spec.default for spec in self.inputs if spec.default)}
        if not used:
            return {}
        record = self.manifest.files[manifests.WEIGHTS_NAME]
        content = map_file(self.path, manifests.WEIGHTS_NAME, record, verify=verify)
        arrays: dict[str, Array] = {}
        for spec in self.manifest.weights:
            if spec.name in used:
                data = content[spec.offset : spec.offset + spec.nbytes]
                arrays[spec.name] = data.view(numpy_dtype(spec.dtype)).reshape(spec.shape)
        return arrays

    def _bind(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        values = self._bound.get(shapes)
        if values is None:
            values = self._signature.bind(shapes)
            if len(self._bound) >= _KNOWN_SHAPES:
                # The pool keeps freed blocks by size and never gives one back of its own accord.
                self._bound.clear()
                self._runtime.clear_pool()
            self._bound[shapes] = values
        return values

    def _targets(
        self, out: Array | Sequence[Array] | Mapping[str, Array], values: Mapping[str, int]
    ) -> dict[int, Array]:
        names = [spec.name for spec in self.outputs]
        if isinstance(out, np.ndarray):
            out = [out]
        elif not isinstance(out, Sequence | Mapping):
            raise InputError(f"out: {type(out).__name__} is neither an array nor a list or dict of arrays")
        if isinstance(out, Mapping):
            for name in out:
                if name not in names:
                    raise InputError(f"out: the model has no output {name!r}; it has {', '.join(names)}")
            targets = {names.index(name): array for name, array in out.items()}
        elif len(out) != len(names):
            raise InputError(f"out: {counted(len(out), 'array')} for {counted(len(names), 'output')}")
        else:
            targets = dict(enumerate(out))
        for index, array in targets.items():
            spec = self.outputs[index]
            if not isinstance(array, np.ndarray) or not array.flags.writeable:
                raise InputError(f"out: output {spec.name!r} needs a NumPy array that can be written")
            if array.dtype != numpy_dtype(spec.dtype):
                raise InputError(f"out: output {spec.name!r} is {spec.dtype}, got {array.dtype}")
            self._signature.check_output(index, array.shape, values)
        return targets

    def _run(self, tensors: list[Any]) -> list[Any]:
        try:
            results = self._entry(*tensors, *self._weights)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            shapes = ", ".join(f"{s.name} {list(t.shape)}" for s, t in zip(self.inputs, tensors, strict=True))
            raise InputError(f"{self.path.name} failed on inputs of shapes {shapes}: {reason}") from error
        item = self._runtime.item
        return [item(results, index) for index in range(len(self.outputs))]

    def _own(self, results: list[Any], tensors: list[Any], targets: Mapping[int, Array]) -> list[Array]:
        """Results as arrays that share memory with nothing that a later call writes or that is mapped."""
        for index, target in targets.items():
            if tuple(results[index].shape) != target.shape:
                raise InputError(
                    f"out: output {self.outputs[index].name!r} came out as {list(results[index].shape)}, "
                    f"the array given for it has shape {list(target.shape)}"
                )
        taken = {tensor.data_ptr() for tensor in tensors}
        arrays: list[Array] = []
        for index, result in enumerate(results):
            array = to_numpy(self._runtime, result, self.outputs[index].dtype)
            if index in targets:
                np.copyto(targets[index], array)
                arrays.append(targets[index])
                continue
            pointer = result.data_ptr()
            arrays.append(array.copy() if pointer in taken or pointer in self._weight_pointers else array)
            taken.add(pointer)
        return arrays


def _hold_calls() -> None:
    """Waits until no other thread is in a call, whose locks and memory a forked child would inherit."""
    _fork.acquire()
    for executable in list(_executables):
        executable._lock.acquire()
        _held.append(executable._lock)


def _release_calls() -> None:
    while _held:
        _held.pop().release()
    _fork.release()


os.register_at_fork(before=_hold_calls, after_in_parent=_release_calls, after_in_child=_release_calls)
