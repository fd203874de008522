"""What a converter may not do to the network: change its inputs, or use tensors of another one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trtcore
from trtcore.pack import converter, scoped_registry

pytestmark = pytest.mark.usefixtures("trt_backend")
relu = torch.ops.aten.relu.default
NETWORKS: list[Any] = []
KEPT: list[Any] = []


def plain(ctx: Any, x: Any) -> Any:
    return ctx.net.add_activation(ctx.tensor(x), ctx.trt.ActivationType.RELU).get_output(0)


def renames(ctx: Any, x: Any) -> Any:
    x.name = "another"
    return plain(ctx, x)


def reshapes(ctx: Any, x: Any) -> Any:
    x.shape = (2, 4)
    return plain(ctx, x)


def of_another_network(ctx: Any, x: Any) -> Any:
    network = ctx.trt.Builder(ctx.trt.Logger()).create_network(0)
    NETWORKS.append(network)
    return network.add_input("a", ctx.trt.float32, (3, 4))


def keeps(ctx: Any, x: Any) -> Any:
    KEPT.append(plain(ctx, x))
    return KEPT[0]


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * 2


def compiled(function: Any, given: Any) -> Any:
    with scoped_registry():
        converter(relu, supports_dynamic_shapes=True)(function)
        return trtcore.compile(Model(), inputs=[given], min_block_size=1)


@pytest.mark.parametrize(
    "given",
    [torch.ones(3, 4), trtcore.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(8, 4))],
    ids=["static", "dynamic"],
)
@pytest.mark.parametrize(
    ("function", "why"),
    [
        (renames, "changed the name or the shape of the network's input x"),
        (reshapes, "changed the name or the shape of the network's input x"),
        (of_another_network, "a tensor of another network"),
    ],
)
def test_it_goes_to_the_next_candidate(function: Any, why: str, given: Any) -> None:
    module = compiled(function, given)
    (record,) = module.report.quarantined
    assert why in record.reason
    x = torch.randn(3, 4)
    assert torch.equal(module(x), torch.relu(x) * 2)


def test_a_tensor_that_is_kept_from_an_earlier_compile() -> None:
    """TensorRT ends the process where it is used."""
    KEPT.clear()
    assert not compiled(keeps, torch.ones(3, 4)).report.quarantined
    (record,) = compiled(keeps, torch.ones(3, 4)).report.quarantined
    assert "a tensor of another network" in record.reason
    KEPT.clear()
