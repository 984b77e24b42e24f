"""Parses pipeline texts: ``fold-constants,fuse-regions{max_ops=16},O1``."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from graphopt.errors import PipelineError
from graphopt.pipeline.base import Pass
from graphopt.pipeline.options import WORD, Item, OptionError, options_of, parse_value, suggest
from graphopt.pipeline.registry import NAME, NamedPipeline, find, make_pass

_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*")|'([^']*)'""", re.DOTALL)


def parse_passes(text: str, *, inside: tuple[str, ...] = ()) -> tuple[Pass, ...]:
    """The passes that a pipeline text names, named pipelines expanded.

    Args:
        inside: named pipelines that are being expanded, to stop at a ring.

    Raises:
        PipelineError: with the place in the text.
    """
    return _Parser(text, inside).pipeline()


class _Parser:
    def __init__(self, text: str, inside: tuple[str, ...]) -> None:
        self.text = text
        self.inside = inside
        self.at = 0

    def pipeline(self) -> tuple[Pass, ...]:
        found: list[Pass] = []
        self.skip()
        while self.at < len(self.text):
            found += self.item()
            self.skip()
            if self.at < len(self.text):
                self.expect(",")
                self.skip()
        return tuple(found)

    def item(self) -> tuple[Pass, ...]:
        start = self.at
        name = self.match(NAME, "the name of a pass or pipeline")
        try:
            entry = find(name)
        except PipelineError as error:
            self.fail(error.message, start)
        self.skip()
        has_options = self.text.startswith("{", self.at)
        if isinstance(entry, NamedPipeline):
            if has_options:
                self.fail(f'pipeline "{name}" has no options', self.at)
            return self.named(entry, start)
        options = self.options(entry) if has_options else {}
        try:
            return (make_pass(entry, options),)
        except PipelineError as error:
            self.fail(error.message, start)

    def named(self, entry: NamedPipeline, start: int) -> tuple[Pass, ...]:
        if entry.name in self.inside:
            self.fail(
                f"pipelines name each other in a ring: {' -> '.join((*self.inside, entry.name))}", start
            )
        try:
            return parse_passes(entry.text, inside=(*self.inside, entry.name))
        except PipelineError as error:
            self.fail(f'in pipeline "{entry.name}": {error.message}', start)

    def options(self, pass_type: type[Pass]) -> dict[str, object]:
        known = {option.name: option for option in options_of(pass_type)}
        found: dict[str, Any] = {}
        self.expect("{")
        self.skip()
        while not self.text.startswith("}", self.at):
            start = self.at
            key = self.match(WORD, "an option or }")
            if key not in known:
                self.fail(f'pass "{pass_type.name}" has no option "{key}"{suggest(key, known)}', start)
            if key in found:
                self.fail(f'option "{key}" is given twice', start)
            self.expect("=")
            start = self.at
            try:
                found[key] = parse_value(known[key], self.items())
            except OptionError as error:
                self.fail(f'pass "{pass_type.name}": {error}', start)
            self.skip()
        self.expect("}")
        return found

    def items(self) -> list[Item] | None:
        if self.text.startswith("[]", self.at):
            self.at += 2
            return None
        found = [self.scalar()]
        while self.text.startswith(",", self.at):
            self.at += 1
            found.append(self.scalar())
            if self.text.startswith("=", self.at):
                self.fail(
                    f'"{found[-1].text}" stands for an option: separate options by spaces', found[-1].at
                )
        return found

    def scalar(self) -> Item:
        start = self.at
        quoted = _QUOTED.match(self.text, start)
        if quoted is None:
            return Item(self.match(WORD, "a value"), False, start)
        self.at = quoted.end()
        if quoted[1] is None:
            return Item(quoted[2], True, start)
        try:
            return Item(json.loads(quoted[1], strict=False), True, start)
        except ValueError as error:
            self.fail(f"not a string: {error}", start)

    def skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            self.fail(f"expected {what}", self.at)
        self.at = found.end()
        return found[0]

    def expect(self, token: str) -> None:
        if not self.text.startswith(token, self.at):
            self.fail(f'expected "{token}"', self.at)
        self.at += len(token)

    def fail(self, message: str, at: int) -> NoReturn:
        low, high = max(0, at - 30), at + 40
        shown = self.text[low:high].replace("\n", " ")
        raise PipelineError(
            f"{message} (column {at + 1} of the pipeline: {'...' if low else ''}{shown[: at - low]}"
            f"«{shown[at - low :] or 'end'}»)"
        )
