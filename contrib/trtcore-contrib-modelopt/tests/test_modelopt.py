"""Models that ModelOpt quantised: the network's precisions, and numbers against the quantised model in torch."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trtcore

mtq = pytest.importorskip(
    "modelopt.torch.quantization", reason="ModelOpt is not installed (extra `modelopt`)"
)
from modelopt.torch.quantization.nn import TensorQuantizer  # noqa: E402
from trtcore_contrib_modelopt import without_cuda  # noqa: E402


class Convnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, groups=4), nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Any:
        return self.body(x)


def linears(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 64)).eval().to(dtype)


class Answer(nn.Module):
    """A transformers model with a plain tensor as its result."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Any:
        return self.model(x)[self.name]


def quantised(model: nn.Module, config: Any, *examples: Tensor) -> nn.Module:
    """A copy, calibrated on `examples`."""
    if isinstance(config, str):
        config = getattr(mtq, config)

    def calibrate(model: nn.Module) -> None:
        for example in examples:
            model(example)

    with torch.no_grad(), without_cuda():
        made: nn.Module = mtq.quantize(copy.deepcopy(model), copy.deepcopy(config), calibrate)
    return made.eval()


def answer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), without_cuda():
        result: Tensor = model(x)
    return result


def compiled_of(model: nn.Module, *inputs: Any, **settings: Any) -> Any:
    settings = {"min_block_size": 1, "require_full_compilation": True, "runtime": "reference", **settings}
    return trtcore.compile(model, inputs=list(inputs), **settings)


def products(compiled: Any) -> Counter[tuple[str, str]]:
    """(op, number format) of convolutions, matrix products and attention."""
    return Counter((node.op.split(".")[1], node.computes) for node in compiled.report.nodes if node.computes)


def layer_types(compiled: Any) -> Counter[str]:
    return Counter(layer.type for one in trtcore.runtime.engine_info(compiled) for layer in one.layers)


# Convolutions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "name"), [("INT8_DEFAULT_CFG", "int8"), ("FP8_DEFAULT_CFG", "float8")])
def test_every_convolution_multiplies_quantised_inputs_by_quantised_weights(config: str, name: str) -> None:
    torch.manual_seed(0)
    model, x = Convnet().eval(), torch.randn(2, 3, 16, 16)
    quantized = quantised(model, config, x, torch.randn_like(x))
    compiled = compiled_of(quantized, x)
    assert products(compiled) == {("conv2d", name): 2, ("conv_transpose2d", name): 1, ("linear", name): 1}
    types = layer_types(compiled)
    # the input of the pooling is quantised too; weights are constants of the format, and are never quantised here
    assert types["QUANTIZE"] == 5
    assert types["DEQUANTIZE"] == 5 + 4
    want = answer(quantized, x)
    step = float((want - answer(model, x)).abs().max())
    assert step > 0
    assert float((compiled(x) - want).abs().max()) < step / 100


def test_sizes_that_vary() -> None:
    torch.manual_seed(0)
    quantized = quantised(Convnet().eval(), "INT8_DEFAULT_CFG", torch.randn(4, 3, 16, 16))
    images = trtcore.Input(min_shape=(1, 3, 16, 16), opt_shape=(2, 3, 20, 16), max_shape=(4, 3, 32, 16))
    compiled = compiled_of(quantized, images)
    for shape in ((1, 3, 16, 16), (3, 3, 22, 16), (4, 3, 32, 16)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), answer(quantized, x))


# Linear layers ------------------------------------------------------------------------------------------

FORMATS = {
    "INT8_DEFAULT_CFG": "int8",
    "INT8_SMOOTHQUANT_CFG": "int8",
    "INT8_WEIGHT_ONLY_CFG": "float32, weights int8",
    "FP8_DEFAULT_CFG": "float8",
    "INT4_BLOCKWISE_WEIGHT_ONLY_CFG": "float32, weights int4",
    "INT4_AWQ_CFG": "float32, weights int4",
    "W4A8_AWQ_BETA_CFG": "float8",
    "NVFP4_DEFAULT_CFG": "float4",
    "W4A16_NVFP4_CFG": "float32, weights float4",
    "NVFP4_AWQ_LITE_CFG": "float4",
    "MXFP8_DEFAULT_CFG": "float8",
}


