"""The example pack: its op, its converters' numbers, its pass, and how it is shadowed and blocked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from trtcore_contrib_example.ops import squared_relu

import trtcore
from trtcore.testing import Example, PackConformance

PACK = "trtcore-contrib-example:example"


def squared(x: torch.Tensor) -> torch.Tensor:
    return squared_relu(x)


def gelu(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


class Model(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def candidates(function: Callable[..., Any], op: str, **settings: Any) -> list[tuple[str, str]]:
    """(pack, verdict) of every converter of `op` in a model that is `function`."""
    report = trtcore.explain(Model(function).eval(), inputs=[torch.randn(2, 8)], min_block_size=1, **settings)
    (node,) = [node for node in report.nodes if node.op == op]
    return [(one.pack.partition(" ")[0], one.verdict) for one in node.candidates]


# The op and its converter -------------------------------------------------------------------------------


def test_the_op() -> None:
    torch.library.opcheck(squared_relu, (torch.randn(2, 3),))
    assert squared_relu(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 9.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_converter(assert_converts: Any, dtype: torch.dtype) -> None:
    assert_converts(squared, (torch.randn(2, 8),), dtypes=[dtype])


def test_the_converter_with_a_dynamic_batch(assert_converts: Any) -> None:
    assert_converts(squared, (torch.randn(4, 8),), dynamic={0: {0: (1, 4, 8)}})


def test_integers_stay_in_torch(assert_refuses: Any) -> None:
    assert_refuses(squared, (torch.arange(6),), "only floating point is converted")


# The override -------------------------------------------------------------------------------------------


def test_the_override_is_right(assert_converts: Any) -> None:
    proof = assert_converts(gelu, (3 * torch.randn(4, 8),), dynamic={0: {0: (1, 4, 8)}})
    (node,) = proof.report.converted
    assert node.candidates[0].pack == f"{PACK} 0.1.0"


def test_the_override_shadows_the_built_in_converter() -> None:
    assert candidates(gelu, "aten.gelu.default") == [(PACK, "chosen"), ("trtcore:aten", "shadowed")]


def test_what_the_validator_rejects_goes_to_the_next() -> None:
    found = candidates(torch.nn.functional.gelu, "aten.gelu.default")
    assert found == [(PACK, "rejected"), ("trtcore:aten", "chosen")]


def test_a_pin_puts_the_built_in_converter_first() -> None:
    found = candidates(gelu, "aten.gelu.default", pins={"aten.gelu.default": "trtcore:aten"})
    assert found == [("trtcore:aten", "chosen"), (PACK, "shadowed")]


# The pass -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [lambda x: torch.relu(x) ** 2, lambda x: torch.relu(x).square(), lambda x: torch.relu(x) * torch.relu(x)],
)
def test_the_pass_finds_squares(assert_converts: Any, function: Callable[..., Any]) -> None:
    proof = assert_converts(function, (torch.randn(2, 8),))
    assert [node.op for node in proof.report.converted] == ["trtcore_example.squared_relu.default"]


@pytest.mark.parametrize(
    "function", [lambda x: torch.relu(x) ** 3, lambda x: x**2, lambda x: torch.relu(x) * torch.relu(-x)]
)
def test_the_pass_leaves_the_rest(assert_converts: Any, function: Callable[..., Any]) -> None:
    proof = assert_converts(function, (torch.randn(2, 8),))
    assert "trtcore_example.squared_relu.default" not in {node.op for node in proof.report.converted}


def test_the_pass_can_be_turned_off(assert_converts: Any) -> None:
    settings = {"disabled_passes": {"fuse_squared_relu"}}
    proof = assert_converts(lambda x: torch.relu(x) ** 2, (torch.randn(2, 8),), settings=settings)
    assert "aten.relu.default" in {node.op for node in proof.report.converted}


# Blocking -----------------------------------------------------------------------------------------------


def test_blocked_for_one_compile() -> None:
    disabled = ("trtcore-contrib-example",)
    assert candidates(squared, "trtcore_example.squared_relu.default", disabled_packs=disabled) == []
    assert candidates(gelu, "aten.gelu.default", disabled_packs=disabled) == [("trtcore:aten", "chosen")]


def test_blocked_by_the_environment() -> None:
    """Before anything of the pack is imported."""
    code = "import sys, trtcore.cli; trtcore.cli.main(['packs', '--json'], standalone_mode=False)\n"
    code += "assert not any(name.startswith('trtcore_contrib_example') for name in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRTCORE_DISABLE_PACKS": "trtcore-contrib-example"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (pack,) = [p for p in json.loads(run.stdout)["packs"] if p["distribution"] == "trtcore-contrib-example"]
    assert pack["status"] == "disabled"
    assert "TRTCORE_DISABLE_PACKS" in pack["error"]


# The kit ------------------------------------------------------------------------------------------------


class TestConformance(PackConformance):
    """What the kit asks of any pack."""

    pack = "trtcore-contrib-example"

    def examples(self) -> Iterator[Example]:
        batch = {0: {0: (1, 2, 4)}}
        yield Example(squared, (torch.randn(2, 8),), dynamic=batch)
        yield Example(gelu, (torch.randn(2, 8),), dynamic=batch)
        yield Example(squared, (torch.arange(6),), converts=False)
