"""Code for aarch64, cross-compiled and linked here and run under emulation."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from graphopt.backend.artifact import build
from graphopt.backend.cross import run_emulated
from graphopt.errors import ArtifactError, InputError, TargetError
from graphopt.runtime import load
from graphopt.runtime.dtypes import DTYPES, numpy_dtype
from graphopt.targets import Target, host_machine
from tests.backend import toys
from tests.backend.emulation import EMULATED, MISSING

ZIG = pytest.mark.skipif(MISSING is not None and "ziglang" in MISSING, reason="ziglang is not installed")

WEIGHT = np.linspace(-2, 3, 8, dtype=np.float32).reshape(1, 8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder with blanks")
    return toys.artifact(toys.scale_and_add(), WEIGHT, "aarch64").save(folder / "toy.gopt")


@ZIG
def test_the_library_is_for_aarch64_and_the_same_each_time(path: Path) -> None:
    library = next(path.glob("*.so")).read_bytes()
    assert library[:4] == b"\x7fELF"
    assert int.from_bytes(library[18:20], "little") == 183  # EM_AARCH64
    again = toys.artifact(toys.scale_and_add(), WEIGHT, "aarch64")
    assert list(again.libraries.values()) == [library]


@ZIG
@pytest.mark.skipif(host_machine() == "aarch64", reason="this machine is aarch64")
def test_it_does_not_load_here(path: Path) -> None:
    with pytest.raises(TargetError, match="aarch64 is for aarch64, this machine is"):
        load(path)


@EMULATED
@pytest.mark.parametrize("rows", [1, 5, 0])
def test_it_computes_what_numpy_computes(path: Path, rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 8)).astype(np.float32)
    y, same = run_emulated(path, {"x": x})
    np.testing.assert_allclose(y, x * WEIGHT + 1, atol=1e-6)
    np.testing.assert_array_equal(same, x)


@EMULATED
def test_matrices_on_a_named_cpu(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    artifact = toys.artifact(toys.multiply(64, threads=True), weight, "aarch64:neoverse-n1")
    (y,) = run_emulated(artifact.save(tmp_path / "m.gopt"), {"x": np.asfortranarray(x)})
    np.testing.assert_allclose(y, x @ weight, atol=1e-4)


@EMULATED
def test_every_element_type(tmp_path: Path) -> None:
    dtypes = sorted(DTYPES)
    module, inputs, outputs = toys.copies(dtypes, (3, 5))
    artifact = build(module, Target.parse("aarch64"), weights=[], inputs=inputs, outputs=outputs, gir="")
    random = np.random.default_rng(0)
    arrays = {f"x_{dtype}": random.integers(0, 2, (3, 5)).astype(numpy_dtype(dtype)) for dtype in dtypes}
    results = run_emulated(artifact.save(tmp_path / "m.gopt"), arrays)
    for array, result in zip(arrays.values(), results, strict=True):
        assert result.dtype == array.dtype
        np.testing.assert_array_equal(result, array)
    assert numpy_dtype("bfloat16") == ml_dtypes.bfloat16


@EMULATED
def test_inputs_and_artifacts_are_checked_first(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected float32, got float64"):
        run_emulated(path, {"x": np.zeros((1, 8))})
    with pytest.raises(InputError, match="axis 1 must be 8"):
        run_emulated(path, {"x": np.zeros((1, 7), np.float32)})
    with pytest.raises(ArtifactError, match="is not an artifact"):
        run_emulated(tmp_path / "absent.gopt", {})
    native = toys.artifact(toys.scale_and_add(), WEIGHT, "x86-64-v3").save(tmp_path / "x86.gopt")
    with pytest.raises(TargetError, match="holds no aarch64 code, only x86-64-v3"):
        run_emulated(native, {"x": np.zeros((1, 8), np.float32)})


@EMULATED
def test_the_runner_names_what_is_wrong(path: Path, tmp_path: Path) -> None:
    from graphopt.backend.cross import _emulate, _runner

    for plan in ("", "tensor 1", f"library {tmp_path}/absent.so\n", "library"):
        (tmp_path / "plan").write_text(plan)
        with pytest.raises(InputError, match=r"the emulated run failed: (damaged plan|.*absent\.so)"):
            _emulate([str(_runner()), str(tmp_path / "plan")], _runner().parent, 60)
