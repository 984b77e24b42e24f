"""Inputs that mean something to a model: token ids in range, masks of ones, smooth images, text."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from golden_models import lettering
from golden_models.arrays import Array

_BERT_CLS, _BERT_SEP, _BERT_FIRST_WORD, _BERT_WORDS = 101, 102, 999, 30522
_MAGIKA_PADDING = 256


def image(rng: Generator, shape: tuple[int, ...]) -> Array:
    """Normalised images [..., height, width], float32: brightness, patches of 16 pixels, a little grain.

    Structure matters: white noise averages out within a few convolutions, and a network then
    gives nearly the same output for every input.
    """
    *lead, height, width = shape
    brightness = rng.standard_normal((*lead, 1, 1))
    contrast = rng.uniform(0.3, 1.5, size=(*lead, 1, 1))
    coarse = rng.standard_normal((*lead, -(-height // 16), -(-width // 16)))
    patches = coarse.repeat(16, axis=-2).repeat(16, axis=-1)[..., :height, :width]
    return (brightness + contrast * patches + 0.25 * rng.standard_normal(shape)).astype(np.float32)


def text_lines(rng: Generator, shape: tuple[int, ...]) -> Array:
    """Rendered lines of text as the PP-OCR models take them, [batch, 3, 48, width] float32 in -1..1."""
    batch, _, _, width = shape
    chosen = rng.integers(len(lettering.LINES), size=batch)
    return np.concatenate([lettering.fit_width(lettering.render(lettering.LINES[i]), width) for i in chosen])


def undecided_text_lines(rng: Generator, shape: tuple[int, ...]) -> Array:
    """Each line laid over itself upside down, [batch, 3, 48, width] float32 in -1..1.

    A direction classifier is certain of plain text to the last bit of a float32, whatever small
    error it makes on the way; this keeps its answer between 0 and 1.
    """
    lines = text_lines(rng, shape)
    return (lines + lines[..., ::-1, ::-1]) * np.float32(0.5)


def tokens(rng: Generator, shape: tuple[int, ...]) -> Array:
    """Token ids of whole words in BERT's vocabulary between [CLS] and [SEP], int64 [batch, sequence]."""
    ids = rng.integers(_BERT_FIRST_WORD, _BERT_WORDS, size=shape, dtype=np.int64)
    ids[:, 0], ids[:, -1] = _BERT_CLS, _BERT_SEP
    return ids


def file_bytes(rng: Generator, shape: tuple[int, ...]) -> Array:
    """The head and tail of a short text file as Magika sees it, int32 [batch, 2048], padding 256."""
    length = shape[1]
    out = np.full(shape, _MAGIKA_PADDING, dtype=np.int32)
    half = length // 2
    for row in out:
        size = int(rng.integers(half // 4, half))
        text = rng.integers(32, 127, size=size, dtype=np.int32)
        text[rng.random(size) < 0.02] = 10
        row[:size] = text
        row[length - size :] = text
    return out


def audio(rng: Generator, shape: tuple[int, ...]) -> Array:
    """A voice-like tone with overtones and noise, 16 kHz, float32 [batch, samples] in -1..1."""
    batch, samples = shape
    seconds = np.arange(samples) / 16000.0
    pitch = rng.uniform(100.0, 220.0, size=(batch, 1))
    tone = sum(np.sin(2 * np.pi * k * pitch * seconds) / k for k in (1, 2, 3, 5, 8))
    return (0.2 * tone + 0.02 * rng.standard_normal(shape)).astype(np.float32)


def sample_rate_16k(rng: Generator, shape: tuple[int, ...]) -> Array:
    """The sampling rate, 16000, int64."""
    return np.full(shape, 16000, dtype=np.int64)


def ones_int64(rng: Generator, shape: tuple[int, ...]) -> Array:
    """An attention mask that hides nothing."""
    return np.ones(shape, dtype=np.int64)


def zeros_int64(rng: Generator, shape: tuple[int, ...]) -> Array:
    """Token types of a single sentence."""
    return np.zeros(shape, dtype=np.int64)


def zeros_float32(rng: Generator, shape: tuple[int, ...]) -> Array:
    """The state before the first step of a recurrent model."""
    return np.zeros(shape, dtype=np.float32)
