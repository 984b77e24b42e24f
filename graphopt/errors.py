"""The exceptions that graphopt raises for faults a user can mend.

Every one carries a one-paragraph message that says where (op type, node, pass) and a hint
that says what to do. The command line prints both and exits with code 2.
"""

from __future__ import annotations


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


class ArtifactError(GraphoptError):
    """An artifact is missing, damaged, or of another format version."""


class InputError(GraphoptError):
    """Inputs given to a model don't fit its signature."""
