"""Targets: what code is generated for, as an immutable value with a text that parses back."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from graphopt.errors import TargetError
from graphopt.targets.features import (
    ARM_BASELINE,
    ARM_EXTRAS,
    ARM_FEATURES,
    IMPLIED,
    X86_EXTRAS,
    X86_FEATURES,
    X86_LEVELS,
    highest_level,
)
from graphopt.targets.host import host_caches, host_features, host_machine

if TYPE_CHECKING:
    import tvm

X86_TRIPLE = "x86_64-unknown-linux-gnu"
ARM_TRIPLE = "aarch64-unknown-linux-gnu"
_CUDA_ARCHES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_103", "sm_120")
_MAX_OPS = {"llvm": 256, "cuda": 32}
_SYNTAX = re.compile(r"(?P<name>[A-Za-z0-9_.:-]+)(?P<features>(?:\+[a-z0-9.-]+)*)(?:\{(?P<caches>[^}]*)\})?")


@dataclass(frozen=True, slots=True)
class Caches:
    """Data caches that one core sees, in bytes."""

    l1: int
    l2: int
    l3: int


_X86_CACHES = Caches(32 << 10, 1 << 20, 32 << 20)
_ARM_CACHES = Caches(64 << 10, 1 << 20, 32 << 20)


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to generate code for.

    Attributes:
        kind: ``"llvm"`` for CPUs, ``"cuda"`` for NVIDIA GPUs.
        triple: LLVM target triple of the code that runs on the CPU (of the host, for cuda).
        cpu: LLVM name of that CPU.
        features: CPU features that the code may use and so requires, LLVM names, sorted.
        extras: those of them that were asked for on top of the CPU.
        caches: sizes that kernels are blocked for.
        arch: compute capability such as ``sm_80``; empty for CPUs.
    """

    kind: Literal["llvm", "cuda"]
    triple: str
    cpu: str
    features: tuple[str, ...]
    extras: tuple[str, ...] = ()
    caches: Caches = _X86_CACHES
    arch: str = ""

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target that ``text`` names.

        ``native``, an x86-64 level (``x86-64-v3``), any LLVM CPU name (``znver4``), ``aarch64``,
        ``aarch64:CPU``, or ``cuda:sm_80``. A CPU may be followed by more features and by cache
        sizes in bytes: ``x86-64-v4+avx512vnni{l1=49152,l2=2097152}``.

        Raises:
            TargetError: the name, a feature or a cache size is unknown.
        """
        found = _SYNTAX.fullmatch(text.strip())
        if found is None:
            form = "NAME[+FEATURE...][{l1=BYTES,...}]"
            raise TargetError(f"target {text!r} is not of the form {form}", hint=_HINT)
        name = found["name"]
        extras = tuple(found["features"].split("+")[1:])
        if name.startswith("cuda"):
            if extras or found["caches"]:
                raise TargetError(f"target {text!r}: a CUDA target takes no features or cache sizes")
            return _cuda(name)
        if name == "native":
            if extras or found["caches"]:
                raise TargetError(f"target {text!r}: native is what this CPU has; it takes no additions")
            return _native()
        family, colon, cpu = name.partition(":")
        target = _arm(cpu if colon else "generic", extras) if family == "aarch64" else _x86(name, extras)
        return _with_caches(target, found["caches"] or "", text)

    @property
    def text(self) -> str:
        """The canonical text; :meth:`parse` gives an equal target for it."""
        if self.kind == "cuda":
            return f"cuda:{self.arch}"
        name = self.cpu
        if self.is_arm:
            name = "aarch64" if self.cpu == "generic" else f"aarch64:{self.cpu}"
        default = _ARM_CACHES if self.is_arm else _X86_CACHES
        sizes = ",".join(
            f"{level}={getattr(self.caches, level)}"
            for level in ("l1", "l2", "l3")
            if getattr(self.caches, level) != getattr(default, level)
        )
        return name + "".join(f"+{feature}" for feature in self.extras) + (f"{{{sizes}}}" if sizes else "")

    def __str__(self) -> str:
        return self.text

    @property
    def is_arm(self) -> bool:
        return self.triple.startswith("aarch64")

    @property
    def machine(self) -> str:
        """The kind of processor that its CPU code needs: ``x86_64`` or ``aarch64``."""
        return self.triple.partition("-")[0]

    @property
    def vector_bits(self) -> int:
        """Width of the widest vector register that kernels use."""
        if self.has("avx512f"):
            return 512
        return 256 if self.has("avx") and not self.is_arm else 128

    @property
    def vector_registers(self) -> int:
        return 32 if self.is_arm or self.has("avx512vl") else 16

    @property
    def l1_bytes(self) -> int:
        return self.caches.l1

    @property
    def l2_bytes(self) -> int:
        return self.caches.l2

    @property
    def required_features(self) -> tuple[str, ...]:
        """What a CPU must have to run the code without an illegal instruction."""
        return self.features

    def has(self, feature: str) -> bool:
        """Whether kernels may use the CPU feature of this LLVM name."""
        return feature in self.features

    def can_emit(self, ops: Sequence[str]) -> str | None:
        """Why the back end can't make one kernel of a region with these ops, or None when it can."""
        limit = _MAX_OPS[self.kind]
        if len(ops) > limit:
            return f"{len(ops)} ops in one region, {limit} is the most for {self.kind}"
        return None

    def to_tvm(self) -> tvm.target.Target:
        """The same as TVM's target; imports TVM."""
        from tvm.target import Target as TvmTarget

        signed = [f"+{feature}" for feature in self.extras]
        if self.vector_bits == 512:
            # LLVM tunes some CPUs to split 512-bit vectors; the kernels count on whole ones.
            signed.append("-prefer-256-bit")
        host: dict[str, object] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if signed:
            host["mattr"] = signed
        if self.kind == "llvm":
            return TvmTarget(host)
        device: dict[str, object] = {
            "kind": "cuda",
            "arch": self.arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 48 << 10,
            "thread_warp_size": 32,
        }
        return TvmTarget(device, host=host)


