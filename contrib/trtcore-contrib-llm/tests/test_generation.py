"""Language models of transformers behind their own ``generate``, beside eager."""

from __future__ import annotations

import copy
import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from trtcore_contrib_llm import compile_for_generation, load_for_generation

import trtcore
from trtcore.pack import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
transformers = pytest.importorskip("transformers")

WORDS, LENGTH, BATCH = 97, 224, 4
SMALL = {
    "vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": LENGTH,
    "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip


def made(kind: str, **changes: Any) -> Any:
    """A small model with random weights that say something."""
    torch.manual_seed(0)
    kind_of = getattr(transformers, kind if "LMHead" in kind else f"{kind}ForCausalLM")
    model = kind_of(kind_of.config_class(**{**SMALL, **changes})).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() >= 2:
            nn.init.normal_(weight, std=0.2)
    return model


def prompts(rows: int, length: int, padded: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(2, WORDS, (rows, length))
    mask = torch.ones_like(tokens)
    if padded:
        for row in range(rows):
            mask[row, : row * 2] = 0
    return {"inputs": tokens * mask, "attention_mask": mask}


def assert_same_tokens(got: Any, want: Any, **how: Any) -> None:
    """Both give the same tokens, and not always one and the same."""
    torch.manual_seed(2)
    wanted = want.generate(**how)
    torch.manual_seed(2)
    found = got.generate(**how)
    assert len(wanted[:, -40:].unique()) > 8
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def cache_name() -> str:
    """What this transformers calls the cache."""
    fields = transformers.modeling_outputs.CausalLMOutputWithPast.__dataclass_fields__
    return "cache" if "cache" in fields else "past_key_values"


def compiled(model: Any, **changes: Any) -> Any:
    settings = {"max_batch": BATCH, "max_length": LENGTH, "max_prompt": 24, "runtime": "reference", **changes}
    return compile_for_generation(model, **settings)


def assert_whole(generator: Any) -> None:
    """A prompt and a step are an engine each, with every op of the model in it."""
    for part in (generator.prefill, generator.decode):
        report = part.report
        assert len(report.engines) == 1, report
        assert report.fully_converted, report
        assert not report.quarantined, report


@pytest.fixture(scope="module")
def llama() -> Any:
    return made("Llama")


@pytest.fixture(scope="module")
def generator(llama: Any) -> Any:
    return compiled(llama)


@pytest.mark.slow
def test_200_tokens_equal_eager(llama: Any, generator: Any) -> None:
    assert_whole(generator)
    assert_same_tokens(generator, llama, **prompts(1, 9), max_new_tokens=200, do_sample=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": True, "top_k": 12, "temperature": 1.3},
        {"do_sample": False, "num_beams": 2},
        {"do_sample": True, "num_return_sequences": 2, "repetition_penalty": 1.2},
    ],
    ids=["sampling", "beams", "several of each"],
)
@pytest.mark.parametrize("length", [1, 6, 61], ids=["a token", "a prompt", "a prompt in three pieces"])
def test_ways_to_generate(llama: Any, generator: Any, how: dict[str, Any], length: int) -> None:
    """Prompts of different length in one batch, padded on the left."""
    assert_same_tokens(generator, llama, **prompts(2, length, length > 4), max_new_tokens=40, **how)


@pytest.mark.slow
@pytest.mark.parametrize("rows", range(1, BATCH + 1))
def test_any_batch_up_to_the_largest(llama: Any, generator: Any, rows: int) -> None:
    assert_same_tokens(generator, llama, **prompts(rows, 11, True), max_new_tokens=40, do_sample=False)


@pytest.mark.slow
def test_a_text_goes_on_where_it_stopped(llama: Any, generator: Any) -> None:
    """A second turn on the cache of the first."""
    name = (
        "cache"
        if hasattr(transformers.modeling_outputs.CausalLMOutputWithPast(), "cache")
        else "past_key_values"
    )
    how = {"do_sample": False, "return_dict_in_generate": True, "max_new_tokens": 12}
    found = []
    for model in (generator, llama):
        first = model.generate(**prompts(1, 9), **how)
        longer = torch.cat([first.sequences, torch.tensor([[5, 6, 7]])], 1)
        second = model.generate(longer, attention_mask=torch.ones_like(longer), **how, **{name: first[name]})
        found.append(second.sequences)
    torch.testing.assert_close(*found, rtol=0, atol=0)


WINDOW = {"sliding_window": 8, "head_dim": 16}
EXPERTS = {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Qwen3": {"head_dim": 16},
    "Gemma3": {
        **WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
    },
    "Gemma2": {**WINDOW, "tie_word_embeddings": False},  # scores are capped
    "Mistral": WINDOW,
    "Phi": {},
    "GPT2LMHeadModel": {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": LENGTH},
    "Qwen3Moe": EXPERTS,
    "Mixtral": {"num_local_experts": 4},
    "GptOss": {
        **WINDOW,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },  # attention with sinks: writes in the engine
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_architectures(kind: str) -> None:
    """Windows, experts, learned positions, capped scores: 200 tokens of two texts of different length."""
    model = made(kind, **ARCHITECTURES[kind])
    generator = compiled(model, max_batch=2)
    assert_whole(generator)
    # The step leaves the cache as it is, where a model's attention lets it.
    written_back = [str(node.target) for node in generator.decode.graph.nodes if "copy_" in str(node.target)]
    assert bool(written_back) == (kind == "GptOss")
    assert_same_tokens(generator, model, **prompts(2, 21, True), max_new_tokens=200, do_sample=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_16_bits_are_as_near_as_eager(dtype: torch.dtype) -> None:
    """Fed with float32 eager's tokens, no further from its logits than eager in 16 bits, and a quarter."""
    exact = made("Llama")
    eager = copy.deepcopy(exact).to(dtype)
    generator = compiled(eager)
    assert generator.dtype == dtype
    name = cache_name()
    tokens = prompts(2, 12)["inputs"]
    far, eager_far = [], []
    caches = {"exact": None, "eager": None, "ours": None}
    for _ in range(24):
        logits = {}
        for key, model in (("exact", exact), ("eager", eager), ("ours", generator)):
            result = model(tokens, use_cache=True, **{name: caches[key]})
            caches[key], logits[key] = result[name], result.logits[:, -1].float()
        far.append(logits["ours"] - logits["exact"])
        eager_far.append(logits["eager"] - logits["exact"])
        tokens = logits["exact"].argmax(-1, keepdim=True)
    assert torch.stack(far).norm() <= 1.25 * torch.stack(eager_far).norm()


@pytest.mark.slow
def test_steps_whose_small_ops_are_generated_kernels() -> None:
    model = made("Llama", num_hidden_layers=1)
    generator = compiled(model, max_batch=1).fuse()
    assert_same_tokens(generator, model, **prompts(1, 9), max_new_tokens=60, do_sample=False)


LOADED = """
    import sys, torch
    from trtcore_contrib_llm import load_for_generation
    torch.set_num_threads(1)
    generator = load_for_generation(sys.argv[1])
    tokens = generator.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=40, do_sample=False)
    print(tokens.tolist())
    compilers = ("trtcore.frontend", "trtcore.lowering", "trtcore.conversion", "trtcore.engine.", "trtcore_converters")
    print([name for name in sys.modules if name.startswith(compilers)])
"""


@pytest.mark.slow
def test_saved_and_loaded_without_a_compiler(generator: Any, tmp_path: Path) -> None:
    """In a process of its own, in which no module of the compiler is loaded: nothing can be traced or built."""
    generator.save(tmp_path / "llama")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOADED), str(tmp_path / "llama")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    tokens, compilers = run.stdout.splitlines()[-2:]
    want = generator.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=40, do_sample=False)
    assert tokens == str(want.tolist())
    assert compilers == "[]"


def constants_of(module: Any) -> dict[int, int]:
    """Address and bytes of what the engines of a module hold, small constants aside."""
    found = {}
    for node in module.graph.nodes:
        if "execute_engine" not in str(node.target):
            continue
        engine = trtcore.runtime.get_engine(trtcore.runtime.EngineManifest.from_json(node.args[3]).id)
        for layer in engine.artifact.layers():
            for tensor in layer.constants.values():
                if tensor.nbytes > 4096:
                    found[tensor.data_ptr()] = tensor.nbytes
    return found


@pytest.mark.slow
def test_both_engines_hold_the_weights_once(generator: Any, llama: Any, tmp_path: Path) -> None:
    generator.save(tmp_path / "llama")
    for one in (generator, load_for_generation(tmp_path / "llama")):
        prefill, decode = constants_of(one.prefill), constants_of(one.decode)
        weights = sum(weight.nbytes for weight in llama.parameters() if weight.nbytes > 4096)
        assert sum(prefill.values()) >= weights
        assert {**prefill, **decode} == prefill


@pytest.mark.slow
def test_the_readme_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


# What is not supported -------------------------------------------------------------------------------------


def test_sizes_that_cannot_be() -> None:
    for sizes, words in (
        ({"max_batch": 0, "max_length": 8}, "max_batch is 0; it must be an int, at least 1"),
        ({"max_batch": 1, "max_length": 1}, "max_length is 1; it must be an int, at least 2"),
        ({"max_batch": 1, "max_length": 8, "max_prompt": 9}, "max_prompt is 9, more than the 8"),
        ({"max_batch": 1, "max_length": 8, "opt_batch": 2}, "opt_batch is 2, more than the 1"),
    ):
        with pytest.raises(InputError, match=words):
            compile_for_generation(made("Llama"), **sizes)


def test_models_that_are_not_supported() -> None:
    for model, words in (
        (
            nn.Linear(2, 2),
            "takes a ...ForCausalLM or ...ForConditionalGeneration of transformers, and Linear is none",
        ),
        (
            made("Llama", attn_implementation="flex_attention"),
            "by 'flex_attention'; supported are eager, sdpa",
        ),
        (made("Llama").double(), "weights of LlamaForCausalLM are in torch.float64; supported are float32"),
    ):
        with pytest.raises(InputError, match=words):
            compile_for_generation(model, 1, 16)


def test_without_transformers_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name)
    )
    for call in (
        lambda: compile_for_generation(nn.Linear(2, 2), 1, 8),
        lambda: load_for_generation("nowhere"),
    ):
        with pytest.raises(ImportError, match="needs transformers 5 or newer: pip install transformers"):
            call()


