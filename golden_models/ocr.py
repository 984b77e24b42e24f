"""Reads text from the output of the PP-OCR recogniser."""

from __future__ import annotations

import functools

import numpy as np

from golden_models.arrays import Array
from golden_models.fetch import path


def decode(probabilities: Array) -> str:
    """The text that the recogniser's output says, [steps, classes] or [1, steps, classes].

    Greedy decoding of connectionist temporal classification (Graves et al. 2006): the likeliest
    class of each step, repetitions merged, blanks (class 0) dropped.
    """
    alphabet = _alphabet()
    best = probabilities.reshape(-1, len(alphabet)).argmax(axis=1)
    starts = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(alphabet[i] for i in best[starts] if i != 0)


@functools.cache
def _alphabet() -> tuple[str, ...]:
    """Class -> character: the blank, the characters listed in the model's metadata, the space."""
    import onnx

    model = onnx.load(path("ppocr-rec"))
    listed = next(entry.value for entry in model.metadata_props if entry.key == "character")
    return ("", *listed.splitlines(), " ")
