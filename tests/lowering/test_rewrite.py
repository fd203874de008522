"""What passes build replacements with: FakeTensors and provenance on every node."""

from __future__ import annotations

import torch
from torch.export import Dim

from trtcore.frontend.export import program_from_exported
from trtcore.lowering.rewrite import insert_call, insert_constant

aten = torch.ops.aten


class Scaled(torch.nn.Module):
    def forward(self, x):
        return (torch.relu(x),)


def graph_of(dynamic=None):
    exported = torch.export.export(Scaled(), (torch.randn(4, 3),), dynamic_shapes=dynamic)
    return program_from_exported(exported).graph_module


def relu_of(graph_module):
    return next(node for node in graph_module.graph.nodes if node.target is aten.relu.default)


def test_a_call_has_what_its_op_gives_also_where_sizes_vary():
    graph_module = graph_of({"x": {0: Dim("n", min=2, max=8)}})
    relu = relu_of(graph_module)
    made = insert_call(relu, aten.transpose.int, (relu.args[0], 0, 1))
    source = relu.args[0].meta["val"]
    assert made.meta["val"].fake_mode is source.fake_mode
    assert [str(dim) for dim in made.meta["val"].shape] == ["3", str(source.shape[0])]
    assert made.meta["nn_module_stack"] == relu.meta["nn_module_stack"]
    assert made.meta["stack_trace"] == relu.meta["stack_trace"]
    assert made.next is relu


def test_a_constant_is_a_buffer_that_is_read():
    graph_module = graph_of()
    relu = relu_of(graph_module)
    value = torch.randn(3, dtype=torch.float16)
    one, two = (insert_constant(graph_module, relu, value) for _ in range(2))
    assert one.target != two.target
    assert getattr(graph_module, one.target).data_ptr() == value.data_ptr()
    assert one.meta["val"].dtype == torch.float16
    assert isinstance(one.meta["val"], torch._subclasses.FakeTensor)
    relu.update_arg(0, insert_call(relu, aten.add.Tensor, (relu.args[0], one)))
    graph_module.graph.lint()
    graph_module.recompile()
    x = torch.randn(4, 3)
    torch.testing.assert_close(graph_module(x)[0], torch.relu(x + value))
