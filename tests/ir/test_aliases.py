"""Composite ops that are not run again to see whether they hand on their argument's memory: they never do."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from trtcore.ir.op_rules import COMPUTING
from trtcore.testing.opinfo import operators, samples

OTHERS = {"cross_entropy_loss": "nn.functional.cross_entropy"}
NO_SAMPLES = {"gru", "lstm", "rnn_relu", "rnn_tanh"}


@pytest.mark.parametrize("name", sorted(COMPUTING - NO_SAMPLES))
def test_the_result_is_memory_of_its_own(name: str) -> None:
    known = {one for one, _ in operators()}
    op = next(one for one in (OTHERS.get(name), f"nn.functional.{name}", name) if one in known)
    for sample in samples(op, torch.float32, limit=20):
        given = {tensor.untyped_storage().data_ptr() for tensor in sample.tensors if tensor.numel()}
        made = [
            one for one in pytree.tree_leaves(sample.run()) if isinstance(one, torch.Tensor) and one.numel()
        ]
        assert not given & {one.untyped_storage().data_ptr() for one in made}, sample.call_text()


@pytest.mark.parametrize("kind", [torch.nn.GRU, torch.nn.LSTM, torch.nn.RNN])
def test_so_is_a_recurrent_networks(kind: type[torch.nn.Module]) -> None:
    x = torch.randn(3, 2, 4)
    made = pytree.tree_leaves(kind(4, 4)(x))
    assert x.untyped_storage().data_ptr() not in {one.untyped_storage().data_ptr() for one in made}


def test_they_are_composite_ops_without_a_word_on_memory() -> None:
    for name in COMPUTING:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            assert all(
                one.alias_info is None or "out" in overload
                for one in getattr(packet, overload)._schema.returns
            )
