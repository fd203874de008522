"""Where results are on a GPU."""

from __future__ import annotations

import pytest
import torch

import trtcore

pytestmark = pytest.mark.gpu


class Positions(torch.nn.Module):
    """The engine of the positions has no tensor inputs: `sin` is kept in torch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[0], device=x.device, dtype=torch.float32) * 2 + 1
        return torch.special.erfcx(positions)[:, None] + torch.special.erfcx(x)


def test_an_engine_without_tensor_inputs_computes_on_the_models_device() -> None:
    batch = trtcore.Input(min_shape=(2, 3), opt_shape=(4, 3), max_shape=(8, 3), device="cuda")
    compiled = trtcore.compile(
        Positions(), [batch], runtime="reference", min_block_size=1, torch_executed_ops={"aten.special_erfcx"}
    )
    for rows in (2, 8):
        x = torch.randn(rows, 3, device="cuda")
        result = compiled(x)
        assert result.device == x.device
        torch.testing.assert_close(result, Positions()(x))


class Spaced(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.logspace(a, b, 7, base=2.0, device=a.device) + torch.linspace(a, 2.0, 7, device=a.device)


def test_spaced_numbers_between_tensors_on_the_gpu() -> None:
    ends = torch.tensor(0.5, device="cuda"), torch.tensor(3.0, device="cuda")
    compiled = trtcore.compile(Spaced(), ends, runtime="reference", min_block_size=1)
    torch.testing.assert_close(compiled(*ends), Spaced()(*ends), rtol=1e-5, atol=1e-5)


def test_graphed_callables_of_a_compiled_module() -> None:
    """PyTorch's own recipe, on one module and on several."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8)).eval().cuda()
    x = torch.randn(4, 8, device="cuda")
    with torch.no_grad():
        want = model(x)
        compiled = trtcore.compile(model, [x], runtime="reference", min_block_size=1)
        other = trtcore.compile(model, [x], runtime="reference", min_block_size=1)
        assert not compiled._forward_pre_hooks
        graphed, second = torch.cuda.make_graphed_callables((compiled, other), ((x.clone(),), (x.clone(),)))
        for _ in range(2):
            torch.testing.assert_close(graphed(x), want, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(second(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_devices_in_one_process() -> None:
    """A module per device, a module that moves, and calls whose device is not the current one."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8)).eval()
    x = torch.randn(4, 8)
    with torch.no_grad():
        want = model(x)
        compiled = trtcore.compile(model, [x], runtime="reference", min_block_size=1)
        for device in ("cuda:1", "cuda:0", "cuda:1"):
            torch.testing.assert_close(compiled.to(device)(x.to(device)).cpu(), want, rtol=1e-5, atol=1e-5)
            assert torch.cuda.current_device() == 0