_HINT = "use native, x86-64-v3, x86-64-v4, an LLVM CPU name, aarch64, aarch64:CPU, or cuda:sm_80"

# What people call a machine whose name here is too unlike for difflib.
_SYNONYMS = {
    "amd64": "x86-64-v3",
    "arm": "aarch64",
    "avx2": "x86-64-v3",
    "avx512": "x86-64-v4",
    "gpu": "cuda:sm_80",
    "host": "native",
    "nvidia": "cuda:sm_80",
    "x64": "x86-64-v3",
    "x86": "x86-64-v3",
}


def _native() -> Target:
    machine = host_machine()
    features = host_features()
    if machine == "x86_64":
        # The level and the features, not LLVM's name of the CPU: the name brings tuning that differs
        # between LLVM versions.
        level = highest_level(features)
        target = _x86(level, _usable(features & X86_EXTRAS, X86_LEVELS[level]))
    elif machine == "aarch64":
        target = _arm("generic", _usable(features & ARM_EXTRAS, ARM_BASELINE))
    else:
        raise TargetError(f"native code for {machine} can't be generated", hint="name another target")
    sizes = host_caches()
    measured = Caches(
        sizes.get(1, target.caches.l1), sizes.get(2, target.caches.l2), sizes.get(3, target.caches.l3)
    )
    return _replace_caches(target, measured)


def _usable(extras: frozenset[str], base: frozenset[str]) -> list[str]:
    """Those of ``extras`` that come with all they imply: virtual machines may hide some of it."""
    return sorted(name for name in extras if IMPLIED.get(name, frozenset()) <= base | extras)


def _x86(cpu: str, extras: Iterable[str]) -> Target:
    levels = X86_LEVELS.get(cpu)
    base = levels if levels is not None else _llvm_features(X86_TRIPLE, cpu) & X86_FEATURES
    added = _checked_extras(cpu, extras, base, X86_EXTRAS)
    return Target("llvm", X86_TRIPLE, cpu, tuple(sorted(base | set(added))), added, _X86_CACHES)


