"""CPU features by their LLVM names, and how Linux spells them in /proc/cpuinfo.

Only features that generated code can use are listed: a target requires exactly these of the CPU
that runs it, so a name that is missing here (prefetch and system instructions) neither
enters the code nor makes an artifact less portable.
"""

from __future__ import annotations

from collections.abc import Iterable

# The x86-64 psABI micro-architecture levels (System V ABI, AMD64 supplement, section 3.1.1).
_V2 = ("cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
X86_LEVELS: dict[str, frozenset[str]] = {
    "x86-64": frozenset(),
    "x86-64-v2": frozenset(_V2),
    "x86-64-v3": frozenset(_V3),
    "x86-64-v4": frozenset(_V4),
}

# Beyond the levels: what vector kernels are written for.
X86_EXTRAS = frozenset(
    {
        "amx-bf16",
        "amx-tile",
        "avx512bf16",
        "avx512fp16",
        "avx512vbmi",
        "avx512vbmi2",
        "avx512vnni",
        "avxvnni",
        "avxvnniint8",
    }
)
X86_FEATURES = X86_LEVELS["x86-64-v4"] | X86_EXTRAS

ARM_BASELINE = frozenset({"neon"})
ARM_EXTRAS = frozenset({"bf16", "crc", "dotprod", "fp16fml", "fullfp16", "i8mm", "lse", "rdm", "sve", "sve2"})
ARM_FEATURES = ARM_BASELINE | ARM_EXTRAS

# Features whose registers Linux saves only for processes that asked for it.
ON_REQUEST = frozenset({"amx-bf16", "amx-tile"})

# What LLVM switches on along with a feature; a target must name it too, or it would require too little.
IMPLIED: dict[str, frozenset[str]] = {
    **{name: X86_LEVELS["x86-64-v4"] for name in X86_EXTRAS if name.startswith("avx512")},
    "amx-bf16": frozenset({"amx-tile"}),
    "avxvnni": X86_LEVELS["x86-64-v3"],
    "avxvnniint8": X86_LEVELS["x86-64-v3"],
    "fp16fml": frozenset({"fullfp16"}),
    "sve": frozenset({"fullfp16"}),
    "sve2": frozenset({"fullfp16", "sve"}),
}

_LLVM_NAME = {
    "abm": "lzcnt",
    "amx_bf16": "amx-bf16",
    "amx_tile": "amx-tile",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_vnni": "avx512vnni",
    "avx_vnni": "avxvnni",
    "avx_vnni_int8": "avxvnniint8",
    "bmi1": "bmi",
    "lahf_lm": "sahf",
    "pni": "sse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdfhm": "fp16fml",
    "asimdhp": "fullfp16",
    "asimdrdm": "rdm",
    "atomics": "lse",
    "crc32": "crc",
}


def from_cpuinfo(flags: Iterable[str]) -> frozenset[str]:
    """LLVM names of the features among the flags of /proc/cpuinfo; flags of no use here are left out."""
    return frozenset(_LLVM_NAME.get(flag, flag) for flag in flags) & (X86_FEATURES | ARM_FEATURES)


def highest_level(features: frozenset[str]) -> str:
    """The highest x86-64 level whose features are all there."""
    return [level for level, needed in X86_LEVELS.items() if needed <= features][-1]
