"""External data: kept inside the model's folder, checked, mapped, and copied without filling the memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import ModelError
from graphopt.onnx_io import load, save


def external_model(
    folder: Path,
    *,
    location: str = "w.bin",
    offset: int = 0,
    length: int | None = 64,
    dims: tuple[int, ...] = (4, 4),
) -> Path:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": str(offset)} | (
        {"length": str(length)} if length is not None else {}
    )
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", dims[0]])],
        [helper.make_tensor_value_info("y", 1, ["n", dims[1]])],
        [weight],
    )
    path = folder / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    return path


def test_weights_are_mapped_and_survive_a_round_trip(tmp_path: Path) -> None:
    want = np.arange(24, dtype=np.float32)[8:].reshape(4, 4)
    (tmp_path / "w.bin").write_bytes(np.arange(24, dtype=np.float32).tobytes())
    graph = load(external_model(tmp_path, offset=32))
    weight = graph.constants["w"].const
    assert weight is not None
    assert isinstance(weight.numpy(), np.memmap)
    np.testing.assert_array_equal(weight.numpy(), want)
    save(graph, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx.data").exists()  # a small weight stays in the model
    again = load(tmp_path / "out.onnx").constants["w"].const
    assert again is not None
    np.testing.assert_array_equal(again.numpy(), want)


def test_saving_over_the_model_that_was_loaded(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    path = external_model(tmp_path, location="model.onnx.data", length=data.nbytes, dims=(64, 64))
    (tmp_path / "model.onnx.data").write_bytes(data.tobytes())
    graph = load(path)
    save(graph, path)
    held = graph.constants["w"].const
    again = load(path).constants["w"].const
    assert held is not None
    assert again is not None
    np.testing.assert_array_equal(again.numpy(), data)
    np.testing.assert_array_equal(held.numpy(), data)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx.checker.check_model(path)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "sub/../../w.bin", "", "link.bin"])
def test_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(64))
    os.symlink(tmp_path / "w.bin", folder / "link.bin")
    with pytest.raises(ModelError, match="outside the folder of the model"):
        load(external_model(folder, location=location))


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (32, 64, "which has 64 bytes"),
        (-4, 64, "which has 64 bytes"),
        (0, 60, "needs 64 bytes"),
        (1 << 62, None, "which has 64 bytes"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    tmp_path: Path, offset: int, length: int | None, message: str
) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    with pytest.raises(ModelError, match=message):
        load(external_model(tmp_path, offset=offset, length=length))


def test_what_can_t_be_opened_is_refused(tmp_path: Path) -> None:
    os.symlink(tmp_path / "b", tmp_path / "a")
    os.symlink(tmp_path / "a", tmp_path / "b")
    for location in ("a", "long" * 1000):
        with pytest.raises(ModelError, match=f'the data file "{location[:200]}" of initializer "w"'):
            load(external_model(tmp_path, location=location))


def test_missing_file_and_model_without_folder(tmp_path: Path) -> None:
    path = external_model(tmp_path, location="gone.bin")
    with pytest.raises(ModelError, match=r'"gone\.bin" of initializer "w" is not there'):
        load(path)
    with pytest.raises(ModelError, match="was not read from a file"):
        load(path.read_bytes())


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    graph = load(external_model(tmp_path))
    with pytest.raises(ModelError, match="can't be written"):
        save(graph, tmp_path / "absent" / "out.onnx")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ModelError, match="can't be written"):
        save(graph, tmp_path / "taken")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "taken", "w.bin"]


PEAK = """
import re, sys
from graphopt.onnx_io import load, save

def peak():  # ru_maxrss would count what the parent had when it forked
    return re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]

graph = load(sys.argv[1])
loaded = peak()
save(graph, sys.argv[2])
print(loaded, peak())
"""


def peaks(tmp_path: Path, rows: int) -> tuple[float, float]:
    """Peak memory in MiB after load and after save of a model with ``rows`` * 64 KiB of weights."""
    length = rows * 65536
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(length)
    path = external_model(tmp_path, length=length, dims=(rows, 16384))
    process = subprocess.run(
        [sys.executable, "-c", PEAK, str(path), str(tmp_path / "out.onnx")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (tmp_path / "out.onnx.data").stat().st_size == length
    loaded, saved = process.stdout.split()
    return int(loaded) / 1024, int(saved) / 1024


def test_memory_stays_small(tmp_path: Path) -> None:
    loaded, saved = peaks(tmp_path, rows=8192)  # 512 MiB
    assert loaded < 200
    assert saved < 200


@pytest.mark.sweep
def test_memory_stays_small_with_3_gb(tmp_path: Path) -> None:
    loaded, saved = peaks(tmp_path, rows=49152)
    assert loaded < 300
    assert saved < 300
