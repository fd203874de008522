"""A small convolutional network, static and with a dynamic batch, in one engine."""

from __future__ import annotations

import torch

import trtcore


class ConvNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(3, stride=1, padding=1),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image))


def model() -> ConvNet:
    torch.manual_seed(0)
    net = ConvNet()
    for module in net.modules():  # running statistics as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_()
            module.bias.data.normal_()
    return net.eval()


def check(compiled: torch.nn.Module, net: ConvNet, *batches: int) -> None:
    report = compiled.report
    assert report.fully_converted, str(report)
    assert len(report.segments) == len(report.engines) == 1
    for batch in batches:
        image = torch.randn(batch, 3, 32, 32)
        want = net(image)
        assert float((compiled(image) - want).norm() / want.norm()) <= 1e-5, batch


@torch.no_grad()
def test_static() -> None:
    net = model()
    check(trtcore.compile(net, [torch.randn(2, 3, 32, 32)]), net, 2)


@torch.no_grad()
def test_dynamic_batch() -> None:
    net = model()
    image = trtcore.Input(min_shape=(1, 3, 32, 32), opt_shape=(4, 3, 32, 32), max_shape=(16, 3, 32, 32))
    check(trtcore.compile(net, [image]), net, 1, 4, 16, 7)
