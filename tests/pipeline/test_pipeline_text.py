"""Pipeline texts: they invert exactly, and a wrong one is told where and how."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import PipelineError
from graphopt.ir.rewriter import Rewriter
from graphopt.pipeline import Context, Pass, Pipeline, passes, register_pass, register_pipeline
from graphopt.pipeline.options import options_of


class Scope(enum.Enum):
    LAYER = "layer"
    WHOLE = 2
    NONE = "none"


class Idle(Pass):
    def run(self, rewriter: Rewriter, context: Context) -> None:
        pass


@register_pass("text-all")
@dataclass(frozen=True)
class EveryOption(Idle):
    """One option of each kind."""

    max_ops: int = field(default=8, metadata={"help": "largest region"})
    sparsity: float = 0.5
    fast: bool = False
    pattern: str = ""
    scope: Scope = Scope.LAYER
    include: tuple[str, ...] = ("*",)
    limits: tuple[int, ...] = ()
    budget: float | None = None
    label: str | None = "a"
    shared: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if self.max_ops < 0:
            raise ValueError("max_ops must not be negative")


@register_pass("text-plain")
@dataclass(frozen=True)
class Plain(Idle):
    """No options."""


register_pipeline("Text1", "text-plain,text-all{fast=true}", "two passes")
register_pipeline("Text2", "Text1,text-plain")
register_pipeline("TextRing", "text-plain,TextRing")
register_pipeline("TextBroken", "text-plan")

WORDS = st.text(max_size=6) | st.sampled_from(
    ["none", "true", "[]", "a b", '"', "\\", "a,b", "{x=1}", "\n", "'"]
)
PASSES = st.just(Plain()) | st.builds(
    EveryOption,
    max_ops=st.integers(0, 2**70),
    sparsity=st.floats(allow_nan=False),
    fast=st.booleans(),
    pattern=WORDS,
    scope=st.sampled_from(Scope),
    include=st.lists(WORDS, max_size=3).map(tuple),
    limits=st.lists(st.integers(), max_size=3).map(tuple),
    budget=st.none() | st.floats(allow_nan=False),
    label=st.none() | WORDS,
)


@given(st.lists(PASSES, max_size=4).map(tuple))
def test_a_pipeline_is_what_its_text_says(passes: tuple[Pass, ...]) -> None:
    pipeline = Pipeline(passes)
    assert Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (EveryOption(), "text-all"),
        (EveryOption(max_ops=16), "text-all{max_ops=16}"),
        (EveryOption(sparsity=0.25, fast=True), "text-all{sparsity=0.25 fast=true}"),
        (EveryOption(pattern="conv*"), "text-all{pattern=conv*}"),
        (EveryOption(pattern="a b"), 'text-all{pattern="a b"}'),
        (EveryOption(scope=Scope.WHOLE), "text-all{scope=whole}"),
        (EveryOption(include=("a", "b c")), 'text-all{include=a,"b c"}'),
        (EveryOption(include=()), "text-all{include=[]}"),
        (EveryOption(label=None), "text-all{label=none}"),
        (EveryOption(label="none"), 'text-all{label="none"}'),
    ],
)
def test_only_what_differs_from_the_default_is_printed(value: EveryOption, text: str) -> None:
    assert str(value) == text
    assert Pipeline.parse(text).passes == (value,)


def test_space_single_quotes_and_trailing_commas_are_allowed() -> None:
    text = " text-plain ,\n text-all { pattern='a b'   max_ops=3 } , "
    assert Pipeline.parse(text) == Pipeline((Plain(), EveryOption(pattern="a b", max_ops=3)))
    assert Pipeline.parse("") == Pipeline(())


def test_named_pipelines_expand_inside_texts() -> None:
    expected = (Plain(), EveryOption(fast=True), Plain(), EveryOption())
    assert Pipeline.parse("Text2,text-all").passes == expected
    assert str(Pipeline.parse("Text1")) == "text-plain,text-all{fast=true}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("«text-plian»", 'there is no pass "text-plian"; did you mean "text-plain"?'),
        ("text-all{«max_op=1}", 'pass "text-all" has no option "max_op"; did you mean "max_ops"?'),
        ("text-plain{«max=1}", 'pass "text-plain" has no option "max"'),
        ("text-all{max_ops=«1.5}", "pass \"text-all\": max_ops must be of type int, not '1.5'"),
        ("text-all{fast=«yes}", "fast must be true or false, not 'yes'"),
        ("text-all{scope=«layr}", "scope can't be 'layr'; did you mean \"layer\"?"),
        ("text-all{max_ops=«1,2}", "max_ops takes one int, not 2 values"),
        ("text-all{max_ops=«[]}", "max_ops takes one int"),
        ("text-all{max_ops=1 «max_ops=2}", 'option "max_ops" is given twice'),
        ("text-all{max_ops«}", 'expected "="'),
        ("text-all{max_ops=«}", "expected a value"),
        ("text-all{max_ops=1«", "expected an option or }"),
        ('text-all{pattern=«"a}', "expected a value"),
        ('text-all{pattern=«"\\q"}', "not a string"),
        ("«text-all{max_ops=-1}", 'pass "text-all": max_ops must not be negative'),
        ("text-plain «text-plain", 'expected ","'),
        ("text-plain,«,", "expected the name of a pass or pipeline"),
        ("Text1«{a=1}", 'pipeline "Text1" has no options'),
        ("«TextRing", "pipelines name each other in a ring: TextRing -> TextRing"),
        ("text-plain,«TextBroken", 'in pipeline "TextBroken": there is no pass "text-plan"'),
    ],
)
def test_a_wrong_text_is_told_where_and_how(text: str, message: str) -> None:
    before, after = text.replace("»", "").split("«")
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse(before + after)
    assert message in caught.value.message
    # Nested texts are located on the inside; the outer place comes last.
    assert caught.value.message.endswith(
        f"(column {len(before) + 1} of the pipeline: {before}«{after or 'end'}»)"
    )


@given(
    st.text(max_size=30) | st.lists(st.sampled_from('text-all{max_ops=1} ,"\\[]'), max_size=20).map("".join)
)
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        pipeline = Pipeline.parse(text)
    except PipelineError:
        return
    assert Pipeline.parse(str(pipeline)) == pipeline


def test_options_tell_their_type_and_help() -> None:
    shown = {
        option.name: (option.type_text, option.default, option.help) for option in options_of(EveryOption)
    }
    assert shown["max_ops"] == ("int", 8, "largest region")
    assert shown["include"] == ("str...", ("*",), "")
    assert shown["budget"] == ("float or none", None, "")
    assert shown["scope"][0] == "layer|whole|none"
    assert "shared" not in shown


def test_ranges_of_options_hold_for_texts_and_for_python() -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse("O1,fuse-regions{max_ops=0}")
    assert 'pass "fuse-regions": max_ops must be at least 1, not 0 (column 4' in caught.value.message
    fuse_regions = passes()["fuse-regions"]
    with pytest.raises(ValueError, match="max_ops must be at least 1, not -3"):
        fuse_regions(max_ops=-3)  # type: ignore[call-arg]
    assert str(fuse_regions(max_ops=1)) == "fuse-regions{max_ops=1}"  # type: ignore[call-arg]
    (option,) = options_of(fuse_regions)
    assert (option.type_text, option.low, option.high) == ("int, at least 1", 1, None)
    prune = {option.name: option for option in options_of(passes()["prune-magnitude"])}
    assert prune["sparsity"].type_text == "float, from 0 to 1, or none"


@pytest.mark.parametrize(
    "text",
    [
        "fold-constants{max_growth=-1}",
        "fold-constants{max_bytes=-1}",
        "eliminate-common-subexpressions{max_constant_bytes=-1}",
        "quantize-static{samples=0}",
    ],
)
def test_no_built_in_pass_takes_a_number_out_of_range(text: str) -> None:
    option = text.partition("{")[2].partition("=")[0]
    with pytest.raises(PipelineError, match=f"{option} must be at least"):
        Pipeline.parse(text)
