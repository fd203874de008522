"""`trtcore ops`: every candidate in order and why, and the table of all ops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from trtcore.cli.app import main
from trtcore.errors import InputError
from trtcore.pack import (
    Priority,
    Requires,
    converter,
    converters_in,
    hookimpl,
    pattern_converter,
    scoped_registry,
)
from trtcore.packs.coverage import describe_op, describe_ops
from trtcore.packs.loading import register_pack
from trtcore.packs.model import Scope

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with scoped_registry():
        yield


def third_party(name: str, **options: Any) -> None:
    def better_gelu(ctx: Any, x: Any, *, approximate: str = "none") -> Any: ...

    class Pack:
        @hookimpl
        def converters(self) -> Any:
            return converters_in(converter(aten.gelu.default, **options)(better_gelu))

    register_pack(Pack(), name=name, distribution=name, version="2.5", scope=Scope.THIRD_PARTY)


def said(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["ops", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_candidate_in_order_and_why() -> None:
    third_party("zeta")
    third_party("acme")
    third_party(
        "fast", priority=Priority.HIGH, requires=Requires(plugins=True, version={"tensorrt_rtx": ">=1"})
    )
    (row,) = describe_op("aten.gelu")
    assert row["op"] == "aten.gelu.default"
    assert (row["by"], row["pack"]) == ("converter", "fast:fast")
    order = [one["source"] for one in row["candidates"]]
    assert order[:3] == ["fast:fast", "acme:acme", "zeta:zeta"]
    assert "trtcore:aten" in order[3:]
    first, second, third, fourth, *_ = row["candidates"]
    assert (first["place"], first["priority"], first["version"]) == ("", 100, "2.5")
    assert second["place"] == "fast:fast:better_gelu goes first: priority 100 over 0"
    assert third["place"] == "acme:acme:better_gelu goes first: same priority; by name of the distribution"
    assert fourth["place"] == "zeta:zeta:better_gelu goes first: third-party pack before built-in pack"
    assert first["requires"] == "plugin layers, tensorrt_rtx >=1"
    assert "test_ops.py" in first["defined"]
    text = said("aten.gelu.default")
    assert "1. better_gelu of fast:fast 2.5 (third party, priority 100)" in text
    assert "priority 100 over 0" in text
    assert text.index("fast:fast") < text.index("acme:acme") < text.index("trtcore:aten")


@pytest.mark.usefixtures("trt_backend")
def test_requirements_are_asked_of_the_backend() -> None:
    third_party(
        "fast",
        requires=Requires(layers={"add_activation"}, version={"tensorrt_rtx": ">=99", "tensorrt": ">=99"}),
    )
    (row,) = describe_op("aten.gelu")
    assert ">=99, and this is" in row["candidates"][0]["unmet"]
    assert "cannot be used here: needs tensorrt" in said("aten.gelu")


def test_an_op_without_converter() -> None:
    (row,) = describe_op("aten._fft_r2c")
    assert (row["candidates"], row["by"]) == ([], "torch")
    assert said("aten._fft_r2c").startswith("aten._fft_r2c.default: torch")


def test_a_decomposition_says_where_it_is_and_promises_nothing() -> None:
    (row,) = describe_op("aten.special_erfcx")
    assert (row["by"], row["candidates"]) == ("decomposition", [])
    assert "special.py:" in row["defined"]
    text = said("aten.special_erfcx")
    assert "where every piece is converted, else in torch" in text
    assert row["defined"] in text
    assert describe_op("aten.gelu")[0]["defined"] == ""


def test_overloads_of_torchscript_alone_are_left_out() -> None:
    """``aten::copysign.int`` is for numbers, and no operator that the dispatcher knows."""
    assert {row["op"] for row in describe_op("aten.copysign")} == {
        "aten.copysign.Tensor", "aten.copysign.Scalar",
    }  # fmt: skip
    with pytest.raises(InputError, match="no op"):
        describe_op("aten.copysign.int")


def test_a_converter_that_waits_for_its_library() -> None:
    converter("nolibrary::nms")(lambda ctx, boxes: boxes)
    (row,) = describe_op("nolibrary::nms")
    assert "nothing in this process has registered the op nolibrary::nms" in row["note"]
    assert len(row["candidates"]) == 1
    assert "nothing in this process" in said("nolibrary::nms")


@pytest.mark.parametrize("name", ["aten.geluu", "nothing", "aten.gelu.other", "", "a b"])
def test_an_op_that_nobody_knows(name: str) -> None:
    with pytest.raises(InputError, match="no op"):
        describe_op(name)
    result = CliRunner().invoke(main, ["ops", name])
    assert result.exit_code == 1
    assert "what to do: " in result.output


def test_the_table_of_all_ops() -> None:
    pattern_converter(lambda x: torch.relu(x) * 2, (torch.empty(2),), name="doubled")(lambda ctx, x: x)
    rows = {row["op"]: row for row in describe_ops()}
    assert rows["aten.relu.default"]["by"] == "converter"
    assert rows["aten.relu.default"]["pack"] == "trtcore:aten"
    assert rows["aten.relu.default"]["core"]
    assert rows["aten.convolution_backward.default"]["by"] == "torch"
    assert any(row["by"] == "decomposition" for row in rows.values())
    assert rows["pattern.lambda"]["by"] == "pattern"
    assert list(rows) == sorted(rows)
    text = said()
    assert text.startswith("op ")
    assert "core ATen ops" in text.splitlines()[-1]


def test_json() -> None:
    data = json.loads(said("aten.gelu", "--json"))
    assert data["schema"] == 1
    assert data["ops"] == describe_op("aten.gelu")
    core = json.loads(said("--json", "--core"))["ops"]
    assert core
    assert all(row["core"] for row in core)


def test_samples_of_an_operator_and_of_an_overload() -> None:
    (row,) = json.loads(said("--samples", "softmax", "--json"))["samples"]
    assert row["family"] == "softmax"
    assert row["passed"] > 0
    assert "sort" in said("--samples", "aten.sort.default")
    assert "passed" in said("--samples")


def test_samples_of_an_op_that_has_none() -> None:
    result = CliRunner().invoke(main, ["ops", "--samples", "aten.nothing"])
    assert result.exit_code == 1
    assert "no sample" in result.output
