"""Words of ``.gir`` text: names, strings, numbers and types, with located errors."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from graphopt.errors import TextError
from graphopt.ir.literals import NAME, WORD
from graphopt.ir.type_text import parse_type, type_at
from graphopt.ir.types import Type

_SPACE = re.compile(r"(?:\s|//[^\n]*)*")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_VALUE = re.compile(rf"%({NAME.pattern})")
_INTEGER = re.compile(r"-?\d+(?![\w.])")
_NUMBER = re.compile(r"(?:-?inf|nan(?::[0-9a-f]{1,16})?|-?\d[\d.]*(?:e[+-]?\d+)?d?)(?![\w.])")


class Scanner:
    """A text and a place in it. Every method leaves the place behind what it read and the space after."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def skip(self) -> None:
        # One space or none is the common case.
        char = self.text[self.at : self.at + 1]
        if char == " ":
            self.at += 1
            char = self.text[self.at : self.at + 1]
        if char <= " " or char == "/" or not char.isascii():
            found = _SPACE.match(self.text, self.at)
            assert found is not None
            self.at = found.end()

    def peek(self, token: str) -> bool:
        return self.text.startswith(token, self.at)

    def take(self, token: str) -> bool:
        """Skips ``token`` and the space after it, if it stands here."""
        if self.text.startswith(token, self.at):
            self.at += len(token)
            self.skip()
            return True
        return False

    def word(self, keyword: str) -> bool:
        """Like :meth:`take` for a whole word."""
        found = WORD.match(self.text, self.at)
        return found is not None and found[0] == keyword and self.take(keyword)

    def expect(self, token: str) -> None:
        if not self.take(token):
            self.fail(f"expected {token}")

    def match(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if found is None:
            self.fail(f"expected {what}")
        self.at = found.end()
        self.skip()
        return found

    def string(self, what: str = "a string in quotes") -> str:
        start = self.at
        literal = self.match(_STRING, what)[0]
        if "\\" not in literal:
            return literal[1:-1]
        try:
            return str(json.loads(literal, strict=False))
        except ValueError as error:
            self.fail(f"not a string: {error}", start)

    def strings(self) -> tuple[str, ...]:
        """One string or more, with commas between them."""
        found = [self.string()]
        while self.take(","):
            found.append(self.string())
        return tuple(found)

    def name(self) -> str:
        """``%name``."""
        if self.peek('%"'):
            self.at += 1
            return self.string()
        return self.match(_VALUE, "a value such as %x")[1]

    def identifier(self, what: str) -> str:
        return self.string() if self.peek('"') else self.match(WORD, what)[0]

    def integer(self, what: str = "an integer", *, allow_u64: bool = False) -> int:
        start = self.at
        text = self.match(_INTEGER, what)[0]
        # The longest that is meant is an element of u64: 20 digits.
        number = int(text) if len(text) <= 20 else 1 << 64
        if not -(1 << 63) <= number < (1 << 64 if allow_u64 else 1 << 63):
            self.fail("the number does not fit 64 bits", start)
        return number

    def type(self) -> Type:
        start = self.at
        found = type_at(self.text, start)
        if found is None:
            self.fail("expected a type such as f32[N, 3]")
        self.at += len(found)
        self.skip()
        try:
            return parse_type(found)
        except TextError as error:
            self.fail(error.message, start)

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        at = self.at if at is None else at
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        source = self.text[start : len(self.text) if end < 0 else end]
        low = max(0, at - start - 60)
        shown = source[low : low + 100].replace("\t", " ")
        raise TextError(
            f"line {line}, column {at - start + 1}: {message}\n  {shown}\n  {' ' * (at - start - low)}^"
        )

    def text_literal(self) -> str | bytes:
        if not self.peek("b"):
            return self.string()
        start = self.at
        self.at += 1
        try:
            return self.string().encode("latin1")
        except UnicodeEncodeError:
            self.fail("bytes hold characters up to \\u00ff", start)

    def number(self, to_float: Any, *, allow_u64: bool = False) -> int | float:
        if _INTEGER.match(self.text, self.at) is not None:
            return self.integer(allow_u64=allow_u64)
        start = self.at
        text = self.match(_NUMBER, "a value")[0]
        try:
            return float(to_float(text))
        except ValueError as error:
            self.fail(f"not a number: {error}", start)
