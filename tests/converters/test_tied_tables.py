"""A table that is an embedding and the head's weight is in the plan once, whatever its number of rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trtcore
from trtcore import Input

pytestmark = pytest.mark.usefixtures("trt_backend")


class Tied(nn.Module):
    def __init__(self, rows: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(rows, 64, dtype=dtype)
        self.head = nn.Linear(64, rows, bias=False, dtype=dtype)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.embedding(ids)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("rows", [5001, 5002])
def test_a_tied_table_is_in_the_plan_once(rows, dtype):
    model = Tied(rows, dtype).eval()
    length = Input(min_shape=(1, 2), opt_shape=(2, 8), max_shape=(4, 16), dtype=torch.int64)
    compiled = trtcore.compile(model, [length], min_block_size=1)
    assert not compiled.report.in_torch
    table = model.head.weight.numel() * model.head.weight.element_size()
    # One copy, and what a plan holds besides; twice without the padding.
    assert table < compiled.report.engine_bytes < 1.4 * table + (200 << 10)
    ids = torch.randint(0, rows, (3, 5))
    ids[0, 0] = rows - 1
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(compiled(ids), model(ids), rtol=tolerance, atol=tolerance)


def test_weights_that_must_stay_the_models_own_are_not_padded():
    from types import SimpleNamespace

    from trtcore.frontend.export import program_from_exported
    from trtcore_converters.passes.tables import pad_tied_tables

    exported = torch.export.export(Tied(5001).eval(), (torch.zeros(1, 2, dtype=torch.int64),))
    for immutable, expected in ((False, 1), (True, 2)):
        graph_module = program_from_exported(exported).graph_module
        ctx = SimpleNamespace(settings=SimpleNamespace(immutable_weights=immutable))
        pad_tied_tables(graph_module, ctx)
        graph_module.graph.lint()
        assert len([n for n in graph_module.graph.nodes if n.op == "get_attr"]) == expected