def _arm(cpu: str, extras: Iterable[str]) -> Target:
    llvm = frozenset[str]() if cpu == "generic" else _llvm_features(ARM_TRIPLE, cpu)
    base = (llvm & ARM_FEATURES) | ARM_BASELINE
    added = _checked_extras(cpu, extras, base, ARM_EXTRAS)
    return Target("llvm", ARM_TRIPLE, cpu, tuple(sorted(base | set(added))), added, _ARM_CACHES)


def _cuda(name: str) -> Target:
    arch = name.partition(":")[2]
    if arch not in _CUDA_ARCHES:
        raise TargetError(
            f"CUDA target {name!r} names no known compute capability{_nearest(arch, _CUDA_ARCHES)}",
            hint=f"write cuda:ARCH with one of {', '.join(_CUDA_ARCHES)}",
        )
    return Target("cuda", X86_TRIPLE, "x86-64", (), arch=arch)


def _checked_extras(
    cpu: str, extras: Iterable[str], base: frozenset[str], known: frozenset[str]
) -> tuple[str, ...]:
    wanted = set(extras)
    for feature in sorted(wanted - known):
        raise TargetError(f"target {cpu}: unknown CPU feature {feature!r}{_nearest(feature, sorted(known))}")
    for feature in sorted(wanted):
        for needed in sorted(IMPLIED.get(feature, frozenset()) - base - wanted):
            raise TargetError(f"target {cpu}: feature {feature!r} needs {needed!r}", hint="name a newer CPU")
    return tuple(sorted(wanted - base))


def _with_caches(target: Target, text: str, whole: str) -> Target:
    sizes = {"l1": target.caches.l1, "l2": target.caches.l2, "l3": target.caches.l3}
    for item in filter(None, text.split(",")):
        level, _, size = item.strip().partition("=")
        if level not in sizes or not size.isdecimal() or int(size) < 1024:
            raise TargetError(
                f"target {whole!r}: {item.strip()!r} is not a cache size",
                hint="write l1=BYTES, l2=BYTES, l3=BYTES, each at least 1024",
            )
        sizes[level] = int(size)
    return _replace_caches(target, Caches(**sizes))


def _replace_caches(target: Target, caches: Caches) -> Target:
    return Target(target.kind, target.triple, target.cpu, target.features, target.extras, caches, target.arch)


@functools.cache
def _llvm_features(triple: str, cpu: str) -> frozenset[str]:
    """Features that LLVM gives to the CPU. Imports TVM, whose LLVM knows the names.

    Raises:
        TargetError: LLVM has no such CPU, or it is not a 64-bit one.
    """
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    names = _llvm_names(triple)
    if cpu not in names:
        known = names if triple == ARM_TRIPLE else _all_names()
        raise TargetError(
            f"unknown CPU {cpu!r}{_nearest(_SYNONYMS.get(cpu.lower(), cpu), known)}", hint=_HINT
        )
    found = codegen.llvm_get_cpu_features(TvmTarget({"kind": "llvm", "mtriple": triple, "mcpu": cpu}))
    features = frozenset(str(feature) for feature in found)
    if triple == X86_TRIPLE and "64bit" not in features:
        raise TargetError(f"CPU {cpu!r} is not a 64-bit one", hint=_HINT)
    return features


def _llvm_names(triple: str) -> list[str]:
    """The CPUs of this kind that LLVM knows."""
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    any_cpu = TvmTarget({"kind": "llvm", "mtriple": triple})
    return sorted(str(name) for name in codegen.llvm_get_cpu_archlist(any_cpu))


def _all_names() -> list[str]:
    """All texts without features that :meth:`Target.parse` takes."""
    arm = [f"aarch64:{name}" for name in _llvm_names(ARM_TRIPLE)]
    cuda = [f"cuda:{arch}" for arch in _CUDA_ARCHES]
    return [*X86_LEVELS, "native", "aarch64", *_llvm_names(X86_TRIPLE), *arm, *cuda]


def _nearest(name: str, known: Sequence[str]) -> str:
    whole = [other for other in known if other.partition(":")[2] == name]  # only its family is missing
    close = whole or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