@pytest.mark.parametrize("config", FORMATS)
def test_numbers_are_those_of_the_quantised_model(config: str) -> None:
    model, x = linears(), torch.randn(2, 7, 256)
    quantized = quantised(model, config, x, torch.randn(4, 7, 256))
    want = answer(quantized, x)
    step = float((want - answer(model, x)).abs().max())
    assert step > 1e-3
    batch = trtcore.Input(min_shape=(1, 7, 256), opt_shape=(2, 7, 256), max_shape=(8, 7, 256))
    compiled = compiled_of(quantized, batch)
    assert products(compiled) == {("linear", FORMATS[config]): 2}
    assert compiled.report.noted() == ()
    # one value on a tie may fall to the other side
    assert float((compiled(x) - want).abs().max()) < step / 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "config", ["INT8_DEFAULT_CFG", "FP8_DEFAULT_CFG", "INT4_AWQ_CFG", "NVFP4_DEFAULT_CFG"]
)
def test_models_in_half_precision(config: str, dtype: torch.dtype) -> None:
    model, x = linears(dtype), torch.randn(4, 7, 256).to(dtype)
    quantized = quantised(model, config, x)
    want = answer(quantized, x)
    compiled = compiled_of(quantized, x)
    assert compiled(x).dtype == dtype
    assert {computes for _, computes in products(compiled)} <= {
        "int8", "float8", "float4", f"{str(dtype).removeprefix('torch.')}, weights int4",
    }  # fmt: skip
    cost = (want - answer(model, x)).float().norm()
    assert (compiled(x) - want).float().norm() < cost / 2


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 32, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.lstm(x)[0]


class SelfAttention(nn.Module):
    """torch's module reads the weight of its output layer without calling the layer: ModelOpt does not quantise it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.linear = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Any:
        return self.linear(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("config", ["INT8_DEFAULT_CFG", "FP8_DEFAULT_CFG"])
@pytest.mark.parametrize(
    ("build", "shape", "in_8_bits"), [(Recurrent, (2, 3, 16), 6), (SelfAttention, (2, 5, 32), 1)]
)
def test_modules_that_modelopts_export_mode_quantises_otherwise(
    build: Any, shape: Any, in_8_bits: int, config: str
) -> None:
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    quantized = quantised(model, config, x, torch.randn(shape))
    want = answer(quantized, x)
    step = float((want - answer(model, x)).abs().max())
    compiled = compiled_of(quantized, x)
    assert step > 1e-3
    assert float((compiled(x) - want).abs().max()) < step / 50
    assert sum(n for (_, text), n in products(compiled).items() if text in ("int8", "float8")) == in_8_bits


def test_scales_of_each_token_are_computed_in_the_engine_and_told() -> None:
    model, x = linears(), torch.randn(2, 7, 256)
    quantized = quantised(model, "FP8_PER_CHANNEL_PER_TOKEN_CFG", x)
    compiled = compiled_of(quantized, x)
    torch.testing.assert_close(compiled(x), answer(quantized, x), rtol=0, atol=1e-5)
    (group,) = compiled.report.noted()
    assert "fp8 with scales that are computed when the model runs" in str(group)


def test_weights_that_fell_back_to_dequantised_are_told() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 128)).eval(), torch.randn(3, 96)
    quantized = quantised(model, "INT4_BLOCKWISE_WEIGHT_ONLY_CFG", x)  # blocks of 128
    compiled = compiled_of(quantized, x)
    torch.testing.assert_close(compiled(x), answer(quantized, x))
    assert sum(group.count for group in compiled.report.noted()) == 2
    assert "blocks (1, 128) do not divide (64, 96)" in str(compiled.report)


# transformers -------------------------------------------------------------------------------------------


def transformer(kind: str) -> tuple[nn.Module, Tensor]:
    """A tiny one of random weights, and an input."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tokens, images = torch.randint(0, 100, (2, 12)), torch.randn(2, 3, 32, 32)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    if kind == "bert":
        model = transformers.BertModel(
            transformers.BertConfig(vocab_size=100, **small), add_pooling_layer=False
        )
        return Answer(model, "last_hidden_state").eval(), tokens
    if kind == "llama":
        config = transformers.LlamaConfig(vocab_size=100, num_key_value_heads=2, use_cache=False, **small)
        return Answer(transformers.LlamaForCausalLM(config), "logits").eval(), tokens
    if kind == "vit":
        config = transformers.ViTConfig(image_size=32, patch_size=8, **small)
        return Answer(transformers.ViTForImageClassification(config), "logits").eval(), images
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[2, 1], num_labels=10)
    return Answer(transformers.ResNetForImageClassification(config), "logits").eval(), images


