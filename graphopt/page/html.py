"""The frame that all pages share: colours for light and dark, and data that can't break out of its script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any


def asset(name: str) -> str:
    """The text of a style sheet or script of this package."""
    return (files("graphopt.page") / "assets" / name).read_text(encoding="utf-8")


def embed(data: object) -> str:
    """JSON for a ``<script>`` element: no text in it can end the element or begin a comment in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def page(
    title: str,
    body: str,
    *,
    style: str = "",
    scripts: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
) -> str:
    """A page in one file.

    Args:
        title: plain text.
        body: HTML, with all that comes from a model escaped.
        style: CSS after that of all pages, which is ``base.css``.
        scripts: JavaScript, run in order after the body.
        data: what the scripts find under ``JSON.parse(document.getElementById(name).textContent)``, by name.
    """
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{asset('base.css')}{style}</style></head><body>",
        body,
    ]
    for name, value in (data or {}).items():
        parts.append(f'<script type="application/json" id="{escape(name)}">{embed(value)}</script>')
    parts += [f"<script>{script}</script>" for script in scripts]
    return "\n".join([*parts, "</body></html>", ""])
