"""The manifest of an artifact, format version 1: what is in the directory and how to call it.

``manifest.json`` lists every other file with its size and SHA-256, and carries the SHA-256 of
itself: the digest of its own bytes with the digest's 64 characters replaced by zeros.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from graphopt.errors import ArtifactError, TextError
from graphopt.ir.dim_text import parse_dim
from graphopt.runtime.dtypes import DTYPES, itemsize
from graphopt.runtime.files import HINT, FileRecord, open_plain
from graphopt.runtime.sizes import SizeRule

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
WEIGHTS_NAME = "weights.bin"
GRAPH_NAME = "graph.gir"
ALIGNMENT = 64

_BLANK = "0" * 64
_MAX_BYTES = 256 << 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An input or output.

    Attributes:
        name: its name in the source model.
        dtype: element type, such as ``float32``.
        shape: extents; a string is a dimension known at the call, a symbol or an expression of symbols.
        default: of an input that may be left out, the name of the weight that then stands for it.
        alignment: of an input, bytes at a multiple of which the code takes its data to begin.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    default: str = ""
    alignment: int = ALIGNMENT

    def __str__(self) -> str:
        optional = " (optional)" if self.default else ""
        return f"{self.name}: {self.dtype}[{', '.join(str(extent) for extent in self.shape)}]{optional}"


class WeightSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A constant tensor, row-major, at ``offset`` in the weights file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class MemoryUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory between kernels, beside inputs, outputs, weights, and what kernels use inside.

    Attributes:
        planned: bytes of the memory in which all values of known size have their places.
        separate: bytes of the same values if each had memory of its own.
        in_place: nodes that concatenate or take a part, and move no data.
        moved: nodes of that kind that a kernel copies.
        dynamic: values whose size is known only at the call, for which memory is taken then.
    """

    planned: int
    separate: int
    in_place: int
    moved: int
    dynamic: int


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Code for one target.

    Attributes:
        target: canonical text of the target.
        kind: ``llvm`` or ``cuda``.
        triple: target triple of the CPU code.
        required_features: CPU features without which the code may hit an illegal instruction.
        library: shared object, relative to the artifact.
        weights: names of the weights that its entry point takes after the inputs, in order.
        kernels: from each kernel to the nodes of the final graph that it computes.
        memory: how much memory lies between kernels; None where the code was not made from a graph.
    """

    target: str
    kind: str
    triple: str
    required_features: tuple[str, ...]
    library: str
    weights: tuple[str, ...]
    kernels: dict[str, tuple[str, ...]]
    memory: MemoryUse | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that the artifact says of itself.

    Attributes:
        producer: versions of what made it, by package name.
        source_sha256: digest of the source model's file; empty where there was none.
        pipeline: text of the passes that the graph went through.
        files: every file but the manifest, by path relative to the artifact.
        sizes: what the sizes at a call must be to each other, beside what the inputs' shapes say.
        sha256: digest of the manifest itself, see the module's description.
    """

    format_version: int
    producer: dict[str, str]
    source_sha256: str
    pipeline: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]
    weights: tuple[WeightSpec, ...]
    files: dict[str, FileRecord]
    sizes: tuple[SizeRule, ...] = ()
    sha256: str = _BLANK


class _Version(msgspec.Struct):
    format_version: int


def encode(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``, with the digest filled in."""
    dense = msgspec.json.encode(msgspec.structs.replace(manifest, sha256=_BLANK))
    blank = msgspec.json.format(dense, indent=1) + b"\n"
    head, _, tail = blank.rpartition(_BLANK.encode())
    return head + hashlib.sha256(blank).hexdigest().encode() + tail


def read(folder: Path, *, verify: bool = True) -> Manifest:
    """Read and check the manifest of the artifact in ``folder``.

    Raises:
        ArtifactError: it is missing, damaged, of another format version, or contradicts itself.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not an artifact: no such directory")
    if not os.path.lexists(path):
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST_NAME}")
    descriptor, size = open_plain(path)
    with os.fdopen(descriptor, "rb") as stream:
        if size > _MAX_BYTES:
            raise ArtifactError(f"{path} is too large for a manifest: {size} bytes")
        raw = stream.read(_MAX_BYTES)
    manifest = _decode(raw, path)
    if verify and _with_blank(raw, manifest.sha256) != manifest.sha256:
        raise ArtifactError(f"{path} was changed after it was written (SHA-256 differs)", hint=HINT)
    _check(manifest, path)
    return manifest


