"""CUDA code made without a GPU: what is in the shared object, and what is refused."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.backend.artifact import Artifact
from graphopt.errors import CompileError, LinkError, TargetError
from graphopt.runtime import load
from graphopt.targets import Target
from tests.backend import toys

NVRTC = pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None,
    reason="cuda-bindings is not installed",
)
EM_CUDA = 190


def cubins(library: bytes) -> list[tuple[int, bytes]]:
    """Compute capability and content from the start of each ELF file for NVIDIA GPUs in the library."""
    starts = [found.start() for found in re.finditer(b"\x7fELF", library)]
    elfs = [library[start:] for start in starts]
    # e_machine at byte 18; e_flags at byte 48 holds the capability in its second byte.
    return [(elf[49], elf) for elf in elfs if int.from_bytes(elf[18:20], "little") == EM_CUDA]


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return toys.artifact(toys.scale_and_add(), np.ones((1, 8), np.float32), "cuda:sm_80")


@NVRTC
def test_the_shared_object_holds_machine_code_for_the_gpu(artifact: Artifact) -> None:
    (library,) = artifact.libraries.values()
    ((capability, cubin),) = cubins(library)
    assert capability == 80
    assert b"scale_and_add_kernel" in cubin
    assert b"__global__" not in library  # no source that the loading machine would have to compile
    assert library.count(b"cubn") == 1


@NVRTC
def test_it_is_the_same_each_time(artifact: Artifact) -> None:
    again = toys.artifact(toys.scale_and_add(), np.ones((1, 8), np.float32), "cuda:sm_80")
    assert dict(again.libraries) == dict(artifact.libraries)


@NVRTC
@pytest.mark.parametrize("arch", ["sm_90"])
def test_matrix_products_are_scheduled_on_threads(arch: str) -> None:
    artifact = toys.artifact(toys.multiply(256), np.ones((256, 256), np.float32), f"cuda:{arch}")
    ((capability, cubin),) = cubins(next(iter(artifact.libraries.values())))
    assert capability == int(arch.removeprefix("sm_"))
    assert b"multiply_kernel" in cubin


@NVRTC
def test_it_does_not_load_here(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cuda:sm_80 is for a GPU"):
        load(artifact.save(tmp_path / "gpu.gopt"))


@NVRTC
def test_what_nvrtc_refuses_is_reported() -> None:
    from graphopt.backend.gpu import compile_cubin

    with pytest.raises(CompileError, match=r"NVRTC refused the kernels for sm_80: .*undeclared_thing"):
        compile_cubin('extern "C" __global__ void k(float* x) { x[0] = undeclared_thing; }', "sm_80")


def test_without_nvrtc_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.backend.gpu import compile_cubin

    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(CompileError, match=re.escape('pip install "graphopt[cuda]"')):
        compile_cubin("", "sm_80")


def test_kernels_that_no_rule_schedules_don_t_get_through() -> None:
    """A loop that is bound to no threads would run on the host, on memory that the host can't reach."""
    import tvm
    from tvm import te

    from graphopt.backend.gpu import schedule_for_gpu

    x = te.placeholder((16,), "float32", "x")
    kernel = te.create_prim_func([x, te.compute((16,), lambda i: x[i] + x[i], "y")])
    target = Target.parse("cuda:sm_80").to_tvm()
    scheduled = schedule_for_gpu(tvm.IRModule({"double": kernel}), target)
    assert "threadIdx.x" in scheduled["double"].script()
    claimed = tvm.IRModule({"double": kernel.with_attr("tirx.is_scheduled", True)})
    with pytest.raises(CompileError, match="kernel double: no GPU schedule"):
        schedule_for_gpu(claimed, target)


def test_sums_are_not_read_from_registers_of_other_threads() -> None:
    """TVM's rule for reductions does so where a group's channels go to one thread: wrong on an H200."""
    import tvm
    from tvm import te

    from graphopt.backend.gpu import schedule_for_gpu

    x = te.placeholder((136, 196), "float32", "x")
    w = te.placeholder((136, 34), "float32", "w")
    k = te.reduce_axis((0, 34), "k")
    total = te.compute((136, 196), lambda c, p: te.sum(x[c // 34 * 34 + k, p] * w[c, k], axis=k), "total")
    out = te.compute((136, 196), lambda c, p: total[c, p] + w[c, 0], "out")
    kernel = te.create_prim_func([x, w, out])
    scheduled = schedule_for_gpu(tvm.IRModule({"group": kernel}), Target.parse("cuda:sm_90").to_tvm())
    text = scheduled["group"].script()
    assert "threadIdx.x" in text
    assert 'scope="local"' not in text


def test_a_library_of_unknown_layout_is_refused() -> None:
    from graphopt.backend.gpu import name_cubins

    with pytest.raises(LinkError, match="holds 0 CUDA modules"):
        name_cubins(b"\x7fELF" + bytes(100))
