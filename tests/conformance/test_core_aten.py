"""Core ATen is covered: every overload is converted, decomposed, refused with a reason, or on the reviewed list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trtcore.packs.loading import build_registry
from trtcore.settings import CompilationSettings
from trtcore.testing import assert_converts, assert_refuses

OUT_OF_SCOPE = json.loads((Path(__file__).parent / "out_of_scope.json").read_text())
SIZES = {
    "aten.sym_size.int",
    "aten.sym_stride.int",
    "aten.sym_numel.default",
    "aten.sym_is_contiguous.default",
}
"""Sizes are expressions over the inputs' shapes and no nodes of an engine."""
WRITES = {"aten.atan2.out"}
"""Becomes its functional twin when the graph is functionalised."""


def _core() -> dict[str, torch._ops.OpOverload]:
    found = {}
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        packet = getattr(torch.ops.aten, name, None) if namespace == "aten" else None
        op = getattr(packet, schema.overload_name or "default", None)
        if op is not None and torch.Tag.core in op.tags:
            found[str(op)] = op
    return found


CORE = _core()


def test_every_overload_is_covered():
    registry = build_registry(CompilationSettings())
    known = (
        {str(op) for op in (*registry.targets, *registry.decompositions)}
        | {str(one.target) for one in registry.refusals}
        | SIZES
        | WRITES
        | set(OUT_OF_SCOPE)
    )
    assert len(CORE) > 150
    assert sorted(set(CORE) - known) == []


def test_the_list_is_short_and_says_why():
    assert len(OUT_OF_SCOPE) <= 15
    assert set(OUT_OF_SCOPE) <= set(CORE)
    assert all(len(reason) > 20 for reason in OUT_OF_SCOPE.values())


def test_nothing_on_the_list_has_a_converter():
    registry = build_registry(CompilationSettings())
    converted = {str(op) for op in registry.targets}
    assert sorted(converted & set(OUT_OF_SCOPE)) == []


def test_sizes_are_no_nodes_of_an_engine():
    def sizes(x):
        rows = torch.ops.aten.sym_size.int(x, 0)
        return x.reshape(torch.ops.aten.sym_numel.default(x)) * rows

    assert_converts(sizes, (torch.rand(3, 4),), dynamic={0: {0: (2, 3, 6)}})


def test_out_variants_become_functional():
    def angle(y, x):
        out = torch.empty_like(x)
        torch.atan2(y, x, out=out)
        return out * 2

    assert_converts(angle, (torch.randn(5), torch.randn(5)))


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (torch.rand_like, (torch.rand(64),), "torch's generator"),
        (lambda x: x + torch.randn(64), (torch.rand(64),), "torch's generator"),
        (lambda x: x[torch.randperm(64)], (torch.rand(64),), "torch's generator"),
        (torch.bernoulli, (torch.full((64,), 0.5),), "torch's generator"),
        (torch.nextafter, (torch.rand(3), torch.rand(3)), "bits of a number"),
    ],
)
def test_refusals_say_why(function, inputs, reason):
    random = "generator" in reason
    if not random:
        assert_refuses(function, inputs, reason)
        return
    from trtcore import compile as compile_model

    class Model(torch.nn.Module):
        def forward(self, *args):
            return function(*args)

    compiled = compile_model(Model(), inputs=inputs, min_block_size=1, runtime="reference")
    assert any(reason in node.reason for node in compiled.report.in_torch)
    torch.manual_seed(3)
    expected = function(*inputs)
    torch.manual_seed(3)
    assert torch.equal(compiled(*inputs), expected)
    assert not torch.equal(compiled(*inputs), expected)
