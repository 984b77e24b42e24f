"""The options of passes as text: derived from the fields of the dataclass, inverted exactly.

``name{key=value key2="a b" key3=x,y}``: options are separated by spaces, elements of tuples by
commas. A word may hold anything but spaces and ``{}[],="'``; other strings stand in quotes with the
escapes of JSON. ``[]`` is the empty tuple, ``none`` is None.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import json
import re
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

WORD = re.compile(r"""[^\s{}\[\],="']+""")
SCALARS = (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Item:
    """One scalar of the text: ``quoted`` tells ``"none"`` from ``none``."""

    text: str
    quoted: bool
    at: int


class OptionError(ValueError):
    """A value does not fit its option, or options don't fit together; the parser adds the place."""


@dataclass(frozen=True, slots=True)
class Option:
    """A field of a pass: its type without None, whether None and several values are allowed."""

    name: str
    type: type
    many: bool
    optional: bool
    default: Any
    help: str
    low: float | None = None
    high: float | None = None

    @property
    def type_text(self) -> str:
        """The type as the help shows it."""
        if issubclass(self.type, enum.Enum):
            text = "|".join(_enum_text(member) for member in self.type)
        else:
            text = self.type.__name__
        text += "..." if self.many else ""
        text += f", {self.range_text}," if self.range_text else ""
        return (text + (" or none" if self.optional else "")).removesuffix(",")

    @property
    def range_text(self) -> str:
        """The allowed range, empty where there is none."""
        if self.low is not None and self.high is not None:
            return f"from {self.low} to {self.high}"
        return f"at least {self.low}" if self.low is not None else ""

    def check(self, value: object) -> None:
        """Checks a value's range.

        Raises:
            OptionError: it is not in the allowed range.
        """
        if self.low is None:
            return
        high = float("inf") if self.high is None else self.high
        for item in value if isinstance(value, tuple) else (value,):
            # Written so that NaN is in no range.
            if isinstance(item, int | float) and not self.low <= item <= high:
                raise OptionError(f"{self.name} must be {self.range_text}, not {format_value(item)}")


@functools.cache
def options_of(pass_type: type[object]) -> tuple[Option, ...]:
    """The options of a pass, in the order of its fields.

    Raises:
        TypeError: a field has no default or a type that has no text form.
    """
    hints = get_type_hints(pass_type)
    found = []
    for field in dataclasses.fields(pass_type):  # type: ignore[arg-type]
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            raise TypeError(f"option {field.name} has no default")
        kind, many, optional = _analyse(hints[field.name], field.name)
        about = field.metadata
        found.append(
            Option(
                field.name,
                kind,
                many,
                optional,
                default,
                about.get("help", ""),
                about.get("min"),
                about.get("max"),
            )
        )
    return tuple(found)


def _analyse(hint: Any, name: str) -> tuple[type, bool, bool]:
    optional = many = False
    if get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in get_args(hint) if arg is not type(None)]
        optional = len(rest) < len(get_args(hint))
        hint = rest[0] if len(rest) == 1 else hint
    if get_origin(hint) is tuple and len(get_args(hint)) == 2 and get_args(hint)[1] is ...:
        many, hint = True, get_args(hint)[0]
    if isinstance(hint, type) and (hint in SCALARS or issubclass(hint, enum.Enum)):
        return hint, many, optional
    raise TypeError(f"option {name} has type {hint}, which has no text form")


def format_value(value: object) -> str:
    """The text of one option's value."""
    if isinstance(value, tuple):
        return ",".join(format_value(item) for item in value) or "[]"
    if isinstance(value, enum.Enum):
        return _word(_enum_text(value))
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(value))  # NumPy's floats say in their repr what they are
    return _word(value) if isinstance(value, str) else repr(value)


def _word(text: str) -> str:
    return text if WORD.fullmatch(text) and text != "none" else json.dumps(text)


def _enum_text(member: enum.Enum) -> str:
    return member.value if isinstance(member.value, str) else member.name.lower()


def parse_value(option: Option, items: Sequence[Item] | None) -> Any:
    """The value of an option; ``items`` None stands for ``[]``.

    Raises:
        OptionError: it does not fit.
    """
    if items is None:
        if option.many:
            return ()
        raise OptionError(f"{option.name} takes one {option.type_text}")
    if option.optional and len(items) == 1 and items[0].text == "none" and not items[0].quoted:
        return None
    if option.many:
        return tuple(_scalar(option, item) for item in items)
    if len(items) != 1:
        raise OptionError(f"{option.name} takes one {option.type_text}, not {len(items)} values")
    return _scalar(option, items[0])


def _scalar(option: Option, item: Item) -> Any:
    text = item.text
    if option.type is str:
        return text
    if issubclass(option.type, enum.Enum):
        choices = {_enum_text(member): member for member in option.type}
        if text in choices:
            return choices[text]
        raise OptionError(f"{option.name} can't be {text!r}{suggest(text, choices)}")
    if option.type is bool:
        if text in ("true", "false"):
            return text == "true"
        raise OptionError(f"{option.name} must be true or false, not {text!r}")
    try:
        return int(text) if option.type is int else float(text)
    except ValueError:
        raise OptionError(f"{option.name} must be of type {option.type_text}, not {text!r}") from None


def suggest(word: str, choices: Iterable[str]) -> str:
    """``; did you mean "..."?`` or the possible choices."""
    known = list(choices)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; there {'is' if len(known) == 1 else 'are'} {', '.join(known)}" if known else ""
