"""Scripts' calls by their old names, with real engines."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trtcore_contrib_torch_tensorrt as torch_tensorrt
from trtcore_contrib_torch_tensorrt import NotHereError
from trtcore_contrib_torch_tensorrt.dynamo._engine_cache import BaseEngineCache
from trtcore_contrib_torch_tensorrt.dynamo.lowering._decompositions import register_torch_trt_decomposition
from trtcore_contrib_torch_tensorrt.dynamo.lowering.passes import _aten_lowering_pass, dump_lowering_passes
from trtcore_contrib_torch_tensorrt.dynamo.lowering.passes.pass_utils import (
    clean_up_graph_after_modifications,
)

import trtcore
from trtcore.errors import ArtifactError, BackendUnavailableError, InputError, SettingsError
from trtcore.pack import scoped_registry


def make(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()


MODEL, X = make(), torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
RANGE = torch_tensorrt.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(4, 8), dtype=torch.float32)
ONE = {"min_block_size": 1}


def same(compiled: Callable[..., Any], model: torch.nn.Module = MODEL, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(compiled(X), model(X), rtol=tolerance, atol=tolerance)


def engines(compiled: Any) -> int:
    return sum("execute_engine" in str(node.target) for node in compiled.graph.nodes)


@pytest.fixture(scope="module")
def compiled() -> Any:
    return torch_tensorrt.compile(MODEL, ir="dynamo", inputs=[X], use_python_runtime=False, **ONE)


def test_ahead_of_time_with_a_range() -> None:
    made = torch_tensorrt.compile(
        MODEL, ir="dynamo", inputs=[RANGE], enabled_precisions={torch.float32}, optimization_level=3, **ONE
    )
    same(made)
    assert engines(made) == 1
    made(torch.randn(4, 8))
    with pytest.raises(trtcore.errors.InputError):
        made(torch.randn(5, 8))


@pytest.mark.slow
def test_half_precision_is_autocast() -> None:
    made = torch_tensorrt.compile(MODEL, inputs=[X], enabled_precisions={torch_tensorrt.dtype.half}, **ONE)
    same(made, tolerance=1e-2)
    assert made.report.settings["enabled_precisions"] == ["torch.float16"]
    assert not torch.equal(made(X), MODEL(X))


@pytest.mark.parametrize("backend", ["torch_tensorrt", pytest.param("tensorrt", marks=pytest.mark.slow)])
def test_torch_compile(backend: str) -> None:
    """With gradients on, as scripts have them."""
    torch._dynamo.reset()
    options = {
        "use_python_runtime": True,
        "enabled_precisions": {torch.float32},
        "truncate_double": True,
        **ONE,
    }
    same(torch.compile(MODEL, backend=backend, options=options))
    assert trtcore.dynamo.reports()


@pytest.mark.slow
def test_torch_compile_by_ir() -> None:
    torch._dynamo.reset()
    same(torch_tensorrt.compile(MODEL, ir="torch_compile", inputs=[X], **ONE))
    with pytest.raises(NotHereError):
        torch_tensorrt.compile(MODEL, ir="torch_compile", weight_streaming_budget=3)


@pytest.mark.slow
def test_script_modules_and_graph_modules() -> None:
    script = torch.jit.trace(MODEL, X)
    inputs = [torch_tensorrt.Input((2, 8))]
    same(torch_tensorrt.compile(script, inputs=inputs, **ONE))
    same(
        torch_tensorrt.ts.compile(
            script, inputs=inputs, capability=torch_tensorrt.EngineCapability.STANDARD, **ONE
        )
    )
    assert torch_tensorrt.ts.convert_method_to_trt_engine(script, inputs=inputs)
    same(torch_tensorrt.compile(torch.fx.symbolic_trace(MODEL), ir="fx", inputs=[X], **ONE))
    same(torch_tensorrt.fx.compile(MODEL, [X], min_acc_module_size=1, explicit_batch_dimension=True))


def test_dynamo_step_by_step() -> None:
    program = torch_tensorrt.dynamo.trace(MODEL, arg_inputs=[RANGE], **ONE)
    same(torch_tensorrt.dynamo.compile(program, arg_inputs=[RANGE], device=None, **ONE))
    plan = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
        program, arg_inputs=[RANGE]
    )
    assert isinstance(plan, bytes)
    assert len(plan) > 1000
    with pytest.raises(NotHereError, match="ranges come from the inputs"):
        torch_tensorrt.dynamo.trace(MODEL, [X], dynamic_shapes=({0: torch.export.Dim("n")},))


def test_one_engine() -> None:
    plan = torch_tensorrt.convert_method_to_trt_engine(MODEL, "forward", inputs=[X], ir="dynamo")
    assert isinstance(plan, bytes)
    with pytest.raises(NotHereError, match="a compile takes forward"):
        torch_tensorrt.convert_method_to_trt_engine(MODEL, "predict", inputs=[X])
    with pytest.raises(NotHereError, match="binding_names"):
        torch_tensorrt.convert_method_to_trt_engine(MODEL, inputs=[X], output_binding_names=["y"])


class TwoOfEach(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x @ y, x.relu() - 1


@pytest.fixture(scope="module")
def serialized() -> Any:
    """An engine of `TwoOfEach`."""
    rows = torch_tensorrt.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    return torch_tensorrt.convert_method_to_trt_engine(
        TwoOfEach(), ir="dynamo", inputs=[rows, torch.rand(4, 3)]
    )


@pytest.mark.parametrize("kind", ["PythonTorchTensorRTModule", "TorchTensorRTModule"])
def test_a_module_of_a_serialized_engine(serialized: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(serialized)
    plan = (tmp_path / "model.engine").read_bytes()
    assert type(plan) is bytes
    wrapped = getattr(torch_tensorrt.runtime, kind)
    assert wrapped is getattr(torch_tensorrt.dynamo.runtime, kind)
    x, y = torch.randn(5, 4), torch.randn(4, 3)
    module = wrapped(plan, name="mine", settings=torch_tensorrt.dynamo.CompilationSettings())
    module.setup_engine()
    torch.testing.assert_close(module(x, y), TwoOfEach()(x, y))
    torch.testing.assert_close(copy.deepcopy(module).eval()(x, y), TwoOfEach()(x, y))
    assert "mine: ['x', 'y'] -> [" in repr(module)
    last = module.output_binding_names[1]
    turned = wrapped(plan, input_binding_names=["y", "x"], output_binding_names=[last])
    torch.testing.assert_close(turned(y, x), TwoOfEach()(x, y)[1])
    torch.testing.assert_close(turned(y.tolist(), x), TwoOfEach()(x, y)[1])
    with pytest.raises(InputError, match=r"8"):
        module(torch.randn(9, 4), y)
    with pytest.raises(InputError, match=r"2 inputs, .'x', 'y'.*called with 1"):
        module(x)
    with pytest.raises(InputError, match=r"inputs are called .'x', 'y'., not .'x'."):
        wrapped(plan, ["x"])
    with pytest.raises(InputError, match="outputs are called"):
        wrapped(plan, None, ["nobody"])


def test_bytes_that_this_process_does_not_know() -> None:
    module = torch_tensorrt.runtime.PythonTorchTensorRTModule
    given = torch_tensorrt.convert_method_to_trt_engine(torch.nn.ReLU(), inputs=[torch.ones(2, 3)])
    plan = bytes(bytearray(given))
    module(plan)(torch.ones(2, 3))
    assert type(pickle.loads(pickle.dumps(given))) is bytes
    del given
    gc.collect()
    for unknown in (plan, b"plan", None):
        with pytest.raises(NotHereError, match="bytes alone do not say") as told:
            module(unknown, ["x"], ["y"])
        assert "torch_tensorrt.save(compiled, path)" in str(told.value)


class Kept(BaseEngineCache):
    """A cache as scripts have them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, hash: str, blob: bytes) -> None:
        (self.folder / hash).write_bytes(blob)

    def load(self, hash: str) -> bytes | None:
        path = self.folder / hash
        return path.read_bytes() if path.exists() else None


