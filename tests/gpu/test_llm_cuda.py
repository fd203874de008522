"""Language models of transformers behind their own ``generate`` on a GPU, in the reference runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("full_precision")]
transformers = pytest.importorskip("transformers")
PACK = Path(__file__).parent.parent.parent / "contrib" / "trtcore-contrib-llm"
SIZES = {"max_batch": 3, "max_length": 256, "max_prompt": 32, "runtime": "reference"}


@pytest.fixture(scope="module")
def pack() -> Any:
    sys.path.insert(0, str(PACK))
    import trtcore_contrib_llm

    return trtcore_contrib_llm


def made(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    kind_of = getattr(transformers, f"{kind}ForCausalLM")
    config = kind_of.config_class(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, bos_token_id=1, eos_token_id=None, pad_token_id=0, **changes,
    )  # fmt: skip
    model = kind_of(config).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() >= 2:
            nn.init.normal_(weight, std=0.2)
    return model.cuda()


def prompt(rows: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(2, 97, (rows, 21), device="cuda")
    mask = torch.ones_like(tokens)
    for row in range(rows):
        mask[row, : row * 2] = 0
    return {"inputs": tokens * mask, "attention_mask": mask}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Llama", {}),
        ("Mistral", {"sliding_window": 8}),
        ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2}),
    ],
    ids=["Llama", "a sliding window", "experts"],
)
def test_200_tokens_equal_eager_under_a_cuda_graph(
    pack: Any, tmp_path: Path, kind: str, changes: Any
) -> None:
    """Whatever the number of texts, recorded or not, and loaded from a folder."""
    model = made(kind, **changes)
    generator = pack.compile_for_generation(model, **SIZES)
    assert generator.cuda_graphs
    for rows in (1, 3):
        want = model.generate(**prompt(rows), max_new_tokens=200, do_sample=False)
        assert len(want[:, -40:].unique()) > 8
        for graphs in (True, False):
            generator.cuda_graphs = graphs
            got = generator.generate(**prompt(rows), max_new_tokens=200, do_sample=False)
            assert torch.equal(got, want), f"{rows} texts, CUDA graphs {graphs}"
    generator.cuda_graphs = True
    generator.fuse()
    for rows in (1, 3):
        want = model.generate(**prompt(rows), max_new_tokens=200, do_sample=False)
        got = generator.generate(**prompt(rows), max_new_tokens=200, do_sample=False)
        assert torch.equal(got, want), f"{rows} texts, fused"
    generator.save(tmp_path / "model")
    loaded = pack.load_for_generation(tmp_path / "model")
    assert loaded.device.type == "cuda"
    got = loaded.generate(**prompt(3), max_new_tokens=200, do_sample=False)
    assert torch.equal(got, want)
    beams = {"num_beams": 3, "max_new_tokens": 40, "do_sample": False}
    assert torch.equal(loaded.generate(**prompt(1), **beams), model.generate(**prompt(1), **beams))


@torch.no_grad()
def test_the_weights_are_on_the_gpu_once(pack: Any) -> None:
    """Both engines and their CUDA graphs, after steps of every number of texts: half the weights besides, at most."""
    model = made("Llama", tie_word_embeddings=False).cpu()
    config = model.config
    config.hidden_size, config.intermediate_size, config.head_dim = 512, 2048, 128
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False).cuda()
    weights = sum(weight.nbytes for weight in model.parameters())
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    before = torch.cuda.memory_allocated()
    generator = pack.compile_for_generation(model, **SIZES)
    for rows in (1, 2, 3):
        generator.generate(**prompt(rows), max_new_tokens=4, do_sample=False)
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()  # torch keeps 32 MiB for every stream that multiplied, and so for every graph
    caches = sum(one.nbytes for one in (*generator.held.keys, *generator.held.values))
    held = torch.cuda.memory_allocated() - before - caches
    print(
        f"\nweights {weights / 2**20:.1f} MiB, held by the compiled model {held / 2**20:.1f} MiB, caches aside"
    )
    assert held < 1.5 * weights
