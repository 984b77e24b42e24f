"""What a kernel could do in more than one way: the models' answer, and others that tuning tries.

A model ranks the ways that it knows and asks :func:`choose`; the first is taken, unless the machine is a
:class:`Choices` that was told another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from graphopt.backend.kernels.machine import Machine

T = TypeVar("T")

# More ways than this are not worth trying; the models are seldom that far off.
_MOST_OPTIONS = 8


class Choices:
    """A machine (see :class:`~graphopt.backend.kernels.machine.Machine`) for one kernel, with answers of its own.

    Args:
        answers: for some knobs the text of the option to take. What is not on offer is ignored.
        prefix: what names of knobs begin with.
    """

    def __init__(self, machine: Machine, answers: Mapping[str, str], prefix: str = "") -> None:
        self._machine = machine
        self._prefix = prefix
        self._answers = dict(answers)
        self.knobs: dict[str, tuple[str, ...]] = {}
        """For each knob that was asked for, the texts of its options, the models' choice first."""

    @property
    def vector_bits(self) -> int:
        return self._machine.vector_bits

    @property
    def vector_registers(self) -> int:
        return self._machine.vector_registers

    @property
    def l1_bytes(self) -> int:
        return self._machine.l1_bytes

    @property
    def l2_bytes(self) -> int:
        return self._machine.l2_bytes

    def has(self, feature: str) -> bool:
        """Whether instructions of `feature` may be emitted."""
        return self._machine.has(feature)

    def part(self, name: str) -> Choices:
        """The machine for one part of the kernel, whose knobs count here by names of their own."""
        found = Choices(self._machine, self._answers, f"{self._prefix}{name}: ")
        found.knobs = self.knobs
        return found

    def take(self, knob: str, options: Mapping[str, T]) -> T:
        """The option to take, by its text; equal questions have equal answers."""
        knob = self._prefix + knob
        self.knobs.setdefault(knob, tuple(options))
        answer = self._answers.get(knob, "")
        return options[answer if answer in options else next(iter(options))]


def choose(machine: Machine, knob: str, options: Iterable[T], text: Callable[[T], str] = str) -> T:
    """One of `options`, which come in the order of a model: the first, or what tuning found to be faster.

    Args:
        knob: names the question; asked again while a kernel is made, it must mean the same: parts of a kernel that
            ask alike of different things have machines of their own, see :func:`part_of`.
        text: names an option.
    """
    listed = list(options)
    if not isinstance(machine, Choices):
        return listed[0]
    return machine.take(knob, {text(option): option for option in listed[:_MOST_OPTIONS]})


def part_of(machine: Machine, name: str) -> Machine:
    """The machine for the part `name` of a kernel: what is chosen for it is chosen for no other."""
    return machine.part(name) if isinstance(machine, Choices) else machine


def around(value: int, low: int, high: int) -> list[int]:
    """A size, and others to try: halves and doubles of it from `low` to `high`, nearest first, and `high`."""
    near = [value, value * 2, value // 2, value * 4, value // 4, high]
    return [size for size in dict.fromkeys(near) if low <= size <= high or size == value]