def test_an_engine_cache_of_ones_own(tmp_path: Path) -> None:
    cached = {
        "cache_built_engines": True,
        "reuse_cached_engines": True,
        "custom_engine_cache": Kept(tmp_path),
    }
    first = torch_tensorrt.dynamo.compile(torch.export.export(MODEL, (X,)), [X], **ONE, **cached)
    again = torch_tensorrt.dynamo.compile(torch.export.export(MODEL, (X,)), [X], **ONE, **cached)
    same(first)
    same(again)
    assert [[one.cached for one in made.report.engines] for made in (first, again)] == [[False], [True]]
    assert len(list(tmp_path.iterdir())) == 1


def test_save_and_load(compiled: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.ep"
    torch_tensorrt.save(compiled, path, inputs=[X], retrace=False)
    loaded = torch_tensorrt.load(path)
    same(loaded)
    same(loaded.module())
    same(torch.export.load(path).module())
    same(pickle.loads(pickle.dumps(loaded)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(trtcore.errors.TrtcoreError):
        torch_tensorrt.load(path)
    for kind in ("torchscript", "aot_inductor", "executorch"):
        with pytest.raises(NotHereError, match="leave output_format out"):
            torch_tensorrt.save(compiled, tmp_path / "other", output_format=kind)


def test_engines_for_windows(compiled: Any, tmp_path: Path) -> None:
    """TensorRT for RTX says itself that it builds none here."""
    rtx = torch_tensorrt.ENABLED_FEATURES.tensorrt_rtx
    assert torch_tensorrt.ENABLED_FEATURES.windows_cross_compile is not rtx
    path, program = str(tmp_path / "a.ep"), torch.export.export(MODEL, (X,))
    if rtx:
        for compile in (
            lambda: torch_tensorrt.cross_compile_for_windows(MODEL, path, inputs=[X], **ONE),
            lambda: torch_tensorrt.dynamo.cross_compile_for_windows(
                program, [X], enabled_precisions={torch.half}, **ONE
            ),
        ):
            with pytest.raises(SettingsError, match="enable_cross_compile_for_windows=True cannot be done"):
                compile()
    else:
        torch_tensorrt.cross_compile_for_windows(MODEL, path, inputs=[X], **ONE)
        assert Path(path).stat().st_size
    with pytest.raises(ArtifactError, match="which is built for linux"):
        torch_tensorrt.dynamo.save_cross_compiled_exported_program(compiled, path)
    for load in (
        torch_tensorrt.load_cross_compiled_exported_program,
        torch_tensorrt.dynamo.load_cross_compiled_exported_program,
    ):
        with pytest.raises(BackendUnavailableError, match="Windows"):
            load(path)


@pytest.mark.slow
def test_other_files_load_as_what_they_are(tmp_path: Path) -> None:
    torch_tensorrt.save(torch.export.export(MODEL, (X,)), tmp_path / "a.ep")
    same(torch_tensorrt.load(tmp_path / "a.ep").module())
    torch_tensorrt.save(torch.jit.trace(MODEL, X), tmp_path / "a.ts", output_format="torchscript", inputs=[X])
    same(torch_tensorrt.load(tmp_path / "a.ts"))
    (tmp_path / "text").write_text("nothing of the kind")
    with pytest.raises(trtcore.errors.ArtifactError):
        torch_tensorrt.load(tmp_path / "text")
    with pytest.raises(trtcore.errors.InputError, match="there is no file"):
        torch_tensorrt.load(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_compiled_module_as_a_program(compiled: Any) -> None:
    same(torch_tensorrt.dynamo.export(compiled).module())


def test_refit(compiled: Any) -> None:
    other = make(2)
    refitted = torch_tensorrt.dynamo.refit_module_weights(
        compiled, torch.export.export(other, (X,)), arg_inputs=[X], verify_output=True
    )
    same(refitted, other)
    same(compiled)


@pytest.mark.slow
def test_mutable_module(tmp_path: Path) -> None:
    settings = {
        "use_python_runtime": False,
        "enabled_precisions": {torch.float32},
        "immutable_weights": False,
    }
    mutable = torch_tensorrt.MutableTorchTensorRTModule(make(), **settings, **ONE)
    assert isinstance(mutable, torch_tensorrt.MutableTorchTensorRTModule)
    same(mutable, make())
    mutable.load_state_dict(make(2).state_dict())
    same(mutable, make(2))
    torch_tensorrt.MutableTorchTensorRTModule.save(mutable, tmp_path / "m")
    same(torch_tensorrt.MutableTorchTensorRTModule.load(tmp_path / "m", make()), make(2))
    with pytest.raises(NotHereError, match="files hold weights and engines"):
        torch_tensorrt.MutableTorchTensorRTModule.load(tmp_path / "m")


def test_runtime(compiled: Any) -> None:
    runtime = torch_tensorrt.runtime
    with runtime.enable_cudagraphs(compiled) as graphed:
        same(graphed)
    for switch in (runtime.enable_pre_allocated_outputs, runtime.enable_output_allocator):
        with switch(compiled) as module:
            same(module)
    runtime.enable_pre_allocated_outputs(compiled).set_pre_allocated_output(True)
    runtime.enable_output_allocator(compiled).set_output_allocator_output(True)
    with runtime.set_multi_device_safe_mode(True), runtime.optimization_profile(compiled, "auto"):
        same(compiled)
    with runtime.runtime_config(compiled), runtime.set_runtime_backend("python"):
        same(compiled)
    runtime.set_cudagraphs_mode(False)
    assert not runtime.get_cudagraphs_mode()
    assert not runtime.get_whole_cudagraphs_mode()
    with pytest.raises(NotHereError, match="cuda_graph_strategy"):
        runtime.RuntimeSettings(cuda_graph_strategy="whole_graph_capture")


def test_logging() -> None:
    import logging

    levels, logger = torch_tensorrt.logging, logging.getLogger("trtcore")
    before = logger.level
    try:
        levels.set_reportable_log_level(levels.Level.Error)
        assert levels.get_reportable_log_level() is levels.Level.Error
        with levels.debug():
            assert logger.level == logging.DEBUG
        with levels.graphs:
            assert logger.level == 5
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(before)


@pytest.mark.slow
def test_debugger(tmp_path: Path) -> None:
    with torch_tensorrt.dynamo.Debugger(
        "graphs", capture_fx_graph_after=["constant_fold"], logging_dir=tmp_path, save_layer_info=True
    ):
        torch_tensorrt.compile(MODEL, inputs=[X], **ONE)
    assert list(tmp_path.glob("0/graphs/*"))
    assert list(tmp_path.glob("0/layers/*"))
    with pytest.raises(NotHereError, match=r"trtcore.runtime.profile"):
        torch_tensorrt.dynamo.Debugger(save_engine_profile=True)


def test_a_gpu_that_is_not_there_is_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.warns(UserWarning, match="torch sees no GPU here"):
        assert torch_tensorrt._settings.as_settings({"device": torch_tensorrt.Device("cuda:0")}) == {
            "device": None
        }


# Passes and plugins -------------------------------------------------------------------------------------


def _gelu_for_relu(gm: torch.fx.GraphModule) -> torch.fx.GraphModule:
    for node in list(gm.graph.nodes):
        if node.target in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
            with gm.graph.inserting_before(node):
                node.replace_all_uses_with(
                    gm.graph.call_function(torch.ops.aten.gelu.default, (node.args[0],))
                )
    return clean_up_graph_after_modifications(gm)


@pytest.mark.parametrize("older", [False, True])
def test_a_lowering_pass(older: bool) -> None:
    seen: list[Any] = []
    with scoped_registry():
        if older:

            @_aten_lowering_pass
            def swap(gm: torch.fx.GraphModule, sample_inputs: Any) -> torch.fx.GraphModule:
                seen.append([tuple(value.shape) for value in sample_inputs if value.dim() == 2])
                return _gelu_for_relu(gm)
        else:

            @_aten_lowering_pass(index=0)
            def swap(gm: torch.fx.GraphModule, settings: Any) -> torch.fx.GraphModule:
                seen.append(settings.min_block_size)
                return _gelu_for_relu(gm)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = torch_tensorrt.compile(MODEL, inputs=[X], **ONE)
    assert "swap" in dump_lowering_passes()
    expected = torch.nn.Sequential(MODEL[0], torch.nn.GELU(), MODEL[2])
    same(made, expected)
    assert (2, 8) in seen[0] if older else seen[0] == 1


def test_a_pass_that_puts_a_function_in() -> None:
    """With a setting beside its arguments, as passes for converters of attention do."""

    class Attention(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x @ x.mT / 2, -1) @ x

    attention = torch.nn.functional.scaled_dot_product_attention
    with scoped_registry():

        @_aten_lowering_pass
        def fuse(gm: torch.fx.GraphModule, settings: Any) -> torch.fx.GraphModule:
            (x,) = gm.graph.find_nodes(op="placeholder")
            (output,) = gm.graph.find_nodes(op="output")
            with gm.graph.inserting_before(output):
                options = {"scale": 0.5, "use_fp32_acc": settings.use_fp32_acc}
                node = gm.graph.call_function(attention, (x, x, x, None, 0.0, False), options)
            node.meta = dict(output.args[0][0].meta)
            output.args[0][0].replace_all_uses_with(node)
            return clean_up_graph_after_modifications(gm)

        made = torch_tensorrt.compile(Attention(), inputs=[torch.ones(1, 3, 4)], **ONE)
    x = torch.randn(1, 3, 4)
    torch.testing.assert_close(made(x), Attention()(x), rtol=1e-4, atol=1e-4)
    assert [node.op for node in made.report.converted] == ["aten.scaled_dot_product_attention.default"]


@torch.library.custom_op("old_decompositions::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return twice(x)


def test_a_decomposition() -> None:
    table = torch_tensorrt.dynamo.lowering.TORCH_TRT_DECOMPOSITIONS
    op = torch.ops.old_decompositions.twice.default
    mine: dict[Any, Any] = {}
    with scoped_registry():

        @register_torch_trt_decomposition(torch.ops.old_decompositions.twice)
        @register_torch_trt_decomposition([op], registry=mine)
        def sum_of_two(x: torch.Tensor) -> torch.Tensor:
            return x + x

        assert dict(table) == mine == {op: sum_of_two}
        made = torch_tensorrt.compile(Twice(), inputs=[X], **ONE)
        assert [node.op for node in made.report.converted] == ["aten.add.Tensor"]
        torch.testing.assert_close(made(X), X * 2)
        assert table.pop(op) is sum_of_two
        assert table.pop(torch.ops.aten.scaled_dot_product_attention.default, None) is None
        assert not table
        made = torch_tensorrt.compile(Twice(), inputs=[X], **ONE)
        assert not made.report.converted


@torch.library.custom_op("old_plugins::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@double.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_a_plugin_runs_in_torch_where_there_are_no_plugin_layers() -> None:
    plugins = torch_tensorrt.dynamo.conversion.plugins
    with scoped_registry():
        plugins.custom_op("old_plugins::double", supports_dynamic_shapes=True)
        report = trtcore.explain(torch.nn.Sequential(MODEL, Double()), [X], **ONE)
        (node,) = [node for node in report.nodes if node.op == "old_plugins.double.default"]
        assert node.candidates[0].reason
        if not torch_tensorrt.ENABLED_FEATURES.qdp_plugin:
            assert "needs plugin layers" in node.candidates[0].reason
    with pytest.raises(NotHereError, match="requires_output_allocator"):
        plugins.custom_op("old_plugins::double", requires_output_allocator=True)


class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.old_plugins.double(x)
