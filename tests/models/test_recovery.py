"""Models that write attention, normalisation and rotary embeddings out become the layers of those names."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import zoo

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("bert", {"ATTENTION_INPUT": 2, "SOFTMAX": 0}),
        ("llama", {"ATTENTION_INPUT": 2, "SOFTMAX": 0, "ROTARY_EMBEDDING": 4}),
    ],
)
def test_eager_attention(name: str, layers: dict[str, int]) -> None:
    arch = zoo.ARCHITECTURES[name]
    model = copy.deepcopy(arch.build(True))
    model.set_attn_implementation("eager")
    result = zoo.run(arch, model, True, "fp32", True)
    (snapshot,) = zoo.snapshots(result.compiled)
    found = Counter(layer.type for layer in snapshot.layers)
    assert {kind: found[kind] for kind in layers} == layers
    assert max(result.errors.values()) <= 1e-5
