"""Kernel plugins in a compile: on a backend without plugin layers, in the report, in the manifest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trtcore
from trtcore import Report
from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import BackendUnavailableError
from trtcore.pack import (
    ConversionError,
    Converter,
    PackError,
    Reject,
    register_kernel_plugin,
    scoped_registry,
)
from trtcore.runtime.native.bindings import register_plugins
from trtcore.testing import assert_refuses, usable_backend
from trtcore_plugins import custom_op, generate_converter, generate_plugin

pytestmark = pytest.mark.usefixtures("trt_backend")


@torch.library.custom_op("plugins::gate", mutates_args=())
def gate(x: torch.Tensor, slope: float = 1.0) -> torch.Tensor:
    return x * torch.sigmoid(slope * x)


@gate.register_fake
def _(x: torch.Tensor, slope: float = 1.0) -> torch.Tensor:
    return torch.empty_like(x)


GATE = torch.ops.plugins.gate.default


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.plugins.gate(x + 1, 2.0).exp() - 3


def test_without_plugin_layers_the_op_runs_in_torch_and_the_report_says_so() -> None:
    x = torch.randn(3, 5)
    with scoped_registry():
        plugin = custom_op("plugins::gate")
        report = assert_refuses(Model(), (x,), "needs plugin layers", dynamic={0: {0: (1, 4, 8)}})
    (found,) = report.plugins
    assert (found.name, found.deployable, found.ops, found.in_torch) == ("plugins::gate", False, 0, 1)
    assert len(report.engines) == 2
    assert (
        "has no plugin layers; with a backend that has them (tensorrt) the op would not end an engine"
        in str(report)
    )
    assert Report.from_json(report.to_json()) == report
    assert not plugin.deployable


def test_outside_the_scope_it_is_gone() -> None:
    with scoped_registry():
        custom_op("plugins::gate")
    report = trtcore.explain(Model(), [torch.randn(3, 5)], min_block_size=1)
    assert report.plugins == ()
    assert any("no converter for plugins.gate.default" in node.reason for node in report.in_torch)


class ComposedPlugin:
    """A kernel plugin whose converter makes ordinary layers: what the core does with plugins, on any backend."""

    name, deployable = "plugins::gate", False

    @property
    def converter(self) -> Converter:
        def convert(ctx: Any, x: Any, slope: float = 1.0) -> Any:
            return ctx.elementwise(x, ctx.activation(ctx.elementwise(x, slope, "PROD"), "SIGMOID"), "PROD")

        return Converter(GATE, convert, supports_dynamic_shapes=True)


def test_the_manifest_and_the_report_name_the_plugins_in_engines() -> None:
    x = torch.randn(3, 5)
    with scoped_registry():
        register_kernel_plugin(ComposedPlugin(), __name__)
        compiled = trtcore.compile(Model(), [x], min_block_size=1)
    torch.testing.assert_close(compiled(x), Model()(x))
    (found,) = compiled.report.plugins
    assert (found.ops, found.in_torch) == (1, 0)
    assert "1 x in an engine; a Python callback: the engine does not run outside Python" in str(
        compiled.report
    )
    texts = [arg for node in compiled.graph.nodes for arg in node.args if isinstance(arg, str)]
    (manifest,) = [EngineManifest.from_json(text) for text in texts if text.startswith("{")]
    record = {"name": "plugins::gate", "distribution": "", "version": "", "deployable": False}
    assert [dict(plugin) for plugin in manifest.plugins] == [record]


def test_python_callbacks_are_registered_before_an_engine_is_loaded() -> None:
    x = torch.randn(3, 5)
    with scoped_registry():
        register_kernel_plugin(ComposedPlugin(), __name__)
        compiled = trtcore.compile(Model(), [x], min_block_size=1)
    texts = [arg for node in compiled.graph.nodes for arg in node.args if isinstance(arg, str)]
    (manifest,) = [EngineManifest.from_json(text) for text in texts if text.startswith("{")]
    with pytest.raises(BackendUnavailableError, match="kernel plugin plugins::gate in Python"):
        register_plugins(manifest, usable_backend())
    prepared: list[Any] = []

    class Prepared(ComposedPlugin):
        def prepare(self, backend: Any) -> None:
            prepared.append(backend)

    with scoped_registry():
        register_kernel_plugin(Prepared(), __name__)
        register_plugins(manifest, usable_backend())
    assert prepared == [usable_backend()]
    with pytest.raises(ConversionError, match="has no plugin layers"):
        generate_plugin("plugins::gate").prepare(usable_backend())


def test_what_is_no_kernel_plugin_is_refused() -> None:
    with pytest.raises(PackError, match="is no kernel plugin"):
        register_kernel_plugin(object(), __name__)  # type: ignore[arg-type]


def test_generated_converters_are_the_plugins() -> None:
    converter = generate_converter("plugins::gate", priority=7)
    assert (converter.target, converter.priority, converter.requires.plugins) == (GATE, 7, True)
    assert converter.plugin is not None
    assert converter.plugin.name == "plugins::gate"


# ---- the capability validator, which a backend without plugin layers never asks ---------------------------


def verdict(
    plugin: Any, function: Any, inputs: tuple[torch.Tensor, ...], rows: Any = None, ctx: Any = None
) -> Any:
    class Module(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> Any:
            return function(*inputs)

    shapes = (tuple({0: rows} for _ in inputs),) if rows is not None else None
    program = torch.export.export(Module(), inputs, dynamic_shapes=shapes)
    (node,) = [node for node in program.graph.nodes if node.target is plugin.op]
    return plugin.validate(node, ctx)


ROWS = torch.export.Dim("rows", min=6, max=100)


def test_a_node_whose_shapes_can_be_followed() -> None:
    plugin = generate_plugin("plugins::gate")
    assert verdict(plugin, lambda x: plugin.op(x, 2.0), (torch.randn(8, 6),)) is True
    assert verdict(plugin, lambda x: plugin.op(x[1:], 2.0), (torch.randn(8, 6),), ROWS) is True


def test_an_attribute_that_depends_on_a_size() -> None:
    lib = torch.library.Library("plugins", "FRAGMENT")
    lib.define("first(Tensor x, SymInt n) -> Tensor")
    lib.impl("first", lambda x, n: x[:n].clone(), "CompositeExplicitAutograd")
    torch.library.register_fake("plugins::first", lambda x, n: x.new_empty(n, x.shape[1]), lib=lib)
    plugin = generate_plugin("plugins::first")
    answer = verdict(plugin, lambda x: plugin.op(x, x.shape[0] // 2), (torch.randn(8, 3),), ROWS)
    assert isinstance(answer, Reject)
    assert "n depends on a size" in answer.reason
    assert verdict(plugin, lambda x: plugin.op(x, 2), (torch.randn(8, 3),), ROWS) is True


def test_an_op_that_writes_to_its_input() -> None:
    lib = torch.library.Library("plugins", "FRAGMENT")
    lib.define("bump_(Tensor(a!) x) -> ()")
    plugin = generate_plugin("plugins::bump_")
    graph = torch.fx.Graph()
    node = graph.call_function(plugin.op, (graph.placeholder("x"),))
    answer = plugin.validate(node, None)
    assert "writes to x" in answer.reason


def test_a_fake_implementation_that_changed_its_mind() -> None:
    """What the plugin would tell TensorRT is compared with the graph, in the range of its sizes."""
    plugin = generate_plugin("plugins::gate")

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return plugin.op(x, 2.0)

    program = torch.export.export(Module(), (torch.randn(8, 6),), dynamic_shapes=({0: ROWS},))
    (node,) = [node for node in program.graph.nodes if node.target is plugin.op]
    node.meta["val"] = node.meta["val"].new_empty(node.meta["val"].shape[0] * 2, 6)
    answer = plugin.validate(node, None)
    assert "its shapes cannot be followed" in answer.reason
    node.meta["val"] = node.meta["val"].half()
    assert "the graph has outputs" in plugin.validate(node, None).reason


def test_a_triton_kernel_that_cannot_be_compiled_for_the_target() -> None:
    pytest.importorskip("triton")
    from types import SimpleNamespace

    from toy_kernels import axpy, row_stats

    ctx = SimpleNamespace(target=SimpleNamespace(compute_capability=(9, 0)))
    pair = (torch.randn(8, 6), torch.randn(8, 6))
    assert verdict(axpy, lambda x, y: axpy.op(x, y, 2.0), pair, ROWS, ctx) is True
    nowhere = SimpleNamespace(target=SimpleNamespace(compute_capability=None))
    assert row_stats.deployable
    if torch.cuda.is_available():  # which is the target, then
        return
    assert "no target" in verdict(axpy, lambda x, y: axpy.op(x, y, 2.0), pair, ROWS, nowhere).reason
    with pytest.raises(ConversionError, match="no target"):
        row_stats.definition((), nowhere)
