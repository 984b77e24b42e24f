"""Targets parse, print back, say what they have, and describe this machine truthfully."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import TargetError
from graphopt.targets import Target, host_features, host_machine, missing_features
from graphopt.targets.features import IMPLIED, X86_EXTRAS, X86_LEVELS

ON_X86 = pytest.mark.skipif(host_machine() != "x86_64", reason="this machine is not x86-64")


@pytest.mark.parametrize(
    ("text", "kind", "bits", "registers"),
    [
        ("x86-64", "llvm", 128, 16),
        ("x86-64-v3", "llvm", 256, 16),
        ("x86-64-v4", "llvm", 512, 32),
        ("znver4", "llvm", 512, 32),
        ("haswell", "llvm", 256, 16),
        ("aarch64", "llvm", 128, 32),
        ("aarch64:neoverse-n1", "llvm", 128, 32),
        ("cuda:sm_80", "cuda", 128, 16),
    ],
)
def test_named_targets(text: str, kind: str, bits: int, registers: int) -> None:
    target = Target.parse(text)
    assert (target.kind, target.vector_bits, target.vector_registers) == (kind, bits, registers)
    assert target.text == text
    assert Target.parse(target.text) == target


@given(
    level=st.sampled_from(["x86-64-v4"]),
    extras=st.sets(st.sampled_from(sorted(X86_EXTRAS))),
    sizes=st.dictionaries(st.sampled_from(["l1", "l2", "l3"]), st.integers(1024, 1 << 40)),
)
def test_text_parses_back(level: str, extras: set[str], sizes: dict[str, int]) -> None:
    extras = extras.union(*(IMPLIED.get(name, ()) for name in extras)) - X86_LEVELS[level]
    caches = ",".join(f"{name}={size}" for name, size in sizes.items())
    target = Target.parse(
        level + "".join(f"+{name}" for name in extras) + (f"{{{caches}}}" if caches else "")
    )
    assert Target.parse(target.text) == target
    assert set(target.features) == X86_LEVELS[level] | extras
    assert all(getattr(target.caches, name) == size for name, size in sizes.items())


def test_named_cpus_have_the_features_that_their_makers_state() -> None:
    assert Target.parse("skylake-avx512").has("avx512bw")
    assert not Target.parse("skylake-avx512").has("avx512vnni")
    assert Target.parse("cascadelake").has("avx512vnni")
    assert Target.parse("aarch64:neoverse-n1").has("dotprod")
    assert not Target.parse("aarch64:cortex-a72").has("dotprod")
    assert Target.parse("sapphirerapids").has("amx-bf16")
    assert not Target.parse("znver5").has("amx-bf16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skylak-avx512", "did you mean 'skylake-avx512'"),
        ("aarch64:neoverse-n9", "did you mean 'neoverse-n"),
        ("arm", "unknown CPU 'arm', did you mean 'aarch64'?"),
        ("arm64", "did you mean 'aarch64'?"),
        ("cortex-a72", "did you mean 'aarch64:cortex-a72'?"),
        ("x86", "did you mean 'x86-64-v3'?"),
        ("sm_80", "did you mean 'cuda:sm_80'?"),
        ("cuda:sm_81", "cuda:ARCH"),
        ("cuda", "cuda:ARCH"),
        ("cuda:sm_80+avx2", "takes no features"),
        ("x86-64-v3+avx512vnni", "'avx512vnni' needs 'avx512"),
        ("x86-64-v4+avx512vnny", "did you mean 'avx512vnni'"),
        ("aarch64+sve2+fullfp16", "'sve2' needs 'sve'"),
        ("x86-64-v4{l2=big}", "'l2=big' is not a cache size"),
        ("pentium", "not a 64-bit"),
        ("native+avx2", "takes no additions"),
        ("", "not of the form"),
        ("x86 64", "not of the form"),
    ],
)
def test_wrong_names_are_explained(text: str, message: str) -> None:
    with pytest.raises(TargetError, match=re.escape(message)):
        Target.parse(text)


@ON_X86
def test_native_is_this_cpu() -> None:
    target = Target.parse("native")
    assert Target.parse("native") == target == Target.parse(target.text)
    assert missing_features(target.required_features) == []
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert flags is not None
    assert ("avx512_vnni" in flags[1].split()) == target.has("avx512vnni")
    assert ("avx2" in flags[1].split()) == target.has("avx2")


@ON_X86
def test_llvm_agrees_on_the_features_of_native() -> None:
    from tvm.target import codegen

    for text in ("native", "x86-64-v3"):
        target = Target.parse(text)
        llvm = {str(name) for name in codegen.llvm_get_cpu_features(target.to_tvm())}
        assert set(target.features) <= llvm


def test_missing_features_are_those_that_the_cpu_lacks() -> None:
    assert missing_features(["quantum", *host_features()]) == ["quantum"]


def test_512_bit_vectors_stay_whole_on_cpus_that_llvm_splits_them_for() -> None:
    import tvm
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("add")
        T.func_attr({"tirx.noalias": True})
        a = T.arg("a", T.buffer((1024,), "float32"))
        b = T.arg("b", T.buffer((1024,), "float32"))
        with T.serial(0, 64) as block, T.vectorized(0, 16) as lane:
            T.buffer_store(b, a[block * 16 + lane] + T.float32(1), [block * 16 + lane])
    module = tvm.IRModule({"add": builder.get().with_attr("global_symbol", "add")})
    for text, register in (("x86-64-v4", "zmm"), ("skylake-avx512", "zmm"), ("x86-64-v3", "ymm")):
        assembly = tvm.compile(module, Target.parse(text).to_tvm()).mod.inspect_source("asm")
        adds = [line for line in assembly.splitlines() if "vaddps" in line]
        assert adds and all(register in line for line in adds), text


def test_regions_that_are_too_large_are_refused_with_a_reason() -> None:
    target = Target.parse("cuda:sm_80")
    assert target.can_emit(["Add"] * 4) is None
    assert "ops in one region" in str(target.can_emit(["Add"] * 1000))


@pytest.mark.parametrize("missing", ["avx512bw", "avx512f", "avx2", "fma"])
def test_native_where_a_virtual_machine_hides_features(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (X86_LEVELS["x86-64-v4"] | X86_EXTRAS) - {missing}
    monkeypatch.setattr("graphopt.targets.target.host_features", lambda: shown)
    monkeypatch.setattr("graphopt.targets.target.host_machine", lambda: "x86_64")
    target = Target.parse("native")
    assert Target.parse(target.text) == target
    assert set(target.features) <= shown
