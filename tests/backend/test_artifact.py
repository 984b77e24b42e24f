"""Building, joining and writing artifacts."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.backend.artifact import Artifact, build
from graphopt.backend.relax_build import build_executable
from graphopt.errors import ArtifactError, CompileError
from graphopt.runtime import TensorSpec, load
from graphopt.targets import Target
from tests.backend import toys

ONE = np.ones((1, 8), np.float32)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return toys.artifact(toys.scale_and_add(), ONE)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_module_gives_the_same_directory(artifact: Artifact, tmp_path: Path) -> None:
    again = toys.artifact(toys.scale_and_add(), ONE)
    left, right = artifact.save(tmp_path / "a.gopt"), again.save(tmp_path / "b.gopt")
    assert tree(left) == tree(right)
    assert (left / "graph.gir").read_text() == "toy\n"


def test_two_dynamic_dimensions_and_parallel_loops() -> None:
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    executable = toys.artifact(toys.scale_and_add(width="m"), np.full((1, 1), 2, np.float32)).load()
    np.testing.assert_allclose(executable(x)[0], 2 * x + 1, rtol=1e-6)
    np.testing.assert_allclose(executable(x.T)[0], 2 * x.T + 1, rtol=1e-6)


@pytest.mark.parametrize("kernels", [3, 257])
def test_long_chains_in_either_way_of_calling(kernels: int) -> None:
    """A kernel for each addition, called by compiled code or, where there are many, by bytecode."""
    module, inputs, outputs = toys.chain(kernels)
    artifact = build(module, Target.parse("x86-64-v3"), weights=[], inputs=inputs, outputs=outputs, gir="")
    x = np.arange(16, dtype=np.float32).reshape(1, 16)
    np.testing.assert_array_equal(artifact.load()(x)[0], x + kernels * (kernels + 1) // 2)


def test_an_artifact_that_is_there_is_replaced_and_nothing_is_left_over(
    artifact: Artifact, tmp_path: Path
) -> None:
    path = artifact.save(tmp_path / "m.gopt")
    held = load(path)
    other = toys.artifact(toys.scale_and_add(), 3 * ONE)
    assert other.save(path) == path
    x = np.ones((2, 8), np.float32)
    np.testing.assert_array_equal(held(x)[0], 2 * x)
    np.testing.assert_array_equal(load(path)(x)[0], 4 * x)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gopt"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask


def test_reloading_a_replaced_artifact_takes_its_new_code(artifact: Artifact, tmp_path: Path) -> None:
    """The system's loader remembers libraries by path, so a path must not come to mean other code."""
    path = artifact.save(tmp_path / "m.gopt")
    held = load(path)
    module, inputs, outputs = toys.chain(5)
    build(module, Target.parse("native"), weights=[], inputs=inputs, outputs=outputs, gir="").save(path)
    x = np.zeros((1, 16), np.float32)
    np.testing.assert_array_equal(load(path)(x)[0], x + 15)
    np.testing.assert_array_equal(held(np.ones((1, 8), np.float32))[0], 2 * ONE)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_other_things_are_never_overwritten(artifact: Artifact, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.gopt"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
        (path / "precious").write_text("precious")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="exists and is not an artifact"):
        artifact.save(path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_the_old_artifact(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = artifact.save(tmp_path / "m.gopt")
    before = tree(path)
    real = os.fsync
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        artifact.save(path)
    assert tree(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gopt"]


@pytest.mark.parametrize(
    ("name", "message"), [("model.so", "end it in .gopt"), ("no/where/m.gopt", "can't be written")]
)
def test_names_that_can_t_be_written(artifact: Artifact, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=re.escape(message)):
        artifact.save(tmp_path / name)


def test_weights_of_every_layout_are_written_aligned(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((64, 64)).astype(np.float32)
    x = random.standard_normal((64, 64)).astype(np.float32)
    for stored in (weight, np.asfortranarray(weight), np.repeat(weight, 2, axis=1)[:, ::2]):
        path = toys.artifact(toys.multiply(), stored).save(tmp_path / "m.gopt")
        executable = load(path)
        np.testing.assert_allclose(executable(x)[0], x @ weight, atol=1e-4)
        assert all(spec.offset % 64 == 0 for spec in executable.manifest.weights)


def test_one_artifact_for_two_targets(tmp_path: Path) -> None:
    new, old = (toys.artifact(toys.scale_and_add(), ONE, target) for target in ("native", "x86-64"))
    packed = toys.artifact(toys.scale_and_add(), 2 * ONE, "x86-64-v2")
    both = new.with_variants_of(old).with_variants_of(packed)
    assert list(both.weights) == ["w", "w@x86-64-v2"]
    executable = load(both.save(tmp_path / "m.gopt"))
    assert executable.variant.target == Target.parse("native").text
    # The most demanding first.
    assert [variant.target for variant in executable.manifest.variants][1:] == ["x86-64-v2", "x86-64"]
    np.testing.assert_array_equal(executable(ONE)[0], 2 * ONE)
    with pytest.raises(CompileError, match="both artifacts hold code for x86-64"):
        both.with_variants_of(old)
    with pytest.raises(CompileError, match="different inputs or outputs"):
        both.with_variants_of(toys.artifact(toys.scale_and_add(width="m"), ONE[:, :1]))


def test_calls_that_don_t_fit_their_kernel_are_refused() -> None:
    """With static shapes kernels don't check their arguments, so what they get is checked here."""
    import tvm
    from tvm import relax, te

    x = te.placeholder((4,), "float32", "x")
    kernel = te.create_prim_func([x, te.compute((4,), lambda i: x[i] + x[i], "y")])
    for given, results in (((5,), (4,)), ((4,), (3,)), ((4, 1), (4,))):
        builder = relax.BlockBuilder()
        variable = builder.add_func(kernel, "double")
        parameter = relax.Var("x", relax.TensorType(given, "float32"))
        call = relax.call_tir(variable, [parameter], relax.TensorType(results, "float32"))
        with builder.function("main", [parameter]):
            with builder.dataflow():
                output = builder.emit_output(relax.Tuple([builder.emit(call)]))
            builder.emit_func_output(output)
        module = builder.get()
        assert isinstance(module, tvm.IRModule)
        with pytest.raises(CompileError, match=r"kernel double: buffer \d is float32"):
            build_executable(module, Target.parse("native"), inputs=1)


def test_modules_that_can_t_be_built_are_refused() -> None:
    import tvm

    specs = [TensorSpec("x", "float32", (1,))]
    with pytest.raises(CompileError, match="no Relax function main"):
        build_executable(tvm.IRModule({}), Target.parse("native"), inputs=1)
    with pytest.raises(CompileError, match="two weights of one module have the same name"):
        twice = [("w", ONE), ("w", 2 * ONE)]
        build(None, Target.parse("native"), weights=twice, inputs=specs, outputs=specs, gir="")
    strange: Any = np.zeros(3, np.complex64)
    with pytest.raises(CompileError, match="weight 'w' has element type complex64"):
        build(None, Target.parse("native"), weights=[("w", strange)], inputs=specs, outputs=specs, gir="")