@pytest.mark.slow
@pytest.mark.parametrize("config", ["INT8_DEFAULT_CFG", "FP8_DEFAULT_CFG", "INT8_SMOOTHQUANT_CFG"])
@pytest.mark.parametrize("kind", ["bert", "llama", "resnet", "vit"])
def test_transformers(kind: str, config: str) -> None:
    model, x = transformer(kind)
    others = [torch.randn_like(x) if x.is_floating_point() else torch.randint_like(x, 100) for _ in range(3)]
    quantized = quantised(model, config, x, *others)
    want = answer(quantized, x)
    cost = float((want - answer(model, x)).norm())
    compiled = compiled_of(quantized, x)
    assert cost > 0
    assert float((compiled(x) - want).norm()) < cost / 10
    name = "float8" if config.startswith("FP8") else "int8"
    found = products(compiled)
    assert found["conv2d", "float32"] == 0, "every convolution is quantised on both sides"
    quantizers = [
        m for _, m in quantized.named_modules() if type(m).__name__ in ("QuantLinear", "QuantConv2d")
    ]
    skipped = sum(
        not module.weight_quantizer.is_enabled for module in quantizers
    )  # ModelOpt leaves the head out
    assert sum(n for (op, text), n in found.items() if text == name) == len(quantizers) - skipped


# Attention ----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Query, key and value through ModelOpt's quantizers, as its attention plugins put them."""

    def __init__(self, to: Any) -> None:
        super().__init__()
        config = mtq.config.QuantizerAttributeConfig(num_bits=to)
        self.q, self.k, self.v = (TensorQuantizer(config) for _ in range(3))
        for quantizer in (self.q, self.k, self.v):
            quantizer.amax = torch.tensor(4.0)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(self.q(q), self.k(k), self.v(v))


