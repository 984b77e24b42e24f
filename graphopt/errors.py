"""The exceptions that graphopt raises for faults a user can mend.

Every one carries a one-paragraph message that says where (op type, node, pass) and a hint
that says what to do. The command line prints both and exits with code 2.
"""

from __future__ import annotations

import traceback

FAULT_HINT = "this is a fault of the pass, not of the model; GRAPHOPT_DEBUG=1 shows the traceback"


class GraphoptError(Exception):
    """Base of all errors that graphopt raises on purpose.

    Args:
        message: what is wrong and where, one paragraph.
        hint: what to do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ModelError(GraphoptError):
    """The model can't be read, is not valid ONNX, or can't be represented."""


class TextError(GraphoptError):
    """A ``.gir`` text does not parse."""


class TypeInferenceError(GraphoptError):
    """The types of a node's inputs don't fit its operator."""


class VerifyError(GraphoptError):
    """A graph breaks an invariant, or its numbers changed where they must not."""


class RewriteError(GraphoptError):
    """A rewrite asked for something that would break the graph; its transaction was undone."""


class PassError(GraphoptError):
    """A pass failed; the message names the pass, the rule and the node."""


class PipelineError(GraphoptError):
    """A pipeline text, a pass name or a pass option is wrong."""


class EvaluationError(GraphoptError):
    """An engine could not run a graph."""


class TargetError(GraphoptError):
    """A target is unknown or this machine can't run code for it."""


class CompileError(GraphoptError):
    """The back end can't compile the graph."""


class LinkError(CompileError):
    """No C toolchain was found, or linking failed."""


class TuneError(GraphoptError):
    """A cache of tuned kernels can't be read or written."""


class ArtifactError(GraphoptError):
    """An artifact is missing, damaged, or of another format version."""


class InputError(GraphoptError):
    """Inputs given to a model don't fit its signature."""


class ArgumentError(GraphoptError, TypeError):
    """An argument of a Python function is of the wrong type."""


def require(argument: str, value: object, kinds: type | tuple[type, ...], *, hint: str | None = None) -> None:
    """Makes sure that an argument is of one of these types.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise ArgumentError(f"{argument} must be of type {names}, not {type(value).__name__}", hint=hint)


def raised_at(error: BaseException, file: str = "") -> str:
    """``FILE:LINE`` where an error arose: the innermost line of ``file`` on its way, else the innermost of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    frame = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
    return f"{frame.filename}:{frame.lineno}"
