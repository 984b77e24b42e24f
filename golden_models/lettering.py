"""Lines of text, drawn as the PP-OCR models take them."""

from __future__ import annotations

import numpy as np

from golden_models.arrays import Array

HEIGHT = 48
_MARGIN = 2
_FONT_SIZE = 32
# The network gives one step for each eight columns.
_WIDTH_STEP = 8

# Lines that the recogniser reads without doubt: at each step the likeliest class leads by 0.1 or more.
LINES = (
    "Hello, World!",
    "graphopt",
    "one graph in, one artifact out",
    "The quick brown fox jumps over the lazy dog",
    "Sphinx of black quartz, judge my vow",
    "How vexingly quick daft zebras jump!",
    "0123456789",
    "3.14159265358979",
    "2.718281828",
    "$19.99",
    "100%",
    "-273.15",
    "+44 20 7946 0958",
    "2026-11-21",
    "23:59:59",
    "12/31/1999",
    "192.168.0.1",
    "user@example.org",
    "x86-64-v3",
    "aarch64",
    "cuda:sm_80",
    "fold-constants",
    "fuse-conv-bn",
    "MatMul, Gemm, Conv, Relu",
    "BatchNormalization",
    "float32 int8 bool",
    "(batch, sequence)",
    "A",
    "No.",
    "Yes, we can.",
    "Total: 42 items",
    "Invoice #2026-0815",
    "Flight LH 454, Gate B27",
    "Room 101, 3rd floor",
    "ISBN 978-0-262-03384-8",
    "Temperature: 21.5 C",
    "Open 9:00 - 17:30",
    "To be, or not to be",
    "Do not fold, spindle or mutilate",
    "Mind the gap",
    "Made in Germany",
    "Serial: 7F3A-90C2-11EB",
    "Keep calm and carry on",
    "Press any key to continue...",
    "50 lines of text",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "The five boxing wizards jump quickly",
    "404 Not Found",
    "WARNING: high voltage",
    "50/50",
)


def render(text: str, size: int = _FONT_SIZE) -> Array:
    """`text` in black on white as the recogniser takes it: float32 [1, 3, 48, width] in -1..1.

    The width follows from the text and the font size (pixels) and is a multiple of 8. The font is
    the one that Pillow carries, so that every machine draws the same.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    needed = int(font.getlength(text)) + 2 * _MARGIN
    width = -(-needed // _WIDTH_STEP) * _WIDTH_STEP
    picture = Image.new("L", (width, HEIGHT), 255)
    ImageDraw.Draw(picture).text((_MARGIN, HEIGHT // 2), text, fill=0, font=font, anchor="lm")
    grey = (np.asarray(picture, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return np.ascontiguousarray(np.broadcast_to(grey, (1, 3, *grey.shape)))


def fit_width(line: Array, width: int) -> Array:
    """`line` [1, 3, 48, w] cut off, or continued in white, at `width`."""
    out = np.ones((*line.shape[:3], width), dtype=line.dtype)
    kept = min(width, line.shape[3])
    out[..., :kept] = line[..., :kept]
    return out
