"""Pieces of the page: every text that goes in is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def tag(name: str, text: str, kind: str = "", title: str = "") -> str:
    """An element with a plain text in it."""
    return wrap(name, [escape(text)], kind, title)


def wrap(name: str, inside: Iterable[str], kind: str = "", title: str = "") -> str:
    """An element around HTML."""
    attributes = f' class="{escape(kind)}"' if kind else ""
    attributes += f' title="{escape(title)}"' if title else ""
    return f"<{name}{attributes}>{''.join(inside)}</{name}>"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], texts: frozenset[int] = frozenset({0})
) -> str:
    """A table of plain texts; ``texts``: the columns that are not numbers."""
    kinds = ["" if index in texts else "number" for index in range(len(columns))]
    head = wrap("tr", (tag("th", name, kind) for name, kind in zip(columns, kinds, strict=True)))
    body = [
        wrap("tr", (tag("td", cell, kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows
    ]
    return wrap("div", [wrap("table", [wrap("thead", [head]), wrap("tbody", body)])], "wide")


def card(name: str, value: str, note: str = "") -> str:
    """A number that stands for itself."""
    return wrap("div", [tag("span", name), tag("b", value), tag("small", note)], "card")


def bar(share: float) -> str:
    """A thin bar under a number."""
    return f'<i class="bar" style="--share:{max(0.0, min(share, 1.0)):.3f}"></i>'
