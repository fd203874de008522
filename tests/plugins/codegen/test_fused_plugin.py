"""Generated kernels as plugins: one launch for all sizes, and what becomes of the op on backends with and without them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from codegen_cases import CASES, assert_right, make_inputs

pytest.importorskip("triton")

import trtcore
from trtcore.testing import usable_backend
from trtcore_plugins.codegen import plan
from trtcore_plugins.codegen.plugin import program_plugin
from trtcore_plugins.codegen.program import Program
from trtcore_plugins.codegen.rules import Unsupported
from trtcore_plugins.codegen.symbolic import SymbolicLaunch, evaluated, plan_symbolic
from trtcore_plugins.codegen.trace import program_of
from trtcore_plugins.tracing import TensorSpec, symbol_name

pytestmark = pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning", "ignore:divide by zero:RuntimeWarning"
)  # fmt: skip

NAMES = (
    "gelu_bias", "tanh_scaled", "max_values_indices", "column_max", "log_softmax", "softmax_columns", "rms_norm_residual",
)  # fmt: skip


def at_sizes(symbolic: SymbolicLaunch, inputs: Sequence[torch.Tensor], program: Program) -> plan.Plan:
    """The launch as TensorRT would make it for these inputs."""
    shapes = [x.shape for x in inputs]
    arguments = tuple(
        one if isinstance(one, str) else evaluated(one, shapes) for one in symbolic.launch.arguments
    )
    launch = replace(
        symbolic.launch, grid=max(1, evaluated(symbolic.launch.grid, shapes)), arguments=arguments
    )
    outputs = []
    for dims, number in zip(symbolic.shapes, program.outputs):
        size = tuple(evaluated(dim, shapes) for dim in dims)
        outputs.append((size, torch.empty(size, device="meta").stride(), program.specs[number].dtype))
    return plan.Plan((launch,), tuple(outputs))


def specs_of(
    inputs: Sequence[torch.Tensor], varying: Sequence[int], most: int = 64
) -> tuple[list[TensorSpec], dict[str, int | None]]:
    """The inputs with the dims `varying`, counted from the right, dynamic where they are not of size 1."""
    specs, bounds = [], {}
    for at, x in enumerate(inputs):
        shape = tuple(None if d - x.dim() in varying and size > 1 else size for d, size in enumerate(x.shape))
        specs.append(TensorSpec(x.dtype, shape))
        bounds.update({symbol_name(at, d): most for d, size in enumerate(shape) if size is None})
    return specs, bounds


@pytest.mark.parametrize("varying", [(-3,), (-1, -2, -3)], ids=["batch", "everything"])
@pytest.mark.parametrize("name", NAMES)
def test_one_launch_computes_every_size(name: str, varying: tuple[int, ...]) -> None:
    """In the interpreter, with the grid and the arguments that the expressions give at each size."""
    case, randoms = CASES[name], random.Random(name)
    dtype = case.dtypes[-1]
    program = program_of(case.function, *make_inputs(case, (5, 6, 7), dtype))
    symbolic = None
    for _ in range(2):
        shape = [randoms.randint(2, 19) if at - 3 in varying else (5, 6, 24)[at] for at in range(3)]
        inputs = make_inputs(case, shape, dtype)
        specs, bounds = specs_of(inputs, varying)
        made = plan_symbolic(program, specs, bounds)
        assert symbolic is None or made.launch.kernel == symbolic.launch.kernel
        symbolic = symbolic or made
        results = plan.execute(at_sizes(symbolic, inputs, program), inputs, interpret=True, poisoned=True)
        assert_right(case.function, inputs, results)


def test_sizes_without_a_limit_are_indexed_with_64_bits() -> None:
    program = program_of(lambda x: torch.tanh(x) * 2, torch.randn(3, 4))
    spec = TensorSpec(torch.float32, (None, 4))
    assert plan_symbolic(program, [spec], {}).launch.wide
    assert not plan_symbolic(program, [spec], {"d0_0": 1000}).launch.wide


@pytest.mark.parametrize(
    ("function", "shape", "reason"),
    [
        (lambda x: x.sum(), (4096, 4096), "few, long rows take several kernels"),
        (lambda x: torch.tanh(x) * 2, (1 << 20, 1 << 12), "more than 2\\^31 elements"),
    ],
)
def test_what_one_launch_cannot_do(function: Any, shape: tuple[int, int], reason: str) -> None:
    program = program_of(function, torch.randn(3, 4))
    with pytest.raises(Unsupported, match=reason):
        plan_symbolic(program, [TensorSpec(torch.float32, shape)], {})


def test_one_plugin_per_program_and_kind_of_sizes() -> None:
    program = program_of(lambda x: torch.softmax(x * 2, -1), torch.randn(3, 40))
    kinds = [
        program_plugin(program, [TensorSpec(torch.float32, shape)], {"d0_0": 64, "d0_1": 64})
        for shape in ((None, 40), (None, None), (None, 40))
    ]
    assert kinds[0] is kinds[2]
    assert kinds[0].name != kinds[1].name
    x = torch.randn(6, 40)
    torch.testing.assert_close(kinds[0](x), torch.softmax(x * 2, -1))  # the reference, on the CPU


# ---- in a compile -------------------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """Two chains that no converter takes between three linears: two kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers[0](x)
        y = self.layers[1](torch.special.entr(torch.sigmoid(y)) * y)
        values, at = torch.max(torch.sinh(y) * 0.5, -1, keepdim=True)
        return self.layers[2](y - values) + at


