"""The architectures that must compile whole: transformers configs with random weights, base-sized and tiny.

    python tests/models/zoo.py [--tiny] [--json FILE] [name ...]

compiles them static and dynamic in float32, float16 and bfloat16 and prints a table (segments, ops, errors).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

import trtcore

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PRODUCTS = (
    "MATRIX_MULTIPLY",
    "CONVOLUTION",
    "DECONVOLUTION",
    "EINSUM",
    "ATTENTION_INPUT",
    "ATTENTION_OUTPUT",
)
"""Layer types that do the model's work, and whose dtype is what the model computes in."""

Shape = tuple[int, ...]
"""(batch,) for images and sound, (batch, length) for text."""


@dataclass(frozen=True)
class Architecture:
    """A model and what it is fed.

    Attributes:
        build: the float32 model in eval mode; True for the tiny one.
        feed: keyword inputs for a shape, in the model's dtype.
        ranges: the dynamic dims' (min, opt, max), by position in `Shape`, base and tiny.
        calls: shapes to run the dynamic model at, base and tiny.
        static: the shape to run the static model at.
        float_parts: parts of module paths where the model itself computes in float32.
    """

    name: str
    build: Callable[[bool], torch.nn.Module]
    feed: Callable[[Shape, torch.dtype, bool], dict[str, torch.Tensor]]
    ranges: tuple[tuple[int, int, int], ...]
    calls: tuple[Shape, ...]
    static: Shape
    tiny_calls: tuple[Shape, ...] = ()
    float_parts: tuple[str, ...] = ()


@dataclass
class Result:
    """What compiling and running one form of an architecture gave."""

    report: Any
    compiled: Any
    errors: dict[Shape, float] = field(default_factory=dict)
    eager_errors: dict[Shape, float] = field(default_factory=dict)


# ---- models ------------------------------------------------------------------------------------------------