def test_quantised_weights_and_other_states_are_refused() -> None:
    quantised = made("Llama")
    scheme = transformers.BitsAndBytesConfig(load_in_8bit=True)
    quantised.hf_quantizer = SimpleNamespace(quantization_config=scheme)
    mamba = transformers.MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=WORDS, state_size=4)
    for model, words in (
        (
            quantised,
            "the weights of LlamaForCausalLM are quantised by bitsandbytes; supported are weights in float32",
        ),
        (
            transformers.MambaForCausalLM(mamba),
            "MambaForCausalLM keeps .* from token to token; supported are caches",
        ),
        (
            made("GPT2LMHeadModel", n_positions=LENGTH, n_embd=64, n_head=4),
            "embeddings for 224 positions only",
        ),
    ):
        with pytest.raises(InputError, match=words):
            compile_for_generation(model, 1, LENGTH + 1)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(trtcore.errors.ArtifactError, match="holds no compiled language model"):
        load_for_generation(tmp_path)


@pytest.mark.slow
def test_calls_that_are_not_supported(llama: Any, generator: Any) -> None:
    tokens = prompts(1, 9)
    for how, words in (
        ({"max_new_tokens": LENGTH}, "233 tokens are asked for, and the cache has room for max_length=224"),
        ({"num_beams": 5}, r"5 texts \(beams and returned sequences counted\) are more than max_batch=4"),
        ({"assistant_model": llama}, "assistant_model is not supported by a compiled model"),
        ({"cache_implementation": "static"}, "cache_implementation is not supported"),
        ({"use_cache": False}, "cannot be without its cache"),
        (
            {"past_key_values": transformers.DynamicCache()},
            "DynamicCache is not supported; supported is the model's",
        ),
    ):
        with pytest.raises(InputError, match=words):
            generator.generate(**tokens, **how)
    with pytest.raises(InputError, match="labels is not supported"):
        generator(tokens["inputs"], labels=tokens["inputs"])
    with pytest.raises(InputError, match="takes input_ids, and no embeddings"):
        generator(inputs_embeds=torch.zeros(1, 2, 64))