FUSED = ["aten.special_entr", "aten.sigmoid", "aten.mul", "aten.max", "aten.sub", "aten.sinh"]


def explained(**settings: Any) -> trtcore.Report:
    x = trtcore.Input(min_shape=(2, 16), opt_shape=(4, 16), max_shape=(512, 16))
    return trtcore.explain(Model().eval(), inputs=[x], min_block_size=1, fused_ops=FUSED, **settings)


def kernels_of(report: trtcore.Report) -> list[Any]:
    return [node for node in report.nodes if node.op == "trtcore_fused.run.default"]


@pytest.mark.usefixtures("trt_backend")
def test_without_plugin_layers_it_runs_in_torch_and_the_report_says_what_a_plugin_would_do() -> None:
    report = explained()
    fused = kernels_of(report)
    assert fused
    assert not any(node.in_engine for node in fused)
    assert all(
        "tensorrt_rtx has no plugin layers, with which it would stay in the engine" in node.reason
        for node in fused
    )
    (found,) = report.plugins
    assert (found.name, found.ops, found.in_torch, found.deployable) == (
        "trtcore_fused::run",
        0,
        len(fused),
        True,
    )
    assert "with a backend that has them (tensorrt) the op would not end an engine" in str(report)
    assert len(report.engines) > 1


@pytest.mark.usefixtures("trt_backend")
def test_with_plugin_layers_the_engine_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is planned for a backend with plugin layers; nothing is built. Kernels are compiled for its target."""
    monkeypatch.setattr(type(usable_backend()), "has_plugins", True)
    report = explained(device="sm_89")
    fused = kernels_of(report)
    assert fused
    assert all(node.in_engine for node in fused), [node.reason for node in fused]
    assert len(report.engines) == 1
    (found,) = report.plugins
    assert (found.ops, found.in_torch) == (len(fused), 0)


@pytest.mark.usefixtures("trt_backend")
def test_why_a_kernel_is_no_plugin_is_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(usable_backend()), "has_plugins", True)

    class Total(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(x).sum() + 1

    report = trtcore.explain(
        Total(),
        [torch.randn(2048, 64)],
        min_block_size=1,
        device="sm_89",
        fused_ops=["aten.sigmoid", "aten.sum"],
    )
    (fused,) = kernels_of(report)
    for words in ("generated kernel fused_sigmoid_sum_", "runs in torch between engines", "few, long rows"):
        assert words in fused.reason