def prepare(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics as after training: no zero bias, no unit scale, no trivial running mean."""
    generator = torch.Generator().manual_seed(1)

    def normal(like: torch.Tensor, mean: float, std: float) -> torch.Tensor:
        return torch.empty(like.shape).normal_(mean, std, generator=generator)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                mean = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(normal(parameter, mean, 0.1))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.copy_(normal(module.running_mean, 0.0, 0.3))
                module.running_var.copy_(normal(module.running_var, 1.0, 0.2).abs() + 0.2)
    return model.eval()


def _bert(tiny: bool) -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    small |= {"vocab_size": 500, "max_position_embeddings": 64}
    torch.manual_seed(0)
    return prepare(BertModel(BertConfig(**(small if tiny else {}))))


def _vit(tiny: bool) -> torch.nn.Module:
    from transformers import ViTConfig, ViTModel

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(0)
    return prepare(ViTModel(ViTConfig(**({**small, "image_size": 48} if tiny else {}))))


def _resnet(tiny: bool) -> torch.nn.Module:
    from transformers import ResNetConfig, ResNetModel

    small = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 1]}
    torch.manual_seed(0)
    return prepare(ResNetModel(ResNetConfig(**(small if tiny else {}))))


def _gpt2(tiny: bool) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    small = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 500}
    small |= {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    return prepare(GPT2LMHeadModel(GPT2Config(use_cache=False, **(small if tiny else {}))))


def _llama(tiny: bool) -> torch.nn.Module:
    """The layers of Llama 3.2 1B (32 query heads over 8 key heads), two of them, and a small vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
    if tiny:
        sizes = {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=500 if tiny else 4096, use_cache=False)
    return prepare(LlamaForCausalLM(config))


def _whisper(tiny: bool) -> torch.nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
    if tiny:
        sizes = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
        sizes |= {"max_source_positions": 50, "num_mel_bins": 16}
    torch.manual_seed(0)
    return prepare(WhisperEncoder(WhisperConfig(**sizes)))


# ---- inputs ------------------------------------------------------------------------------------------------


def _generator(shape: Shape) -> torch.Generator:
    return torch.Generator().manual_seed(sum(shape))


def _tokens(vocabulary: int, small: int) -> Callable[[Shape, torch.dtype, bool], dict[str, torch.Tensor]]:
    def feed(shape: Shape, dtype: torch.dtype, tiny: bool) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, small if tiny else vocabulary, shape, generator=_generator(shape))
        mask = torch.ones(shape, dtype=torch.int64)
        mask[-1, shape[1] // 2 + 1 :] = 0  # the last text is padded
        return {"input_ids": ids, "attention_mask": mask}

    return feed


def _dense(
    name: str, base: Shape, small: Shape
) -> Callable[[Shape, torch.dtype, bool], dict[str, torch.Tensor]]:
    def feed(shape: Shape, dtype: torch.dtype, tiny: bool) -> dict[str, torch.Tensor]:
        rest = small if tiny else base
        return {name: torch.randn(*shape, *rest, generator=_generator(shape)).to(dtype)}

    return feed


_TEXT = {
    "ranges": ((1, 2, 4), (1, 32, 64)),
    "calls": ((2, 32), (1, 1), (4, 64), (3, 17)),
    "tiny_calls": ((2, 32), (1, 1), (4, 64), (3, 17), (1, 64), (4, 2)),
    "static": (2, 32),
}
_BATCHED: dict[str, Any] = {
    "ranges": ((1, 2, 4),),
    "calls": ((1,), (3,)),
    "tiny_calls": ((1,), (2,), (3,), (4,)),
    "static": (2,),
}

ARCHITECTURES: Mapping[str, Architecture] = {
    a.name: a
    for a in (
        Architecture("bert", _bert, _tokens(30522, 500), **_TEXT),
        Architecture("vit", _vit, _dense("pixel_values", (3, 224, 224), (3, 48, 48)), **_BATCHED),
        Architecture("resnet50", _resnet, _dense("pixel_values", (3, 224, 224), (3, 64, 64)), **_BATCHED),
        Architecture("gpt2", _gpt2, _tokens(50257, 500), **_TEXT),
        Architecture("llama", _llama, _tokens(4096, 500), float_parts=("rotary_emb",), **_TEXT),
        Architecture(
            "whisper",
            _whisper,
            _dense("input_features", (80, 3000), (16, 100)),
            **{**_BATCHED, "static": (1,), "calls": ((1,), (2,))},
        ),
    )
}


# ---- compiling and comparing -------------------------------------------------------------------------------


def inputs_for(arch: Architecture, dynamic: bool, dtype: torch.dtype, tiny: bool) -> dict[str, Any]:
    """Keyword inputs of a compile: tensors, or `trtcore.Input`s whose leading dims vary in `arch.ranges`."""
    example = arch.feed(arch.static, dtype, tiny)
    if not dynamic:
        return example
    made = {}
    for name, tensor in example.items():
        sizes = [[*(r[i] for r in arch.ranges), *tensor.shape[len(arch.ranges) :]] for i in range(3)]
        made[name] = trtcore.Input(
            min_shape=tuple(sizes[0]),
            opt_shape=tuple(sizes[1]),
            max_shape=tuple(sizes[2]),
            dtype=tensor.dtype,
        )
    return made


def relative_error(got: Any, want: Any) -> float:
    """The largest ``|got - want| / |want|`` over a model's outputs; infinite where one is not finite."""
    errors = []
    assert list(got.keys()) == list(want.keys())
    for name in want:
        if isinstance(want[name], torch.Tensor):
            a, b = got[name].double(), want[name].double()
            error = float((a - b).norm() / b.norm())
            errors.append(error if error == error else float("inf"))
    return max(errors)


@torch.no_grad()
def run(arch: Architecture, model: torch.nn.Module, dynamic: bool, precision: str, tiny: bool) -> Result:
    """Compile a form of `model` (float32, left as it is) and compare it with eager at every shape.

    `errors` are of the compiled model against float32 eager; `eager_errors` those of eager in the same dtype.
    """
    dtype = DTYPES[precision]
    eager = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
    compiled = trtcore.compile(eager, kwarg_inputs=inputs_for(arch, dynamic, dtype, tiny))
    result = Result(compiled.report, compiled)
    calls = ((arch.tiny_calls if tiny else arch.calls) or arch.calls) if dynamic else (arch.static,)
    for shape in calls:
        fed = arch.feed(shape, dtype, tiny)
        want = model(**arch.feed(shape, torch.float32, tiny))
        result.errors[shape] = relative_error(compiled(**fed), want)
        if eager is not model:
            result.eager_errors[shape] = relative_error(eager(**fed), want)
    return result


def snapshots(compiled: Any) -> list[Any]:
    """The network of every engine of a compiled module."""
    from trtcore.ir.graphs import attribute
    from trtcore.runtime.engine import resolve
    from trtcore.runtime.op import execute_engine

    return [
        resolve(str(node.args[3]), attribute(compiled, node.args[2].target)).artifact.snapshot
        for node in compiled.graph.nodes
        if node.op == "call_function" and node.target is execute_engine
    ]


def product_dtypes(snapshot: Any) -> Iterator[tuple[str, str, torch.dtype]]:
    """(layer type, layer name, dtype of an operand or result) of every layer that does the model's work."""
    for layer in snapshot.layers:
        if layer.type in PRODUCTS:
            for index in (*layer.inputs, *layer.outputs):
                if index is not None and snapshot.tensors[index].dtype.is_floating_point:
                    yield layer.type, layer.name, snapshot.tensors[index].dtype


# ---- the table ---------------------------------------------------------------------------------------------


def measure(names: list[str], tiny: bool, forms: list[tuple[bool, str]]) -> Iterator[dict[str, Any]]:
    """A row per form of every named architecture."""
    for name in names:
        arch = ARCHITECTURES[name]
        model = arch.build(tiny)
        for dynamic, precision in forms:
            row: dict[str, Any] = {
                "model": name,
                "shapes": "dynamic" if dynamic else "static",
                "precision": precision,
            }
            began = time.perf_counter()
            try:
                result = run(arch, model, dynamic, precision, tiny)
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                yield row
                continue
            report = result.report
            worst = max(result.errors, key=lambda s: result.errors[s] / result.eager_errors.get(s, 1.0))
            row |= {
                "whole": bool(report.fully_converted and len(report.segments) == 1),
                "engines": len(report.engines),
                "ops": sum(segment.ops for segment in report.engines),
                "torch_ops": sum(segment.ops for segment in report.segments if segment.kind == "torch"),
                "layers": sum(segment.layers or 0 for segment in report.engines),
                "engine_mib": round(report.engine_bytes / 2**20, 1),
                "error": result.errors[worst],
                "eager_error": result.eager_errors.get(worst),
                "seconds": round(time.perf_counter() - began, 1),
            }
            if not row["whole"]:
                left = {node.op: node.reason for node in report.nodes if not node.in_engine}
                row["left"] = {op: str(reason)[:160] for op, reason in left.items()}
            yield row


def passes(row: Mapping[str, Any]) -> bool:
    """Whether the model is in one engine whole, and as near to float32 eager as it has to be."""
    if not row.get("whole"):
        return False
    eager = row["eager_error"]
    return bool(row["error"] <= (1e-5 if eager is None else 1.25 * eager))


PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- models: begin -->", "<!-- models: end -->"


def line(row: Mapping[str, Any]) -> str:
    """A row of the table in docs/models.md."""
    head = f"| {row['model']} | {row['shapes']} | {row['precision']} | "
    if "failed" in row:
        return f"{head}FAILED {row['failed']} |"
    eager = "" if row["eager_error"] is None else f"{row['eager_error']:.2e}"
    return (
        f"{head}{'yes' if passes(row) else '**no**'} | {row['engines']} | {row['ops']} | {row['layers']} | "
        f"{row['engine_mib']} | {row['error']:.2e} | {eager} |"
    )


HEAD = """\
| model | shapes | precision | holds | engines | ops | layers | engine MiB | error | eager's error |
|---|---|---|---|---|---|---|---|---|---|"""


def write(rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the rows into docs/models.md, in the order of the models and forms."""
    order = [(n, s, p) for n in ARCHITECTURES for s in ("static", "dynamic") for p in DTYPES]
    rows = sorted(rows, key=lambda row: order.index((row["model"], row["shapes"], row["precision"])))
    put_between(PAGE, BEGIN, "\n".join([HEAD, *map(line, rows)]), END)


def put_between(page: Path, begin: str, text: str, end: str) -> None:
    """Replace what a page has between two marks."""
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(ARCHITECTURES)} (default: all)")
    parser.add_argument("--tiny", action="store_true", help="the small ones of the default tests")
    parser.add_argument("--precision", choices=tuple(DTYPES), action="append")
    parser.add_argument("--shapes", choices=("static", "dynamic"), action="append")
    parser.add_argument("--json", help="write the rows to this file too")
    parser.add_argument("--read", nargs="+", metavar="JSON", help="measure nothing: rows that --json wrote")
    parser.add_argument("--write", action="store_true", help=f"put the rows into {PAGE.name}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    forms = [
        (s == "dynamic", p) for s in given.shapes or ("static", "dynamic") for p in given.precision or DTYPES
    ]
    rows: list[Mapping[str, Any]] = [
        row for name in given.read or () for row in json.loads(Path(name).read_text())
    ]
    print(HEAD)
    for row in rows or measure(given.names or list(ARCHITECTURES), given.tiny, forms):
        if not given.read:
            rows.append(row)
        left = (f"\n  left in torch: {op}: {why}" for op, why in row.get("left", {}).items())
        print(line(row), *left, flush=True)
        if given.json:
            Path(given.json).write_text(json.dumps(rows, indent=1))
    if given.write:
        write(rows)


if __name__ == "__main__":
    main()
