"""Memory that inputs, buffers and weights of one call share: as eager, or refused by name."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import trtcore
from trtcore.errors import InputError
from trtcore.runtime.sharing import Memory, first_overlap, overlap, overlaps_itself


def t(*shape):
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


class TestOverlap:
    base = t(24)

    @pytest.mark.parametrize(
        ("a", "b", "shared"),
        [
            (base[:3], base[2:], True),
            (base[:3], base[3:], False),
            (base, base, True),
            (base[::2], base[1::2], False),
            (base[::2], base[2::4], True),
            (base.view(4, 6)[:, :3], base.view(4, 6)[:, 3:], False),
            (base.view(4, 6)[:, :3], base.view(4, 6).t()[2:], True),
            (base[5].expand(7), base[4:6], True),
            (base[5].expand(7), base[6:8], False),
            (base[:0], base, False),
            (base.view(torch.int16)[1:2], base[:1], True),
            (base.view(torch.int16)[1::2], base.view(torch.int16)[::2], False),
            (base.clone(), base, False),
            (base.to("meta"), base, False),
            (torch.view_as_complex(base.view(12, 2))[1:], base[:2], False),
            (torch.view_as_complex(base.view(12, 2))[1:], base[:3], True),
            (base.to_sparse(), base, False),
            (nn.Parameter(base[1:], requires_grad=False), base[:2], True),
        ],
    )
    def test_is_exact(self, a, b, shared):
        assert overlap(a, b) is overlap(b, a) is shared
        assert first_overlap([t(3), a, b, 3, None], [1]) == ((1, 2) if shared else None)
        assert Memory([t(3), a]).touches(b) >= shared

    def test_numpy_arrays_share_without_a_common_storage(self):
        array = np.zeros(4, np.float32)
        assert overlap(torch.from_numpy(array[:3]), torch.from_numpy(array[1:]))

    def test_what_is_not_written_may_share(self):
        a = t(4)
        assert first_overlap([a, a, t(3)], [2]) is None


class Writes(nn.Module):
    def forward(self, x, y):
        x.add_(1)
        return y * 2


class Reads(nn.Module):
    def forward(self, x, y):
        return x + 1, y * 2


class Nested(nn.Module):
    def forward(self, pair, *, other):
        pair["a"].add_(1)
        return other[0] * 2


class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(4))
        self.register_buffer("fixed", torch.ones(4))

    def forward(self, x):
        self.cache.add_(1)
        return x * 2 + self.fixed


def routes(compiled, path):
    """The module itself, and as it comes back from a file, a pickle and a copy."""
    yield compiled
    trtcore.save(compiled, path)
    yield trtcore.load(path)
    yield pickle.loads(pickle.dumps(compiled))
    yield copy.deepcopy(compiled)


def compiled(model, **inputs):
    return trtcore.compile(model, min_block_size=1, **inputs)


def test_an_input_that_is_written_shares_with_no_other(tmp_path):
    made = compiled(Writes(), inputs=[t(2, 2), t(2, 2)])
    for module in routes(made, tmp_path / "m.pt2"):
        a, square = t(3, 2), t(2, 2)
        for x, y in ((a[:2], a[1:]), (square, square.t()), (square, square)):
            before = x.clone()
            with pytest.raises(
                InputError, match=r"input x and input y share memory.*writes to input x"
            ) as caught:
                module(x, y)
            assert torch.equal(x, before)  # nothing was written
            assert "y.clone()" in str(caught.value)
        hook = module.register_forward_hook(lambda *_: None)  # by way of nn.Module's own call
        with pytest.raises(InputError, match="share memory"):
            module(square, square)
        hook.remove()
        assert torch.equal(module(square, square.clone()), t(2, 2) * 2)
        assert torch.equal(square, t(2, 2) + 1)
        wide = t(2, 4)  # interleaved, and apart
        assert torch.equal(module(wide[:, :2], wide[:, 2:]), t(2, 4)[:, 2:] * 2)
        assert torch.equal(wide[:, :2], t(2, 4)[:, :2] + 1)


def test_programs_that_write_nothing_take_any_sharing():
    module = compiled(Reads(), inputs=[t(4), t(4)])
    assert module._sharing is None
    x = t(4)
    assert torch.equal(module(x, x)[1], x * 2)


def test_nested_inputs_are_named():
    module = compiled(Nested(), arg_inputs=[{"a": t(3)}], kwarg_inputs={"other": (t(3),)})
    x = t(3)
    with pytest.raises(InputError, match=r"input pair\['a'\] and input other\[0\] share"):
        module({"a": x}, other=(x,))
    assert torch.equal(module({"a": x}, other=(t(3),)), t(3) * 2)
    assert torch.equal(x, t(3) + 1)


def test_a_buffer_that_is_written_shares_with_no_input(tmp_path):
    made = compiled(Cache(), inputs=[t(4)])
    for module in routes(made, tmp_path / "m.pt2"):
        cache = module.cache
        with pytest.raises(InputError, match="cache of the compiled module and input x share memory"):
            module(cache)
        before = cache.clone()
        assert torch.equal(module(t(4)), t(4) * 2 + 1)
        assert torch.equal(cache, before + 1)


def test_an_input_of_a_program_that_writes_is_no_weight_of_it():
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4), requires_grad=False)

        def forward(self, x):
            x.add_(1)
            return x * self.weight

    module = compiled(Adds(), inputs=[t(4)], torch_executed_ops={"aten.mul.Tensor"})
    with pytest.raises(InputError, match="input x and weight of the compiled module share memory"):
        module(module.weight.data)


def test_an_input_that_is_returned_is_the_input(tmp_path):
    class Same(nn.Module):
        def forward(self, x, y):
            x.mul_(2)
            return x, y, x + y

    for module in routes(compiled(Same(), inputs=[t(3), t(3)]), tmp_path / "m.pt2"):
        x, y = t(3), t(3)
        first, second, total = module(x, y)
        assert first is x
        assert second is y
        assert torch.equal(total, t(3) * 3)


def test_sizes_that_data_decide_come_back(tmp_path):
    class Masked(nn.Module):
        def forward(self, x):
            x[x < 0] *= 2
            return x + 1

    for module in routes(compiled(Masked(), inputs=[t(4, 4)]), tmp_path / "m.pt2"):
        x = t(4, 4) - 8
        assert torch.equal(module(x), torch.where(t(4, 4) < 8, 2 * t(4, 4) - 16, t(4, 4) - 8) + 1)


def test_a_reshape_that_is_written_wants_the_layout_of_the_capture():
    class Flat(nn.Module):
        def forward(self, x):
            x.reshape(-1).add_(1)
            return x * 2

    module = compiled(Flat(), inputs=[t(2, 3)])
    x = t(2, 3)
    assert torch.equal(module(x), (t(2, 3) + 1) * 2)
    with pytest.raises(InputError, match="must have the strides"):  # there eager writes to a copy
        module(t(3, 2).t())


def test_a_trace_of_a_compiled_module_sees_shared_memory():
    """The check is an op of its graph."""
    made = compiled(Writes(), inputs=[t(2, 2), t(2, 2)])
    torch._dynamo.reset()
    again = torch.compile(made, backend="eager")
    a = t(3, 2)
    for _ in range(2):
        assert torch.equal(again(t(2, 2), t(2, 2)), t(2, 2) * 2)
        with pytest.raises(InputError, match="input x and input y share memory"):
            again(a[:2], a[1:])
    assert torch.equal(a, t(3, 2))


@pytest.mark.parametrize(
    ("tensor", "shared"),
    [
        (t(3).expand(3, 3), True),
        (t(8).as_strided((3, 4), (2, 1)), True),
        (t(8).unfold(0, 3, 1), True),
        (t(8).unfold(0, 3, 3), False),
        (t(8).as_strided((2, 3), (1, 2)), False),
        (t(40).as_strided((3, 4), (3, 4)), False),
        (t(40).as_strided((5, 4), (3, 4)), True),
        (t(40).as_strided((2, 3), (3, 2)), False),  # 0, 2, 4 and 3, 5, 7
        (t(4, 6).t()[::2], False),
        (t(3, 1).expand(3, 1), False),
        (t(0).expand(3, 0), False),
    ],
)
def test_a_tensor_whose_own_elements_share(tensor, shared):
    assert overlaps_itself(tensor) == shared
    assert overlaps_itself(tensor) == (len(torch.unique(tensor)) < tensor.numel())


@pytest.mark.parametrize("route", ["call", "load", "backend"])
def test_an_input_that_is_written_shares_with_itself(route, tmp_path):
    class Writes(nn.Module):
        def forward(self, x, y):
            x[0] = y[1]
            return x + y

    model, y = Writes(), torch.randn(3, 3)
    module = trtcore.compile(model, inputs=[torch.randn(3, 3), y], min_block_size=1)
    if route == "load":
        trtcore.save(module, tmp_path / "m.pt2")
        module = trtcore.load(tmp_path / "m.pt2")
    torch._dynamo.reset()
    if route == "backend":
        module = torch.compile(model, backend="trtcore", options={"min_block_size": 1})
    x = torch.randn(3).expand(3, 3)
    if route == "backend":  # as eager, whatever that is
        own = x[0].clone().expand(3, 3)
        torch.testing.assert_close(module(x, y), model(own, y))
        torch.testing.assert_close(x, own)
    else:
        before = x.clone()
        with pytest.raises(InputError, match="elements of input x share memory with others of it"):
            module(x, y)
        assert torch.equal(x, before)
    given = torch.randn(3, 3)
    torch.testing.assert_close(module(given.clone(), y), model(given.clone(), y))
