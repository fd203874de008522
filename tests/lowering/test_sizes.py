"""No pass turns a dynamic size into a number."""

from __future__ import annotations

import pytest
import torch

import trtcore
from trtcore.pack import hookimpl, scoped_registry
from trtcore.packs.loading import PackWarning, register_pack
from trtcore.packs.model import LoweringPass


class Counts(torch.nn.Module):
    """Makes a tensor out of a size alone, beside a write that only torch's functionalisation understands."""

    def forward(self, x):
        y = x + 1
        y[0].mul_(2)
        return y * torch.arange(x.shape[0]).unsqueeze(1)


BATCH = trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(4, 4))


def test_functionalisation_leaves_sizes_open():
    compiled = trtcore.compile(Counts(), inputs=[BATCH], min_block_size=1)
    for batch in (1, 2, 3, 4):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(compiled(x), Counts()(x))


class Fixing:
    """A pack with a pass that compares a size, which torch answers by fixing it."""

    @hookimpl
    def lowering_passes(self):
        def fix(graph_module, ctx):
            (node,) = graph_module.graph.find_nodes(op="placeholder")
            int(node.meta["val"].shape[0])

        return [LoweringPass("fix", fix)]


def test_a_pass_that_fixes_a_size_is_undone():
    with scoped_registry():
        register_pack(Fixing(), name="fixing")
        with pytest.warns(
            PackWarning, match=r"pass 'fix' of .* fixed dim 0 of input 'input', which is dynamic, to 2"
        ):
            compiled = trtcore.compile(torch.nn.ReLU(), inputs=[BATCH], min_block_size=1)
    for batch in (1, 2, 3, 4):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(compiled(x), x.relu())
