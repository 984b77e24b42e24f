"""Artifacts in memory: what compilation made, before and while it is written.

The directory is described in :mod:`graphopt.runtime.manifest`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from graphopt.backend.link import link
from graphopt.backend.replace import replace_directory
from graphopt.errors import ArtifactError, CompileError
from graphopt.runtime.dtypes import DTYPES, numpy_dtype
from graphopt.runtime.executable import Executable, load
from graphopt.runtime.files import FileRecord
from graphopt.runtime.manifest import (
    ALIGNMENT,
    FORMAT_VERSION,
    GRAPH_NAME,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    Manifest,
    MemoryUse,
    TensorSpec,
    Variant,
    WeightSpec,
    encode,
)
from graphopt.runtime.sizes import SizeRule
from graphopt.targets import Target

Array = npt.NDArray[Any]
_PRODUCERS = ("graphopt", "apache-tvm", "apache-tvm-ffi")


@dataclass(frozen=True, repr=False)
class Artifact:
    """A compiled model, not yet on disk.

    Attributes:
        variants: code for one target each.
        libraries: shared objects by file name.
        weights: constant tensors by name, in the order of the weights file.
        graph_files: the final graph's text as ``graph.gir``, and its sidecar where it has one.
        pipeline: text of the passes that made the graph.
        source_sha256: digest of the source model; empty where there was none.
        sizes: what the sizes at a call must be to each other.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]
    libraries: Mapping[str, bytes]
    weights: Mapping[str, Array]
    graph_files: Mapping[str, bytes]
    pipeline: str = ""
    source_sha256: str = ""
    producer: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[SizeRule, ...] = ()

    def __repr__(self) -> str:
        signature = ", ".join(map(str, self.inputs)) + " -> " + ", ".join(map(str, self.outputs))
        return f"<Artifact for {', '.join(variant.target for variant in self.variants)}: {signature}>"

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, packed and derived ones included."""
        return sum(array.nbytes for array in self.weights.values())

    @property
    def code_bytes(self) -> int:
        """Bytes of all shared objects."""
        return sum(len(library) for library in self.libraries.values())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the directory ``path``, whole or not at all; an artifact that is there is replaced.

        Returns:
            The path.

        Raises:
            ArtifactError: the name does not end in ``.gopt``, something else is there, or writing failed.
        """
        target = Path(path)
        check_name(target)
        try:
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        except OSError as error:
            raise ArtifactError(f"{target} can't be written: {error.strerror}") from error
        try:
            fresh = scratch / "new"
            fresh.mkdir()
            self._write(fresh)
            replace_directory(fresh, target)
        except OSError as error:
            raise ArtifactError(f"{target} can't be written: {error.strerror}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return target

    def load(self, *, threads: int | None = None) -> Executable:
        """Make it callable without keeping it on disk.

        Raises:
            TargetError: it holds no code that this CPU can run.
        """
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            # Mapped files outlive their names.
            return load(self.save(Path(folder) / "model.gopt"), threads=threads, verify=False)

    def with_variants_of(self, other: Artifact) -> Artifact:
        """This artifact with the code of another one for the same model beside its own.

        The runtime takes the first code that a machine can run, so what asks for most features stands first.

        Raises:
            CompileError: the two differ in inputs or outputs, or hold code for the same target.
        """
        if (self.inputs, self.outputs) != (other.inputs, other.outputs):
            raise CompileError("two artifacts of different inputs or outputs can't be joined")
        targets = {variant.target for variant in self.variants}
        weights = dict(self.weights)
        variants = list(self.variants)
        for variant in other.variants:
            if variant.target in targets:
                raise CompileError(f"both artifacts hold code for {variant.target}")
            names: list[str] = []
            for name in variant.weights:
                array = other.weights[name]
                # Weights packed for another target go under a name of their own.
                own = (
                    name
                    if name not in weights or _equal(weights[name], array)
                    else f"{name}@{variant.target}"
                )
                weights[own] = array
                names.append(own)
            variants.append(msgspec.structs.replace(variant, weights=tuple(names)))
        variants.sort(key=lambda variant: -len(variant.required_features))
        return replace(
            self,
            variants=tuple(variants),
            libraries={**self.libraries, **other.libraries},
            weights=weights,
            sizes=tuple(dict.fromkeys(self.sizes + other.sizes)),
        )

    def with_defaults(self, defaults: Mapping[str, Array]) -> Artifact:
        """This artifact with arrays that stand for inputs, by name, that a call leaves out."""
        weights, inputs = dict(self.weights), []
        for spec in self.inputs:
            if spec.name in defaults:
                name = f"{spec.name}@default"
                while name in weights:
                    name += "_"
                spec, weights[name] = msgspec.structs.replace(spec, default=name), defaults[spec.name]
            inputs.append(spec)
        return replace(self, inputs=tuple(inputs), weights=weights)

    def _write(self, folder: Path) -> None:
        files: dict[str, FileRecord] = {}
        specs: list[WeightSpec] = []
        with (folder / WEIGHTS_NAME).open("xb") as stream:
            files[WEIGHTS_NAME] = _write_weights(self.weights, stream, specs)
        for name, content in (*self.libraries.items(), *self.graph_files.items()):
            with (folder / name).open("xb") as stream:
                stream.write(content)
                _sync(stream)
            files[name] = FileRecord(len(content), hashlib.sha256(content).hexdigest())
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            producer=dict(self.producer),
            source_sha256=self.source_sha256,
            pipeline=self.pipeline,
            inputs=self.inputs,
            outputs=self.outputs,
            variants=self.variants,
            weights=tuple(specs),
            files=files,
            sizes=self.sizes,
        )
        with (folder / MANIFEST_NAME).open("xb") as stream:
            stream.write(encode(manifest))
            _sync(stream)


