"""What this machine's CPU has, read from Linux without importing the compiler."""

from __future__ import annotations

import ctypes
import functools
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from graphopt.targets.features import ON_REQUEST, from_cpuinfo

_CPUINFO = Path("/proc/cpuinfo")
_CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def host_machine() -> str:
    """The kind of processor, ``x86_64`` or ``aarch64`` where it is one of these."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


@functools.cache
def host_features() -> frozenset[str]:
    """LLVM names of the CPU features that kernels may use here; empty where Linux does not tell.

    Linux lists a flag only where the kernel saves the registers that it needs, so these can be used; for
    the tiles of AMX the process has to ask first, which this does.
    """
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    features = from_cpuinfo(found.group(1).split()) if found else frozenset()
    if features & ON_REQUEST and not _request_tiles():
        features -= ON_REQUEST
    return features


# Linux, Documentation/arch/x86/xstate.rst: the system call, what to ask, and for which registers.
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18


def _request_tiles() -> bool:
    """Asks Linux to save AMX's tiles for this process, its threads and its forks; whether it will."""
    libc = ctypes.CDLL(None, use_errno=True)
    refused: int = libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA)
    return refused == 0


def missing_features(required: Iterable[str]) -> list[str]:
    """Those of the required features that this CPU lacks, sorted."""
    return sorted(set(required) - host_features())


def host_caches() -> dict[int, int]:
    """Bytes of the data caches of CPU 0 by level; levels that Linux does not tell are left out."""
    sizes: dict[int, int] = {}
    for folder in sorted(_CACHE_FOLDER.glob("index*")):
        try:
            kind = (folder / "type").read_text().strip()
            level = int((folder / "level").read_text())
            found = re.fullmatch(r"(\d+)([KMG]?)", (folder / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and found:
            sizes[level] = int(found.group(1)) * _UNITS[found.group(2)]
    return sizes
