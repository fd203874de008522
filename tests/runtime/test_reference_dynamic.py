"""Shapes known only at run time, where tensors live, and what the compiled graph looks like."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from reference_networks import Network, run, trt
from torch.testing import assert_close

from trtcore.errors import InputError
from trtcore_reference import compile_snapshot

SUM, PROD = trt.ElementWiseOperation.SUM, trt.ElementWiseOperation.PROD


def out(layer):
    return layer.get_output(0)


def dim(n, shape, index):
    """One dim of a shape tensor, as a tensor of shape (1,)."""
    return out(n.net.add_slice(shape, (index,), (1,), (1,)))


def reshape(n, x, parts):
    target = n.net.add_concatenation(parts)
    target.axis = 0
    layer = n.net.add_shuffle(x)
    layer.set_input(1, out(target))
    return out(layer)


def permute(n, x, order):
    layer = n.net.add_shuffle(x)
    layer.first_transpose = order
    return out(layer)


class Block(torch.nn.Module):
    """A transformer block with a causal mask made from positions, so that shapes feed both sides."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.out = torch.nn.Linear(width, width)
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.reshape(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x).split(width, -1)
        )
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y = y.transpose(1, 2).reshape(batch, length, width)
        return self.norm(x + self.out(y))


def block_network(block: Block) -> Network:
    n = Network()
    width, heads = block.width, block.heads
    x = n.net.add_input("x", trt.float32, (-1, -1, width))
    shape = out(n.net.add_shape(x))
    batch, length = dim(n, shape, 0), dim(n, shape, 1)

    def linear(value, layer):
        weight = n.constant(layer.weight.detach()[None])
        product = n.net.add_matrix_multiply(
            value, trt.MatrixOperation.NONE, weight, trt.MatrixOperation.TRANSPOSE
        )
        bias = n.constant(layer.bias.detach().reshape(1, 1, -1))
        return out(n.net.add_elementwise(out(product), bias, SUM))

    def arange(axis):
        layer = n.net.add_fill((1,), trt.FillOperation.LINSPACE, trt.int64)
        layer.set_input(0, length)
        layer.set_input(1, n.constant(0, torch.int64))
        layer.set_input(2, n.constant([1], torch.int64))
        one = n.constant([1], torch.int64)
        return reshape(n, out(layer), [length, one] if axis == 0 else [one, length])

    projected = linear(x, block.qkv)
    tail = n.constant([heads, width // heads], torch.int64)
    parts = []
    for i in range(3):
        size = n.net.add_concatenation([batch, length, n.constant([width], torch.int64)])
        size.axis = 0
        part = n.net.add_slice(projected, (0, 0, i * width), (0, 0, 0), (1, 1, 1))
        part.set_input(2, out(size))
        parts.append(permute(n, reshape(n, out(part), [batch, length, tail]), (0, 2, 1, 3)))
    scale = n.constant(torch.full((1, 1, 1, 1), (width // heads) ** -0.5))
    query = out(n.net.add_elementwise(parts[0], scale, PROD))
    above = out(n.net.add_elementwise(arange(1), arange(0), trt.ElementWiseOperation.GREATER))
    allowed = out(n.net.add_unary(above, trt.UnaryOperation.NOT))
    one = n.constant([1, 1], torch.int64)
    mask = reshape(n, allowed, [one, length, length])
    attention = n.net.add_attention_v2(
        query, parts[1], parts[2], trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.NONE
    )
    attention.mask, attention.decomposable = mask, True
    y = permute(n, attention.get_output(0), (0, 2, 1, 3))
    y = linear(reshape(n, y, [batch, length, n.constant([width], torch.int64)]), block.out)
    added = out(n.net.add_elementwise(x, y, SUM))
    weight, bias = (n.constant(p.detach().reshape(1, 1, -1)) for p in (block.norm.weight, block.norm.bias))
    n.result = out(n.net.add_normalization_v2(added, weight, bias, 4))
    return n


@pytest.fixture(scope="module")
def block():
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="module")
def module(block):
    network = block_network(block)
    return compile_snapshot(network.snapshot(network.result))


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (3, 8)])
def test_transformer_block(block, module, shape):
    x = torch.randn(*shape, block.width)
    with torch.no_grad():
        assert_close(module(x)[0], block(x), rtol=1e-5, atol=1e-6)


def test_data_and_shapes_on_two_devices(module):
    """On another device than the CPU only shapes stay behind: meta tensors would refuse to meet CPU ones."""
    (result,) = module(torch.empty(2, 5, 16, device="meta"))
    assert result.device.type == "meta"
    assert result.shape == (2, 5, 16)


@pytest.mark.gpu
def test_on_a_gpu(block, module):
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        assert_close(module(x.cuda())[0].cpu(), block(x), rtol=1e-4, atol=1e-5)


def test_constants_are_staged_once_per_device(module):
    module.constants.release()
    module(torch.randn(1, 2, 16))
    first = module.constants.stage(torch.device("cpu"))
    assert module.constants.stage(torch.device("cpu")) is first
    module(torch.empty(1, 2, 16, device="meta"))
    assert {d.type for d in module.constants._staged} == {"cpu", "meta"}
    module.constants.release(torch.device("meta"))
    assert {d.type for d in module.constants._staged} == {"cpu"}


def test_constants_are_no_parameters(module):
    """`.to()`, `state_dict` and `deepcopy` leave the constants alone, and nothing of the model is copied."""
    assert not list(module.parameters())
    assert not list(module.buffers())
    assert not module.state_dict()
    again = copy.deepcopy(module)
    assert again.constants is module.constants
    x = torch.randn(1, 3, 16)
    assert torch.equal(again(x)[0], module(x)[0])


def test_weights_are_not_copied(block):
    network = block_network(block)
    module = compile_snapshot(network.snapshot(network.result))
    owned = {t.untyped_storage().data_ptr() for t in module.constants._tensors}
    large = {p.untyped_storage().data_ptr() for p in (block.qkv.weight, block.out.weight)}
    assert large <= owned


def test_one_call_per_common_layer(module):
    """The hot path holds torch's own functions, a linear layer with its bias being one."""
    called = [node.target for node in module.graph.nodes if node.op == "call_function"]
    assert called.count(F.linear) == 2
    assert F.layer_norm in called
    assert torch.matmul not in called


def test_outputs_own_their_memory():
    def build(n, a):
        same, turned = n.net.add_identity(a), n.net.add_shuffle(a)
        turned.first_transpose = (1, 0)
        flat = n.net.add_shuffle(a)
        flat.reshape_dims = (6,)
        return out(same), out(turned), out(flat), n.constant([1.0, 2.0])

    x = torch.arange(6.0).reshape(2, 3)
    first = run(build, x)
    kept = [result.clone() for result in first]
    assert all(result.is_contiguous() for result in first)
    first[0].zero_(), first[3].zero_()
    assert torch.equal(x, torch.arange(6.0).reshape(2, 3))
    for later, earlier in zip(run(build, x), kept, strict=True):
        assert torch.equal(later, earlier)


def test_shape_tensor_inputs_from_any_device():
    """Integers that a reshape reads are fetched; the data stays."""

    def build(n, a, d):
        layer = n.net.add_shuffle(a)
        layer.set_input(1, d)
        return out(layer)

    x, target = torch.randn(2, 6), torch.tensor([4, 3])
    assert torch.equal(run(build, x, target, shapes=((2, 6), (2,))), x.reshape(4, 3))


def test_float_shape_arithmetic():
    """Shapes may pass through floats: half of the length, rounded down, as an interpolation computes it."""

    def build(n, a):
        size = n.net.add_shape(a)
        real = out(n.net.add_cast(out(size), trt.float32))
        half = out(n.net.add_elementwise(real, n.constant([0.5]), PROD))
        size = out(n.net.add_cast(half, trt.int64))
        layer = n.net.add_slice(a, (0,), (0,), (1,))
        layer.set_input(2, size)
        return out(layer)

    for length in (2, 5, 9):
        x = torch.randn(length)
        assert torch.equal(run(build, x, shapes=((-1,),)), x[: length // 2])


def test_dynamic_zero_placeholder():
    def build(n, a):
        layer = n.net.add_shuffle(a)
        layer.reshape_dims = (0, -1)
        return out(layer)

    for batch in (1, 4):
        x = torch.randn(batch, 3, 4)
        assert torch.equal(run(build, x, shapes=((-1, 3, 4),)), x.flatten(1))


def test_dynamic_convolution_same_padding():
    weight = torch.randn(4, 3, 3, 3)

    def build(n, a):
        layer = n.net.add_convolution_nd(a, 4, (3, 3), trt.Weights(weight.numpy()), trt.Weights())
        layer.stride_nd = (2, 2)
        layer.padding_mode = trt.PaddingMode.SAME_UPPER
        return out(layer)

    for size in (6, 7, 9):
        x = torch.randn(1, 3, size, size)
        total = max((-(size // -2) - 1) * 2 + 3 - size, 0)
        low, high = total // 2, total - total // 2
        want = F.conv2d(F.pad(x, (low, high, low, high)), weight, stride=2)
        assert_close(run(build, x, shapes=((1, 3, -1, -1),)), want)


def test_data_dependent_size():
    def build(n, a):
        found = n.net.add_non_zero(a)
        return out(found), out(n.net.add_shape(out(found)))

    x = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    places, size = run(build, x)
    assert places.tolist() == [[0, 1], [1, 0]]
    assert size.tolist() == [2, 2]


def test_int64_linspace():
    def build(n, a):
        layer = n.net.add_fill((4,), trt.FillOperation.LINSPACE, trt.int64)
        layer.alpha, layer.beta = 3, 2
        return out(n.net.add_elementwise(out(layer), a, SUM))

    big = 2**53 + 1
    assert run(build, torch.full((4,), big)).tolist() == [big + 3, big + 5, big + 7, big + 9]


def test_constants_are_folded(module):
    """A transposed, scaled constant is computed once; what only constants decide is no call at run time."""

    def network():
        n = Network()
        x = n.input(torch.zeros(3, 2))
        turned = n.net.add_shuffle(n.constant(torch.arange(6.0).reshape(2, 3)))
        turned.first_transpose = (1, 0)
        scaled = out(n.net.add_elementwise(out(turned), n.constant(torch.full((1, 1), 2.0)), PROD))
        return n.snapshot(out(n.net.add_elementwise(x, scaled, SUM)))

    module = compile_snapshot(network())
    assert [n.target for n in module.graph.nodes if n.op == "call_function"].count(torch.add) == 1
    assert torch.mul not in [n.target for n in module.graph.nodes]
    want = torch.ones(3, 2) + 2 * torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(module(torch.ones(3, 2))[0], want)


def test_failing_constant_arithmetic_fails_when_it_runs():
    """Not while compiling: nobody may ever use it."""
    n = Network()
    x = n.input(torch.zeros(2, dtype=torch.int32))
    divide = trt.ElementWiseOperation.DIV
    one, zero = n.constant([1, 1], torch.int32), n.constant([0, 0], torch.int32)
    quotient = out(n.net.add_elementwise(one, zero, divide))
    module = compile_snapshot(n.snapshot(out(n.net.add_elementwise(x, quotient, SUM))))
    with pytest.raises(RuntimeError, match="ZeroDivision"):
        module(torch.zeros(2, dtype=torch.int32))


# -- loops and conditionals -----------------------------------------------------------------------


def test_nested_loops():
    """For each row of x, double the running total `inner` times, then add the row."""

    def build(n, x, inner):
        net = n.net
        loop = net.add_loop()
        loop.add_trip_limit(n.constant(3, torch.int32), trt.TripLimit.COUNT)
        row = out(loop.add_iterator(x, 0))
        total = loop.add_recurrence(n.constant(torch.zeros(2)))
        within = net.add_loop()
        within.add_trip_limit(inner, trt.TripLimit.COUNT)
        state = within.add_recurrence(out(total))
        state.set_input(1, out(net.add_elementwise(out(state), out(state), SUM)))
        doubled = out(within.add_loop_output(out(state), trt.LoopOutput.LAST_VALUE, 0))
        total.set_input(1, out(net.add_elementwise(doubled, row, SUM)))
        return out(loop.add_loop_output(out(total), trt.LoopOutput.LAST_VALUE, 0))

    x = torch.randn(3, 2)
    for count in (0, 1, 3):
        want = torch.zeros(2)
        for row in x:
            want = want * 2**count + row
        assert_close(run(build, x, torch.tensor(count, dtype=torch.int32)), want)


def test_an_inner_loop_that_starts_from_constants():
    """For each row, add row + i for i = 0, 1, ... `inner` - 1 in a loop with state and a counter of its own.

    The inner counter depends on nothing outside, and the inner sum only inside its body.
    """

    def build(n, x, inner):
        net = n.net
        loop = net.add_loop()
        loop.add_trip_limit(n.constant(3, torch.int32), trt.TripLimit.COUNT)
        row = out(loop.add_iterator(x, 0))
        total = loop.add_recurrence(n.constant(torch.zeros(2)))
        within = net.add_loop()
        within.add_trip_limit(inner, trt.TripLimit.COUNT)
        counter = within.add_recurrence(n.constant(torch.zeros(2)))
        counter.set_input(1, out(net.add_elementwise(out(counter), n.constant(torch.ones(2)), SUM)))
        state = within.add_recurrence(n.constant(torch.zeros(2)))
        step = out(net.add_elementwise(row, out(counter), SUM))
        state.set_input(1, out(net.add_elementwise(out(state), step, SUM)))
        summed = out(within.add_loop_output(out(state), trt.LoopOutput.LAST_VALUE, 0))
        counted = out(within.add_loop_output(out(counter), trt.LoopOutput.LAST_VALUE, 0))
        both = out(net.add_elementwise(summed, counted, SUM))
        total.set_input(1, out(net.add_elementwise(out(total), both, SUM)))
        return out(loop.add_loop_output(out(total), trt.LoopOutput.LAST_VALUE, 0))

    x = torch.randn(3, 2)
    for count in (0, 1, 4):
        want = (x * count + sum(range(count)) + count).sum(0)
        assert_close(run(build, x, torch.tensor(count, dtype=torch.int32)), want)


def test_three_loops_one_in_another():
    """Counts a * b * c; the loops in the middle and inside have states of their own, from constants."""

    def build(n, a, b, c):
        net, one = n.net, n.constant(torch.ones(1))

        def count(depth):
            loop = net.add_loop()
            loop.add_trip_limit((a, b, c)[depth], trt.TripLimit.COUNT)
            state = loop.add_recurrence(n.constant(torch.zeros(1)))
            more = count(depth + 1) if depth < 2 else one
            state.set_input(1, out(net.add_elementwise(out(state), more, SUM)))
            return out(loop.add_loop_output(out(state), trt.LoopOutput.LAST_VALUE, 0))

        return count(0)

    sizes = [torch.tensor(size, dtype=torch.int32) for size in (2, 3, 4)]
    assert_close(run(build, *sizes), torch.tensor([24.0]))


def test_an_inner_loop_that_stops_by_a_condition():
    """For each row, double a state that starts at 1 while it is below the row's only element."""

    def build(n, x):
        net = n.net
        loop = net.add_loop()
        loop.add_trip_limit(n.constant(3, torch.int32), trt.TripLimit.COUNT)
        row = out(loop.add_iterator(x, 0))
        total = loop.add_recurrence(n.constant(torch.zeros(())))
        within = net.add_loop()
        state = within.add_recurrence(n.constant(torch.ones(())))
        below = out(net.add_elementwise(out(state), row, trt.ElementWiseOperation.LESS))
        within.add_trip_limit(below, trt.TripLimit.WHILE)
        state.set_input(1, out(net.add_elementwise(out(state), out(state), SUM)))
        reached = out(within.add_loop_output(out(state), trt.LoopOutput.LAST_VALUE, 0))
        total.set_input(1, out(net.add_elementwise(out(total), reached, SUM)))
        return out(loop.add_loop_output(out(total), trt.LoopOutput.LAST_VALUE, 0))

    assert_close(run(build, torch.tensor([5.0, 0.5, 16.0])), torch.tensor(8.0 + 1.0 + 16.0))


def test_a_conditional_on_the_state_of_a_loop():
    """Both of its values are made outside of the loop: only the condition is the loop's."""

    def build(n, small, large):
        net = n.net
        loop = net.add_loop()
        loop.add_trip_limit(n.constant(4, torch.int32), trt.TripLimit.COUNT)
        total = loop.add_recurrence(n.constant(torch.zeros(())))
        choice = net.add_if_conditional()
        choice.set_condition(
            out(net.add_elementwise(out(total), n.constant(torch.tensor(2.5)), trt.ElementWiseOperation.LESS))
        )
        ends = [out(choice.add_input(value)) for value in (small, large)]
        step = out(choice.add_output(*ends))
        total.set_input(1, out(net.add_elementwise(out(total), step, SUM)))
        return out(loop.add_loop_output(out(total), trt.LoopOutput.LAST_VALUE, 0))

    assert_close(run(build, torch.tensor(1.0), torch.tensor(10.0)), torch.tensor(13.0))


def test_loop_past_the_end_raises():
    def build(n, x, count):
        loop = n.net.add_loop()
        loop.add_trip_limit(count, trt.TripLimit.COUNT)
        row = out(loop.add_iterator(x, 0))
        total = loop.add_recurrence(n.constant(torch.zeros(2)))
        total.set_input(1, out(n.net.add_elementwise(out(total), row, SUM)))
        return out(loop.add_loop_output(out(total), trt.LoopOutput.LAST_VALUE, 0))

    with pytest.raises(InputError, match="past the end"):
        run(build, torch.randn(3, 2), torch.tensor(4, dtype=torch.int32))


def test_assertion():
    def build(n, x, size):
        n.net.add_assertion(
            out(n.net.add_elementwise(size, n.constant([0], torch.int64), trt.ElementWiseOperation.GREATER)),
            "size must be positive",
        )
        layer = n.net.add_slice(x, (0,), (1,), (1,))
        layer.set_input(2, size)
        return out(layer)

    x = torch.randn(4)
    assert torch.equal(run(build, x, torch.tensor([2])), x[:2])
    with pytest.raises(InputError, match="size must be positive"):
        run(build, x, torch.tensor([0]))


def test_layers_out_of_order():
    """`set_input` may point at a layer added later."""

    def build(n, x):
        first = n.net.add_elementwise(x, x, SUM)
        later = out(n.net.add_unary(x, trt.UnaryOperation.EXP))
        first.set_input(1, later)
        return out(first)

    x = torch.randn(3)
    assert_close(run(build, x), x + x.exp())


def test_pickles_nothing_but_names(module):
    """The generated code calls importable functions, so fx can print and rebuild it."""
    assert "staged" in module.code or "stage" in module.code
    for node in module.graph.nodes:
        if node.op == "call_function":
            assert callable(node.target)
    assert math.isfinite(float(module(torch.randn(1, 1, 16))[0].sum()))