@pytest.mark.parametrize(("to", "name"), [((4, 3), "float8"), (8, "int8")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_attention_on_quantised_queries_keys_and_values(to: Any, name: str, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, 4, 8, 16, dtype=dtype) for _ in range(3))
    model = Attention(to).eval()
    compiled = compiled_of(model, q, k, v)
    assert layer_types(compiled)["ATTENTION_INPUT"] == 1, "one attention layer, which TensorRT fuses"
    assert products(compiled) == {("scaled_dot_product_attention", name): 1}
    torch.testing.assert_close(compiled(q, k, v), answer_of(model, q, k, v), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_attention_of_a_llama_in_fp8() -> None:
    """ModelOpt's quantizers of queries, keys and values, in the attention of transformers."""
    model, x = transformer("llama")
    config = copy.deepcopy(mtq.FP8_DEFAULT_CFG)
    config["quant_cfg"] += [{"quantizer_name": "*[qkv]_bmm_quantizer", "cfg": {"num_bits": (4, 3)}}]
    inner = quantised(
        model.model, config, x, torch.randint_like(x, 100)
    )  # ModelOpt looks for models of transformers
    quantized = Answer(inner, "logits").eval()
    compiled = compiled_of(quantized, x)
    assert products(compiled)["scaled_dot_product_attention", "float8"] == 2
    torch.testing.assert_close(compiled(x), answer(quantized, x), rtol=1e-3, atol=1e-3)


def answer_of(model: nn.Module, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return model(*inputs)


# What the pack must not do ------------------------------------------------------------------------------


def test_the_model_and_modelopt_are_as_before() -> None:
    model, x = linears(), torch.randn(2, 256)
    quantized = quantised(model, "INT8_DEFAULT_CFG", x)
    forward, before = TensorQuantizer.forward, answer(quantized, x)
    state = {name: value.clone() for name, value in quantized.state_dict().items()}
    compiled_of(quantized, x)
    assert TensorQuantizer.forward is forward
    assert torch.equal(answer(quantized, x), before)
    assert state.keys() == quantized.state_dict().keys()
    assert all(torch.equal(value, quantized.state_dict()[name]) for name, value in state.items())
    with pytest.raises(trtcore.errors.TrtcoreError):
        compiled_of(quantized, torch.randn(2, 255))
    assert TensorQuantizer.forward is forward


def test_a_compiled_model_is_saved_and_loaded(tmp_path: Path) -> None:
    model, x = linears(), torch.randn(2, 256)
    quantized = quantised(model, "INT4_AWQ_CFG", x)
    compiled = compiled_of(quantized, x)
    trtcore.save(compiled, tmp_path / "model.pt2")
    loaded = trtcore.load(tmp_path / "model.pt2")
    assert torch.equal(loaded(x), compiled(x))


def test_what_stays_in_torch_has_the_same_numbers_and_is_saved(tmp_path: Path) -> None:
    model, x = linears(), torch.randn(2, 256)
    quantized = quantised(model, "INT8_DEFAULT_CFG", x)
    with pytest.warns(UserWarning, match="no engine was made"):
        compiled = trtcore.compile(quantized, inputs=[x], min_block_size=1000)
    torch.testing.assert_close(compiled(x), answer(quantized, x))
    trtcore.save(compiled, tmp_path / "model.pt2")
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch, trtcore; path = sys.argv[1]; x = torch.load(path + '/x.pt'); "
        "torch.save(trtcore.load(path + '/model.pt2')(x), path + '/y.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert torch.equal(torch.load(tmp_path / "y.pt"), compiled(x))


def test_a_program_that_modelopts_own_export_mode_made() -> None:
    from modelopt.torch.quantization.utils import export_torch_mode

    model, x = linears(), torch.randn(2, 256)
    quantized = quantised(model, "FP8_DEFAULT_CFG", x)
    with export_torch_mode(), torch.no_grad():
        exported = torch.export.export(quantized, (x,))
    compiled = trtcore.dynamo.compile(exported, arg_inputs=[x], min_block_size=1, runtime="reference")
    assert {node.op for node in compiled.report.nodes} >= {"tensorrt.quantize_op.default"}
    assert products(compiled) == {("linear", "float8"): 2}
    torch.testing.assert_close(compiled(x), answer(quantized, x))


@torch.no_grad()
def test_fp8_under_torch_compile() -> None:
    """Where ModelOpt calls an op of its own, which Dynamo keeps; integers on the CPU are formulas in many graphs."""
    model, x = linears(), torch.randn(2, 256)
    quantized = quantised(model, "FP8_DEFAULT_CFG", x)
    torch._dynamo.reset()
    fast = torch.compile(quantized, backend="trtcore", options={"min_block_size": 1, "runtime": "reference"})
    torch.testing.assert_close(fast(x), answer(quantized, x))
    (graph,) = trtcore.dynamo.reports()
    assert products(graph) == {("linear", "float8"): 2}


def test_a_plain_model_is_none_of_the_packs() -> None:
    from trtcore_contrib_modelopt.capture import modelopt_capture

    assert modelopt_capture(linears()) is None


# Formats without CUDA -----------------------------------------------------------------------------------


def test_nvfp4_and_mxfp8_without_cuda_are_modelopts() -> None:
    """Against ModelOpt's own tensors of these formats, which it has in torch."""
    from modelopt.torch.quantization.qtensor import MXFP8QTensor, NVFP4QTensor

    w = torch.randn(8, 64)
    w[0, :16] = 0
    ops = torch.ops.trtcore_quantize
    packed, scale, double = NVFP4QTensor.quantize(w.clone(), 16)
    want = packed.dequantize(scale=scale, double_scale=double, block_sizes={-1: 16})
    assert torch.equal(ops.fake_quantize_blocks(w, w.abs().max(), "nvfp4"), want)
    packed, scale = MXFP8QTensor.quantize(w)
    want = packed.dequantize(scale=scale, block_sizes={-1: 32})
    assert torch.equal(ops.fake_quantize_blocks(w, None, "mxfp8"), want)


# Refusals -----------------------------------------------------------------------------------------------


def with_quantizer(**attributes: Any) -> nn.Module:
    model = quantised(linears(), "INT8_DEFAULT_CFG", torch.randn(2, 256))
    for name, value in attributes.items():
        setattr(model[0].input_quantizer, name, value)
    return model


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"_unsigned": True}, "is unsigned"),
        ({"_if_calib": True}, "still collects statistics"),
        ({"_num_bits": 6}, "has the format num_bits=6"),
        ({"_bias": {-1: None, "type": "static"}}, "zero point other than 0"),
        ({"_rotate": True}, "rotates its input"),
        ({"backend": "mine"}, "the backend 'mine'"),
        (
            {"_num_bits": (2, 1), "_block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)}},
            "num_bits=(2, 1)",
        ),
        ({"_fake_quant": False}, "compressed weights"),
    ],
)
def test_refusals_name_the_quantizer_and_what_is_supported(attributes: Any, message: str) -> None:
    with pytest.raises(trtcore.errors.InputError) as caught:
        trtcore.compile(with_quantizer(**attributes), inputs=[torch.randn(2, 256)])
    assert message in str(caught.value)
    assert "0.input_quantizer" in str(caught.value)
    assert "what to do" in str(caught.value)
    if "num_bits" in message or "unsigned" in message:
        assert "INT8 and FP8" in str(caught.value)
        assert "NVFP4" in str(caught.value)


def test_a_quantizer_that_is_off_may_be_anything() -> None:
    model, x = with_quantizer(_num_bits=6, _disabled=True), torch.randn(2, 256)
    compiled = compiled_of(model, x)
    torch.testing.assert_close(compiled(x), answer(model, x))


def test_compressed_models_are_refused() -> None:
    model = quantised(linears(), "INT8_WEIGHT_ONLY_CFG", torch.randn(2, 256))
    with torch.no_grad():
        mtq.compress(model)
    with pytest.raises(trtcore.errors.InputError, match=r"compile the model before mtq\.compress"):
        trtcore.compile(model, inputs=[torch.randn(2, 256)])


# The README ---------------------------------------------------------------------------------------------


def test_the_readmes_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    readme = Path(__file__).parent.parent / "README.md"
    (block,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    assert "2 x aten.linear.default: int8; first at 0" in capsys.readouterr().out
