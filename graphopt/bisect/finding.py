"""What a search finds: a rewrite, a kernel, or what calls the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from graphopt.bisect.kernels import KernelFault
from graphopt.errors import GraphoptError
from graphopt.verify.fault import NumericFault, Rewrite

Stage = Literal["pass", "kernel", "assembly"]


class PredicateFault(GraphoptError):
    """A rewrite after which the user's predicate is no longer content.

    Attributes:
        pass_name: the pass that made it.
        pass_index: its place in the pipeline.
        fuel: rewrites of the whole pipeline up to it, itself included.
        rewrite: what it did.
    """

    def __init__(self, predicate: str, pass_name: str, pass_index: int, fuel: int, rewrite: Rewrite) -> None:
        self.pass_name, self.pass_index, self.fuel, self.rewrite = pass_name, pass_index, fuel, rewrite
        lines = [
            f'pass "{pass_name}": rewrite {rewrite.index}, rule "{rewrite.rule}"'
            f"{f' at {rewrite.root}' if rewrite.root else ''}, is the first after which {predicate} says that the "
            "model is not good. It made of",
            *(f"    {line}" for line in rewrite.before or ("(nothing)",)),
            "this:",
            *(f"    {line}" for line in rewrite.after or ("(nothing)",)),
        ]
        super().__init__("\n".join(lines), hint=f"graphopt opt --fuel {fuel - 1} stops right before it")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pass": self.pass_name, "pass_index": self.pass_index, "fuel": self.fuel,
            "rewrite": {
                "index": self.rewrite.index, "rule": self.rewrite.rule, "root": self.rewrite.root,
                "before": list(self.rewrite.before), "after": list(self.rewrite.after),
            },
        }  # fmt: skip


class PredicateKernelFault(GraphoptError):
    """A kernel with which the user's predicate is not content.

    Attributes:
        region: label of the region that it computes.
        kernel: the kernel's name in the artifact; empty where none there computes that region alone.
        blame: ``schedule``: loops straight from the definition of its operators in its place are good; ``kernel``:
            ONNX Runtime in its place is.
    """

    def __init__(
        self, predicate: str, region: str, kernel: str, blame: Literal["schedule", "kernel"]
    ) -> None:
        self.region, self.kernel, self.blame = region, kernel, blame
        what = f'kernel "{kernel}" of region {region}' if kernel else f"region {region}"
        way = {
            "schedule": "with its schedule instead of as plain loops",
            "kernel": "compiled",
        }[blame]
        super().__init__(
            f"{what} is the first that, {way}, makes {predicate} say that the model is not good",
            hint="without --predicate, bisect compares the kernel with ONNX Runtime by itself",
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"region": self.region, "kernel": self.kernel, "blame": self.blame}


@dataclass(frozen=True)
class Finding:
    """What is wrong.

    Attributes:
        stage: ``pass``: a rewrite of a pass; ``kernel``: a kernel of the artifact; ``assembly``: every kernel is
            right, and what calls them is not.
        error: the located fault, with all that is known of it.
    """

    stage: Stage
    error: GraphoptError

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        known = (NumericFault, PredicateFault, KernelFault, PredicateKernelFault)
        detail = self.error.as_dict() if isinstance(self.error, known) else {}
        return {"stage": self.stage, "message": self.error.message, **detail}
