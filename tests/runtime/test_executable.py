"""Calling a loaded artifact: what it takes, what it gives, and what it says when that does not fit."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt as go
from graphopt.backend.artifact import build
from graphopt.errors import ArtifactError, InputError
from graphopt.runtime import Executable, TensorSpec, load
from graphopt.runtime.dtypes import DTYPES, numpy_dtype
from graphopt.runtime.tensors import aligned_empty
from graphopt.targets import Target
from tests.backend import toys
from tests.runtime.conftest import WEIGHT

Array = np.ndarray[Any, Any]


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def test_it_computes_what_numpy_computes_at_every_size(toy: Executable) -> None:
    for count in (1, 2, 7, 100, 0):
        x = rows(count)
        y, same = toy(x)
        np.testing.assert_allclose(y, x * WEIGHT + 1, atol=1e-6)
        np.testing.assert_array_equal(same, x)


def test_it_describes_itself(toy: Executable) -> None:
    assert [str(spec) for spec in toy.inputs] == ["x: float32[n, 8]"]
    assert [spec.name for spec in toy.outputs] == ["y", "x_out"]
    assert toy.manifest.pipeline == "fold-constants"
    assert toy.variant.kernels == {"scale_and_add": ("Mul_0", "Add_1")}


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x[::2],
        lambda x: np.asfortranarray(x),
        lambda x: np.frombuffer(bytearray(4) + bytearray(x.tobytes()), np.float32, offset=4).reshape(x.shape),
        lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
        lambda x: x[3:3],
        lambda x: x[::-6],
        lambda x: np.lib.stride_tricks.as_strided(x, (0, 8), (0, 0)),
    ],
    ids=["strided", "fortran", "unaligned", "read-only", "empty", "one row", "empty without strides"],
)
def test_any_layout_is_taken(toy: Executable, make: Callable[[Array], Array]) -> None:
    x = make(rows(6))
    np.testing.assert_allclose(toy(x)[0], np.asarray(x) * WEIGHT + 1, atol=1e-6)


def test_names_positions_and_mappings_give_the_same(toy: Executable) -> None:
    x = rows(3)
    for result in (toy(x), toy(x=x), toy({"x": x})):
        np.testing.assert_array_equal(result[0], toy(x)[0])


def test_arrays_of_other_libraries_are_taken_through_dlpack(toy: Executable) -> None:
    import tvm_ffi

    class Foreign:
        def __init__(self, array: Array) -> None:
            self._array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self._array.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self._array.__dlpack_device__()

    x = rows(6)
    for array in (x, x[::2]):
        np.testing.assert_allclose(toy(Foreign(array))[0], array * WEIGHT + 1, atol=1e-6)
    np.testing.assert_allclose(toy(tvm_ffi.from_dlpack(x))[0], x * WEIGHT + 1, atol=1e-6)
    with pytest.raises(InputError, match="expected float32, got float64"):
        toy(Foreign(x.astype(np.float64)))


def test_results_are_the_callers_own(toy: Executable) -> None:
    aligned = aligned_empty((4, 8), np.dtype(np.float32))
    for x in (rows(4), aligned):
        x[:] = rows(4)
        first = toy(x)
        kept = [array.copy() for array in first]
        x[:] = 0
        toy(rows(4, seed=1))
        for array, copy in zip(first, kept, strict=True):
            np.testing.assert_array_equal(array, copy)
            array[:] = 7
    np.testing.assert_allclose(toy(rows(2))[0], rows(2) * WEIGHT + 1, atol=1e-6)


def test_results_outlive_the_executable(toy_path: Path) -> None:
    with load(toy_path) as executable:
        y, _ = executable(rows(5))
    np.testing.assert_allclose(y, rows(5) * WEIGHT + 1, atol=1e-6)
    with pytest.raises(ArtifactError, match="closed"):
        executable(rows(5))
    executable.close()


def test_outputs_are_written_where_the_caller_wants(toy: Executable) -> None:
    x = rows(4)
    y, same = np.empty_like(x), np.empty_like(x)
    result = toy(x, out=[y, same])
    assert result[0] is y and result[1] is same
    np.testing.assert_allclose(y, x * WEIGHT + 1, atol=1e-6)
    wide = np.zeros((4, 16), np.float32)
    toy(x, out={"y": wide[:, ::2]})
    np.testing.assert_allclose(wide[:, ::2], y)
    assert not wide[:, 1::2].any()
    toy(x, out={"y": x})
    np.testing.assert_allclose(x, y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(), "input 'x' was not passed"),
        (lambda f: f(rows(2), rows(2)), "2 arrays for 1 input:"),
        (lambda f: f(xs=rows(2)), "no input 'xs' (did you mean 'x'?)"),
        (lambda f: f(rows(2), x=rows(2)), "passed twice"),
        (lambda f: f({"x": rows(2)}, x=rows(2)), "passed twice"),
        (lambda f: f(rows(2).astype(np.float64)), "input 'x': expected float32, got float64"),
        (lambda f: f(rows(2).astype(">f4")), "input 'x': expected float32, got >f4"),
        (lambda f: f([[1.0] * 8]), "input 'x' is a list, not an array"),
        (lambda f: f(rows(2)[:, :7]), "expected float32[n, 8], got [2, 7] (axis 1 must be 8)"),
        (lambda f: f(rows(2)[0]), "expected float32[n, 8], got [8] of rank 1"),
        (lambda f: f(rows(2), out=[rows(2)]), "1 array for 2 outputs"),
        (lambda f: f(rows(2), out={"z": rows(2)}), "no output 'z'"),
        (lambda f: f(rows(2), out={"y": rows(3)}), "axis 0 must be n = 2"),
        (lambda f: f(rows(2), out={"y": rows(2).astype("f8")}), "is float32, got float64"),
        (lambda f: f(rows(2), out={"y": np.frombuffer(bytes(64), "f4").reshape(2, 8)}), "can be written"),
    ],
)
def test_what_does_not_fit_is_explained(toy: Executable, call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        call(toy)
    np.testing.assert_allclose(toy(rows(2))[0], rows(2) * WEIGHT + 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1,)])
def test_every_element_type_and_rank(shape: tuple[int, ...]) -> None:
    dtypes = sorted(DTYPES)
    module, inputs, outputs = toys.copies(dtypes, shape)
    artifact = build(module, Target.parse("native"), weights=[], inputs=inputs, outputs=outputs, gir="")
    executable = artifact.load(threads=1)
    random = np.random.default_rng(0)
    arrays = [np.asarray(random.integers(0, 2, shape)).astype(numpy_dtype(dtype)) for dtype in dtypes]
    for array, result in zip(arrays, executable(*arrays), strict=True):
        assert result.dtype == array.dtype and result.shape == shape
        np.testing.assert_array_equal(result, array)


def test_bfloat16_keeps_its_bits() -> None:
    module, inputs, outputs = toys.copies(["bfloat16"], (1000,))
    artifact = build(module, Target.parse("native"), weights=[], inputs=inputs, outputs=outputs, gir="")
    x = np.random.default_rng(0).standard_normal(1000).astype(ml_dtypes.bfloat16)
    (y,) = artifact.load()(x)
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y.view(np.uint16), x.view(np.uint16))


def test_symbols_agree_across_inputs_and_expressions_hold() -> None:
    from graphopt.runtime.signature import Signature

    def spec(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name, "float32", shape)

    signature = Signature([spec("a", "n", "W"), spec("b", "n", "2*W + 1")], [spec("c", "floordiv(W, 2)")])
    values = signature.bind([(2, 3), (2, 7)])
    assert values == {"n": 2, "W": 3}
    signature.check_output(0, (1,), values)
    with pytest.raises(InputError, match=re.escape("axis 0 is n, which is 2 in input 'a'")):
        signature.bind([(2, 3), (4, 7)])
    with pytest.raises(InputError, match=re.escape("axis 1 must be 2*W + 1 = 7")):
        signature.bind([(2, 3), (2, 6)])
    with pytest.raises(InputError, match=re.escape("axis 0 must be")):
        signature.check_output(0, (2,), values)


def test_threads_take_turns_and_all_get_their_own_result(toy: Executable) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        for count in range(1, 40):
            x = rows(count, seed)
            if not np.allclose(toy(x)[0], x * WEIGHT + 1, atol=1e-6):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_two_loads_of_one_artifact_run_side_by_side(toy_path: Path) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        with load(toy_path, threads=2) as executable:
            for count in range(1, 200):
                x = rows(count, seed)
                if not np.allclose(executable(x)[0], x * WEIGHT + 1, atol=1e-6):
                    wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_is_the_callers_choice(threads: int) -> None:
    """Parallel kernels give the same on any number, and this process keeps its processors."""
    weight = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    artifact = toys.artifact(toys.multiply(64, threads=True), weight)
    before = os.sched_getaffinity(0)
    executable = artifact.load(threads=threads)
    tasks = len(os.listdir("/proc/self/task"))
    x = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32)
    result: list[Array] = []
    started: list[int] = []

    def work() -> None:
        result.extend(executable(x))
        started.append(len(os.listdir("/proc/self/task")) - tasks - 1)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    np.testing.assert_allclose(result[0], x @ weight, atol=1e-4)
    np.testing.assert_array_equal(executable(x)[0], result[0])
    assert started == [threads - 1]
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 100000])
def test_wrong_numbers_of_threads_are_refused(toy_path: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="threads must be a number from 1"):
        load(toy_path, threads=threads)


def test_many_shapes_don_t_fill_the_memory(toy: Executable) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    toy(rows(20000))
    before = resident()
    for count in range(20000, 20000 + 400 * 130, 130):
        toy(np.empty((count, 8), np.float32))
    # Kept by size, the freed blocks of these 400 shapes would be 460 MB.
    assert resident() - before < 200 << 20


def test_weights_are_mapped_not_copied(tmp_path: Path) -> None:
    weight = np.zeros((1024, 1024), np.float32)
    path = toys.artifact(toys.multiply(1024), weight).save(tmp_path / "m.gopt")
    with load(path, threads=1):
        maps = Path("/proc/self/smaps").read_text()
        entry = maps[maps.index(str(path / "weights.bin")) :]
        assert re.search(r"Private_Dirty:\s+0 kB", entry)
        assert "r--s" in maps[: maps.index(str(path / "weights.bin"))].splitlines()[-1]


def test_an_input_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    """ONNX's initializer that is an input too: a value for when the caller gives none."""
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 4]), ("w", [4]))
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
    w = np.arange(4, dtype=np.float32)
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    optimized = go.optimize(go.load(tmp_path / "m.onnx"), "O2")
    go.save(optimized, tmp_path / "o.onnx")
    x = rows(3)[:, :4].copy()
    (carried,) = onnxruntime.InferenceSession(tmp_path / "o.onnx").run(None, {"x": x})
    np.testing.assert_array_equal(carried, x + w)
    with load(go.compile(optimized).save(tmp_path / "m.gopt"), threads=1) as executable:
        assert [str(spec) for spec in executable.inputs] == ["x: float32[n, 4]", "w: float32[4] (optional)"]
        for given in (executable(x), executable(x=x), executable({"x": x})):
            np.testing.assert_array_equal(given[0], x + w)
        np.testing.assert_array_equal(executable(x, w * 2)[0], x + w * 2)
        np.testing.assert_array_equal(executable(x)[0], x + w)
        with pytest.raises(InputError, match="'x' was not passed"):
            executable(w=w)


def test_a_masked_array_is_refused(toy: Executable) -> None:
    with pytest.raises(InputError, match="'x' is a masked array"):
        toy(np.ma.masked_less(rows(2), 0))


def test_out_may_be_the_array_of_the_only_output(tmp_path: Path) -> None:
    one = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
    )
    onnx.save(
        helper.make_model(one, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx"
    )
    artifact = go.compile(go.load(tmp_path / "m.onnx"))
    assert re.fullmatch(r"<Artifact for \S+: x: float32\[3\] -> y: float32\[3\]>", repr(artifact))
    x, y = np.arange(3, dtype=np.float32), np.empty(3, np.float32)
    with artifact.load(threads=1) as executable:
        assert executable(x, out=y)[0] is y
        np.testing.assert_array_equal(y, -x)
        with pytest.raises(InputError, match="out: int is neither"):
            executable(x, out=3)  # type: ignore[arg-type]
