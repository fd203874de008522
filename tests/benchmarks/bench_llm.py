"""Time of a decode step of a Llama with random weights: eager, ``torch.compile(mode="reduce-overhead")``, and ours.

``python tests/benchmarks/bench_llm.py [--batch 1,8,32] [--length 1024] [--position 512] [--json FILE]`` on an NVIDIA GPU, with
the shape of Llama 3.2 1B in bfloat16; ``--tiny`` is a small one in float32 that runs on a CPU, too, where times mean nothing.
Every contestant makes the same steps behind the same number of tokens, in a cache of `--length` places, and writes to it.
"Ours" is ``trtcore_contrib_llm.compile_for_generation`` on the reference runtime: as it is, under a CUDA graph, and fused
(`trtcore.runtime.enable_fusion`) under a CUDA graph; with `--cut` also a second compile whose small ops are kernels between engines
(the setting `fused_ops`).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "contrib" / "trtcore-contrib-llm"))

import torch  # noqa: E402
import transformers  # noqa: E402
from trtcore_contrib_llm import compile_for_generation, load_for_generation  # noqa: E402

LLAMA_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "tie_word_embeddings": True,
}  # fmt: skip
FUSED = "aten.mul,aten.add,aten.silu,aten.softmax,aten.mean,aten.rsqrt,aten.pow"


def built(tiny: bool, device: str, length: int) -> Any:
    config = transformers.LlamaConfig(
        **(TINY if tiny else LLAMA_1B),
        max_position_embeddings=max(length, 2048),
        eos_token_id=None,
        bos_token_id=1,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.LlamaForCausalLM._from_config(
            config, dtype=torch.float32 if tiny else torch.bfloat16, attn_implementation="sdpa"
        )
    return model.eval().requires_grad_(False)


def cache_name() -> str:
    fields = transformers.modeling_outputs.CausalLMOutputWithPast.__dataclass_fields__
    return "cache" if "cache" in fields else "past_key_values"


def timed(
    step: Callable[[], Any], restart: Callable[[], None], steps: int, repeats: int, device: str
) -> float:
    """Milliseconds of a step: the median over `repeats` of the mean over `steps`."""

    def synchronise() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    found = []
    for turn in range(repeats + 1):
        restart()
        synchronise()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        synchronise()
        if turn:  # the first one warms up
            found.append((time.perf_counter() - began) / steps * 1e3)
    return statistics.median(found)


class Eager:
    """transformers' own step on its static cache, compiled or not."""

    def __init__(
        self, model: Any, forward: Callable[..., Any], batch: int, length: int, position: int
    ) -> None:
        self.model, self.forward, self.batch, self.position = model, forward, batch, position
        self.cache = transformers.StaticCache(config=model.config, max_cache_len=length)
        self.token = torch.ones(batch, 1, dtype=torch.int64, device=model.device)
        self.places = torch.zeros(batch, 1, dtype=torch.int64, device=model.device)
        self.restart()

    def restart(self) -> None:
        self.cache.reset()
        prompt = torch.ones(self.batch, self.position, dtype=torch.int64, device=self.model.device)
        self.model(prompt, **{cache_name(): self.cache}, use_cache=True, logits_to_keep=1)
        self.places.fill_(self.position)

    def step(self) -> None:
        if self.model.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        self.forward(
            input_ids=self.token,
            position_ids=self.places,
            use_cache=True,
            logits_to_keep=1,
            **{cache_name(): self.cache},
        )
        self.places += 1


class Ours:
    """The compiled model's own forward."""

    def __init__(self, generator: Any, batch: int, position: int, graphs: bool) -> None:
        self.generator, self.position, self.graphs = generator, position, graphs
        self.token = torch.ones(batch, 1, dtype=torch.int64, device=generator.device)
        self.prompt = torch.ones(batch, position, dtype=torch.int64, device=generator.device)

    def restart(self) -> None:
        if self.generator.device.type == "cuda":
            self.generator.cuda_graphs = self.graphs
        self.generator(self.prompt)

    def step(self) -> None:
        self.generator(self.token, **{cache_name(): self.generator.held})


