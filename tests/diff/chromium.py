"""A page as a headless Chromium leaves it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="none of chromium, chromium-browser and google-chrome is installed"
)


def opened(page: Path, fragment: str = "") -> str:
    """The document after its scripts ran, as text; without a network."""
    assert BROWSER is not None
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1400,900",
        "--force-prefers-reduced-motion", "--virtual-time-budget=2000", f"--user-data-dir={page.parent / 'profile'}",
    ]  # fmt: skip
    command = [BROWSER, *flags, "--dump-dom", f"{page.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def element(document: str, name: str) -> str:
    """The text in the element with an id, without tags."""
    found = re.search(rf'<(\w+)[^>]* id="{name}"[^>]*>', document) or re.search(
        rf'<(\w+) id="{name}"', document
    )
    assert found is not None, name
    rest, depth, at = document[found.end() :], 1, 0
    for tag in re.finditer(rf"<(/?){found[1]}\b[^>]*>", rest):
        depth += -1 if tag[1] else 1
        if depth == 0:
            at = tag.start()
            break
    return unescape(re.sub(r"<[^>]*>", " ", rest[:at])).strip()
