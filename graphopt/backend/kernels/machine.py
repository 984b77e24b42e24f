"""What a kernel needs to know of the machine.

`graphopt.targets.Target` satisfies `Machine`; tests use `HostMachine`, a plain value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Machine(Protocol):
    """The part of a target description that kernels read."""

    @property
    def vector_bits(self) -> int: ...
    @property
    def vector_registers(self) -> int: ...
    @property
    def l1_bytes(self) -> int: ...
    @property
    def l2_bytes(self) -> int: ...
    def has(self, feature: str) -> bool: ...


@dataclass(frozen=True)
class MachineSpec:
    """A machine described by hand. Sizes of caches are in bytes, per core."""

    vector_bits: int = 128
    vector_registers: int = 16
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    features: tuple[str, ...] = ()

    def has(self, feature: str) -> bool:
        """Whether instructions of `feature` (LLVM's name) may be emitted."""
        return feature in self.features