def compiled_or_loaded(
    model: Any, folder: str | None, name: str, sizes: dict[str, Any], settings: dict[str, Any]
) -> Any:
    place = None if folder is None else pathlib.Path(folder) / name.replace(", ", "-")
    if place is not None and (place / "trtcore.json").exists():
        print(f"{name}: from {place}; the sizes are those that it was compiled for")
        return load_for_generation(place)
    generator = compile_for_generation(model, **sizes, **settings)
    if place is not None:
        generator.save(place)
    return generator


@torch.no_grad()
def measured(options: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    length, position, steps = options.length, options.position, options.steps
    batches = [int(text) for text in options.batch.split(",")]
    model = built(options.tiny, device, length)
    weights = sum(weight.nbytes for weight in {id(w): w for w in model.parameters()}.values())
    sizes = {
        "max_batch": options.max_batch or max(batches),
        "max_length": length,
        "max_prompt": position,
        "runtime": "reference",
    }
    contestants: dict[str, Any] = {}
    for name, settings in (("ours", {}), ("ours, cut", {"fused_ops": options.fused_ops.split(",")})):
        if name == "ours" or options.cut:
            used = torch.cuda.memory_allocated() if device == "cuda" else 0
            began = time.perf_counter()
            generator = contestants[name] = compiled_or_loaded(model, options.folder, name, sizes, settings)
            for part in ("prefill", "decode"):
                report = getattr(generator, part).report
                print(f"{name}, {part}: " + report.summary().splitlines()[0].strip())
            generator(torch.ones(1, position, dtype=torch.int64, device=device))
            generator(torch.ones(1, 1, dtype=torch.int64, device=device), **{cache_name(): generator.held})
            took = time.perf_counter() - began
            print(f"{name}: compiled in {took:.0f} s")
            if device == "cuda":
                held = (torch.cuda.memory_allocated() - used) / 2**20
                caches = sum(one.nbytes for one in (*generator.held.keys, *generator.held.values)) / 2**20
                print(
                    f"{name}: {held:.0f} MiB on the GPU; the weights are {weights / 2**20:.0f}, the cache {caches:.0f}"
                )
    rows = []
    for batch in batches:
        row: dict[str, Any] = {"batch": batch}
        forwards = {"eager": model.forward}
        if options.compile:
            torch._dynamo.reset()
            mode = "reduce-overhead" if device == "cuda" else "default"
            forwards["torch.compile"] = torch.compile(model.forward, mode=mode, fullgraph=True)
        for name, forward in forwards.items():
            eager = Eager(model, forward, batch, length, position)
            row[name] = timed(eager.step, eager.restart, steps, options.repeats, device)
            del eager
        rows.append(row)

    def ours(name: str, generator: Any, graphs: bool) -> None:
        key = f"{name}, CUDA graph" if graphs else name
        for row in rows:
            contestant = Ours(generator, row["batch"], position, graphs)
            row[key] = timed(contestant.step, contestant.restart, steps, options.repeats, device)

    torch._dynamo.reset()
    for name, generator in contestants.items():
        for graphs in (False, True) if device == "cuda" else (False,):
            ours(name, generator, graphs)
    contestants["ours"].fuse()
    ours("ours, fused", contestants["ours"], device == "cuda")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds, and torch.compile's time over each (1.0: as fast, 0.9: an eleventh slower)."""
    names = [name for name in rows[0] if name != "batch"]
    lines = ["| batch | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        base = row.get("torch.compile")
        cells = [f"{row[name]:.3f} ms" + (f" ({base / row[name]:.2f})" if base else "") for name in names]
        lines.append(f"| {row['batch']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--length", type=int, default=1024, help="places of the cache")
    parser.add_argument("--position", type=int, default=512, help="tokens before the first step")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a small model, on the CPU where there is no GPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile")
    parser.add_argument("--cut", action="store_true", help="also with the setting fused_ops")
    parser.add_argument("--fused-ops", default=FUSED)
    parser.add_argument(
        "--folder", help="keep compiled models here, and take them from here (for the same sizes only)"
    )
    parser.add_argument(
        "--max-batch", type=int, help="texts that ours is compiled for; by default the largest of --batch"
    )
    parser.add_argument("--json", help="where to write the rows")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        parser.error("this needs an NVIDIA GPU; --tiny runs on a CPU")
    if options.position + options.steps > options.length:
        parser.error("--position and --steps together are more than --length")
    rows = measured(options, device)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