def build(
    module: Any,
    target: Target,
    *,
    weights: Sequence[tuple[str, Array]],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    gir: str,
    gir_sidecar: tuple[str, bytes] | None = None,
    pipeline: str = "",
    source_sha256: str = "",
    kernels: Mapping[str, Sequence[str]] | None = None,
    sizes: Sequence[SizeRule] = (),
    memory: MemoryUse | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, step: None,
) -> Artifact:
    """Compile a Relax module for one target and link it.

    Args:
        module: ``tvm.IRModule`` whose function ``main(*inputs, *weights)`` returns a tuple of tensors.
        weights: name and content of each weight parameter, in order.
        gir: text of the final graph.
        gir_sidecar: file name and content of the large constants of that text.
        kernels: for each kernel, the nodes of the final graph that it computes.
        sizes: what the sizes at a call must be to each other for the code to be right.
        memory: how much memory lies between kernels.
        progress: called with (steps done, steps in all, what comes next); each kernel is a step.

    Raises:
        CompileError: TVM refuses the module, two weights share a name, or one has an element type that
            code can't use.
        LinkError: there is no C compiler, or it failed.
    """
    from graphopt.backend.relax_build import build_executable

    if len(dict(weights)) != len(weights):
        raise CompileError("two weights of one module have the same name")
    for name, array in weights:
        if str(array.dtype) not in DTYPES:
            raise CompileError(f"weight {name!r} has element type {array.dtype}, which kernels can't use")
    built = build_executable(module, target, inputs=len(inputs), progress=progress)
    progress(1, 1, "linking")
    library = link(built, target)
    file_name = f"code-{hashlib.sha256(library).hexdigest()[:16]}.so"
    variant = Variant(
        target=target.text,
        kind=target.kind,
        triple=target.triple,
        required_features=target.required_features,
        library=file_name,
        weights=tuple(name for name, _ in weights),
        kernels={name: tuple(nodes) for name, nodes in (kernels or {}).items()},
        memory=memory,
    )
    return Artifact(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        variants=(variant,),
        libraries={file_name: library},
        weights=dict(weights),
        graph_files={GRAPH_NAME: gir.encode(), **(dict([gir_sidecar]) if gir_sidecar else {})},
        pipeline=pipeline,
        source_sha256=source_sha256,
        producer={name: importlib.metadata.version(name) for name in _PRODUCERS},
        sizes=tuple(sizes),
    )


class _HashingWriter:
    """Counts and digests what it writes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.written = 0

    def write(self, content: bytes | memoryview) -> None:
        self._stream.write(content)
        self._digest.update(content)
        self.written += len(content)

    def record(self) -> FileRecord:
        return FileRecord(self.written, self._digest.hexdigest())


def _write_weights(weights: Mapping[str, Array], stream: BinaryIO, specs: list[WeightSpec]) -> FileRecord:
    """Write each weight at a multiple of :data:`ALIGNMENT` and append its spec."""
    writer = _HashingWriter(stream)
    for name, array in weights.items():
        writer.write(bytes(-writer.written % ALIGNMENT))
        dense = np.ascontiguousarray(
            array.astype(numpy_dtype(str(array.dtype)).newbyteorder("<"), copy=False)
        )
        specs.append(WeightSpec(name, str(array.dtype), array.shape, writer.written, array.nbytes))
        if dense.nbytes:
            writer.write(dense.reshape(-1).view(np.uint8).data)
    _sync(stream)
    return writer.record()


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def check_name(path: Path) -> None:
    """Makes sure that an artifact may have this name.

    Raises:
        ArtifactError: it does not end in ``.gopt``, or something else is there.
    """
    if path.suffix != ".gopt":
        raise ArtifactError(f"{path} is not a name for an artifact", hint="end it in .gopt")
    if (path.exists() or path.is_symlink()) and not _is_artifact(path):
        raise ArtifactError(f"{path} exists and is not an artifact", hint="choose another name")


def _is_artifact(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and (path / MANIFEST_NAME).is_file()


def _equal(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
