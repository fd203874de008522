"""Every setting has a test of its effect, and a row in docs/settings.md; with the tests of those that have no other place."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from settings_page import PAGE, page

import trtcore
from trtcore.backend.base import Target
from trtcore.engine.config import _NEEDS, FEATURES
from trtcore.errors import BackendUnavailableError, SettingsError
from trtcore.pack import Converter
from trtcore.settings import NOT_BUILT, CompilationSettings
from trtcore.settings.proofs import EFFECTS, PROOFS

TESTS = Path(__file__).parent
ROWS = {row.name: row for row in CompilationSettings.describe()}


def test_every_setting_has_a_proof() -> None:
    assert set(PROOFS) == set(ROWS)
    assert {proof.effect for proof in PROOFS.values()} <= set(EFFECTS)
    assert not NOT_BUILT


def source_of(file: Path, function: str) -> str:
    """A test's source with its decorators, and those of the module's names that it speaks of, and of theirs."""
    text = file.read_text()
    lines, pieces = text.splitlines(), dict[str, str]()
    for node in ast.parse(text).body:
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names = [getattr(node, "name", "")] + [getattr(target, "id", "") for target in targets]
        pieces |= {name: "\n".join(lines[first - 1 : node.end_lineno]) for name in names if name}
    assert function in pieces, f"{file.name} has no {function}"
    found = {function}
    for _ in range(3):
        found |= {name for name in pieces if any(re.search(rf"\b{name}\b", pieces[one]) for one in found)}
    return "\n".join(pieces[name] for name in found)


@pytest.mark.parametrize("name", sorted(PROOFS))
def test_the_test_is_there_and_speaks_of_the_setting(name: str) -> None:
    file, _, function = PROOFS[name].test.partition("::")
    text = source_of(TESTS / file, function)
    assert re.search(rf"\b{name}\b", text), f"{PROOFS[name].test} does not speak of {name}"


def test_backends_are_asked_for_what_settings_need() -> None:
    assert set(FEATURES) == set(_NEEDS)


def test_the_page_is_the_settings(trt_backend: Any) -> None:
    """If it is not: python tests/settings_page.py."""
    found = PAGE.read_text()
    if trt_backend.can("max_aux_streams", Target()).ok:  # the page says what is so without a GPU
        pytest.skip("made on a machine without a GPU")
    assert found == page(trt_backend)


# ---- settings whose effect is tested nowhere else -----------------------------------------------------------

relu = torch.ops.aten.relu.default


class Net(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.relu(x) + 1).tanh()


X = torch.linspace(-1, 1, 6).reshape(2, 3)


def test_a_converter_of_the_call(trt_backend: Any) -> None:
    def as_select(ctx: Any, x: Any) -> Any:
        return ctx.activation(x, "RELU")

    plain = trtcore.compile(Net(), [X], min_block_size=1)
    module = trtcore.compile(Net(), [X], min_block_size=1, converters={"aten.relu.default": as_select})
    names = [
        {node.op: node.converter for node in one.report.nodes}["aten.relu.default"] for one in (plain, module)
    ]
    assert "as_select" in names[1]
    assert "as_select" not in names[0]
    torch.testing.assert_close(module(X), Net()(X))


def test_data_dependent_ops_stay_in_torch_if_asked() -> None:
    from trtcore.packs.registry import ConverterRegistry

    one = Converter(relu, lambda ctx, x: x, name="sized_by_data", requires_output_allocator=True)
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    node = graph.call_function(relu, (x,))
    x.meta["val"] = node.meta["val"] = torch.ones(2)
    with trtcore.scoped_registry():
        from trtcore.compiler import make_context

        for asked in (False, True):
            chosen = CompilationSettings(
                fallback_data_dependent_ops=asked, converters={relu: one}, pins={}, disabled_packs=()
            )
            ctx = make_context(chosen)
            assert isinstance(ctx.registry, ConverterRegistry)
            selection = ctx.registry.select(node, ctx)
            first = selection.candidates[0]
            if asked:
                assert "fallback_data_dependent_ops is set" in first.reason
            else:
                assert str(selection.chosen).endswith("sized_by_data")


def test_a_partitioner_by_name(trt_backend: Any) -> None:
    with pytest.raises(SettingsError, match="nobody's"):
        trtcore.explain(Net(), [X], min_block_size=1, partitioner="nobody's")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"backend": "tensorrt_of_nobody"}, SettingsError),
        ({"runtime": "native"}, BackendUnavailableError),
    ],
)
def test_a_backend_or_a_runtime_that_is_not_there(
    options: dict[str, Any], error: type, trt_backend: Any
) -> None:
    if "runtime" in options and trt_backend.native_runtime().ok:
        pytest.skip("TensorRT's engines run here")
    with pytest.raises(error) as caught:
        trtcore.compile(Net(), [X], min_block_size=1, **options)(X)
    assert next(iter(options.values())) in str(caught.value) or "GPU" in str(caught.value)


def test_the_device_is_in_the_plans_manifest(trt_backend: Any) -> None:
    plans = set()
    for device, wanted in (("sm_89", [8, 9]), ("sm_120", [12, 0])):
        module = trtcore.compile(Net(), [X], min_block_size=1, device=device)
        (call,) = (node for node in module.graph.nodes if "execute_engine" in str(node.target))
        assert f'"compute_capability":{wanted}'.replace(" ", "") in call.args[3]
        plans.add(module.report.target)
    assert len(plans) == 2