def _with_blank(raw: bytes, digest: str) -> str:
    head, found, tail = raw.rpartition(digest.encode())
    return hashlib.sha256(head + _BLANK.encode() + tail).hexdigest() if found and len(digest) == 64 else ""


def _decode(raw: bytes, path: Path) -> Manifest:
    try:
        version = msgspec.json.decode(raw, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"{path} has format version {version}; this graphopt reads version {FORMAT_VERSION}",
                hint="compile the model again, or run it with the graphopt that wrote it",
            )
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", hint=HINT) from error


def _check(manifest: Manifest, path: Path) -> None:
    def fail(what: str) -> ArtifactError:
        return ArtifactError(f"{path} contradicts itself: {what}", hint=HINT)

    for name in manifest.files:
        if not all(_PART.fullmatch(part) for part in name.split("/")) or name == MANIFEST_NAME:
            raise fail(f"{name!r} is not the path of a file inside the artifact")
    tables: dict[str, tuple[TensorSpec | WeightSpec, ...]] = {
        "input": manifest.inputs,
        "output": manifest.outputs,
        "weight": manifest.weights,
    }
    for kind, specs in tables.items():
        repeated = _repeated(spec.name for spec in specs if kind != "output")
        if repeated is not None:
            raise fail(f"two {kind}s are named {repeated!r}")
        for spec in specs:
            if spec.dtype not in DTYPES:
                raise fail(f"{kind} {spec.name!r} has unknown element type {spec.dtype!r}")
            if any(not _is_extent(extent) for extent in spec.shape):
                raise fail(f"{kind} {spec.name!r} has shape {list(spec.shape)}")
            if isinstance(spec, TensorSpec) and spec.alignment < 1:
                raise fail(f"{kind} {spec.name!r} has alignment {spec.alignment}")
    for rule in manifest.sizes:
        if not all(isinstance(size, int) or _is_extent(size) for size in (rule.left, rule.right)):
            raise fail(f"the sizes that {rule.where} needs are {rule.left!r} and {rule.right!r}")
    size = manifest.files[WEIGHTS_NAME].nbytes if WEIGHTS_NAME in manifest.files else 0
    for weight in manifest.weights:
        what = f"weight {weight.name!r}"
        if weight.nbytes != math.prod(weight.shape) * itemsize(weight.dtype):
            raise fail(f"{what} of shape {list(weight.shape)} can't have {weight.nbytes} bytes")
        if weight.offset % ALIGNMENT or not 0 <= weight.offset <= size - weight.nbytes:
            raise fail(f"{what} at offset {weight.offset} does not lie in {WEIGHTS_NAME} of {size} bytes")
    if not manifest.variants:
        raise fail("it holds no variant")
    names = {weight.name for weight in manifest.weights}
    for spec in manifest.inputs:
        if spec.default and spec.default not in names:
            raise fail(f"input {spec.name!r} has the default {spec.default!r}, which is not listed")
    for variant in manifest.variants:
        if variant.library not in manifest.files:
            raise fail(f"variant {variant.target} names the file {variant.library!r}, which is not listed")
        for weight_name in variant.weights:
            if weight_name not in names:
                raise fail(f"variant {variant.target} takes the weight {weight_name!r}, which is not listed")


def _is_extent(extent: int | str) -> bool:
    if isinstance(extent, int):
        return extent >= 0
    try:
        parse_dim(extent)
    except TextError:
        return False
    return True


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
