"""Where the time of an artifact goes: its kernels timed in a real run, beside what the machine can do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphopt.errors import ArtifactError
from graphopt.ir.tensor import Array
from graphopt.profile.analyse import KernelCost, Profile, analyse
from graphopt.profile.measure import measure
from graphopt.runtime import manifest as manifests
from graphopt.runtime.executable import choose_variant
from graphopt.runtime.files import map_file
from graphopt.runtime.signature import Signature

__all__ = ["KernelCost", "Profile", "profile"]


def profile(
    artifact: Path, inputs: Mapping[str, Array], *, threads: int = 1, seconds: float = 1.0
) -> Profile:
    """Times each kernel of an artifact and sets it beside the machine's roofline.

    Args:
        artifact: the artifact's directory. Its code is run.
        inputs: arrays by input name.
        threads: how many threads kernels use.
        seconds: how long runs are measured.

    Raises:
        ArtifactError: it is damaged, or its graph is not in it.
        InputError: the inputs don't fit.
        TargetError: it holds no code for this machine.
        LinkError: there is no C toolchain.
        EvaluationError: it could not be run.
    """
    from graphopt.ir.parser import parse_graph

    manifest = manifests.read(artifact)
    variant = choose_variant(manifest, artifact)
    signature = Signature(manifest.inputs, manifest.outputs, manifest.sizes)
    sizes = signature.bind([array.shape for array in signature.arrange((), inputs)])
    if manifests.GRAPH_NAME not in manifest.files:
        raise ArtifactError(f"{artifact} holds no {manifests.GRAPH_NAME}")
    record = manifest.files[manifests.GRAPH_NAME]
    graph = parse_graph(map_file(artifact, manifests.GRAPH_NAME, record, verify=True).tobytes().decode())
    measured = measure(artifact, manifest, inputs, threads=threads, seconds=seconds)
    return analyse(measured, variant.kernels, graph, sizes, threads)
