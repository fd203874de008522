"""`triton_plugin`: the torch op that comes out, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from trtcore.pack import PackError

pytest.importorskip("triton")

from toy_kernels import BLOCK, LOOPS_FAIL, accumulate, axpy, axpy_kernel, interprets_loops, row_stats

from trtcore_plugins import triton_plugin

SIZES = [(1,), (7, 19), (2, 3, BLOCK), (BLOCK + 1,), (0, 3)]


@pytest.mark.interpreter
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32])
def test_the_kernel_computes_the_op(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert axpy.interpreted
    x, y = (torch.randint(-50, 50, shape).to(dtype) for _ in range(2))
    alpha = 1.0 if dtype == torch.int32 else 3.0
    torch.testing.assert_close(axpy(x, y, alpha), (x + alpha * y).to(dtype))


@pytest.mark.interpreter
def test_inputs_of_any_strides_are_made_contiguous() -> None:
    x, y = torch.randn(5, 9).t(), torch.randn(9, 10)[:, ::2]
    torch.testing.assert_close(torch.ops.toys.axpy(x, y, alpha=2.0), x + 2 * y)


@pytest.mark.interpreter
@interprets_loops
def test_several_outputs_of_their_own_dtypes_and_ranks() -> None:
    x = torch.randn(3, 4, 200)
    mean, count = row_stats(x, threshold=0.5)
    torch.testing.assert_close(mean, x.mean(-1))
    assert count.dtype == torch.int32
    torch.testing.assert_close(count, (x > 0.5).sum(-1, dtype=torch.int32))


@pytest.mark.interpreter
@pytest.mark.skipif(not LOOPS_FAIL, reason="this Triton interprets loops with this NumPy")
def test_a_loop_that_cannot_be_interpreted_says_what_to_install() -> None:
    with pytest.raises(RuntimeError, match=r"toys::row_stats: .*install triton>=3\.7, or 'numpy<2\.4'"):
        row_stats(torch.randn(3, 5))


@pytest.mark.interpreter
def test_an_op_that_writes_to_its_argument() -> None:
    state, x = torch.randn(300), torch.randn(300)
    expected = state + x
    assert accumulate(state, x) is None
    torch.testing.assert_close(state, expected)
    with pytest.raises(ValueError, match="writes to state, which must be contiguous"):
        accumulate(torch.randn(4, 4).t(), torch.randn(4, 4))


@pytest.mark.interpreter
def test_under_torch_compile_and_export_the_op_stays_whole() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return axpy(x.relu(), y, 2.0) * 3

    x, y = torch.randn(6, 33), torch.randn(6, 33)
    expected = (x.relu() + 2 * y) * 3
    compiled = torch.compile(Model(), fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), expected)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(Model(), (x, y), dynamic_shapes=({0: rows}, {0: rows}))
    assert axpy.op in [node.target for node in program.graph.nodes]
    longer = torch.randn(11, 33), torch.randn(11, 33)
    torch.testing.assert_close(program.module()(*longer), (longer[0].relu() + 2 * longer[1]) * 3)


@pytest.mark.interpreter
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("plugin", "arguments"),
    [
        (axpy, (torch.randn(3, 5), torch.randn(3, 5), 2.0)),
        pytest.param(row_stats, (torch.randn(3, 5),), marks=interprets_loops),
        (accumulate, (torch.randn(8), torch.randn(8))),
    ],
    ids=["axpy", "row_stats", "accumulate"],
)
def test_torchs_own_checks_of_custom_ops(plugin: Any, arguments: tuple[Any, ...], dynamic: bool) -> None:
    test = "test_aot_dispatch_dynamic" if dynamic else "test_aot_dispatch_static"
    results = torch.library.opcheck(plugin.op, arguments, test_utils=("test_schema", "test_faketensor", test))
    assert set(results.values()) == {"SUCCESS"}


def test_without_interpreter_the_reference_runs_on_the_cpu() -> None:
    assert not axpy.interpreted
    x, y = torch.randn(4, 4), torch.randn(4, 4)
    assert torch.equal(axpy(x, y, 0.5), x + 0.5 * y)


def test_without_interpreter_and_reference_the_cpu_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"toys::row_stats is a Triton kernel.*TRITON_INTERPRET=1"):
        row_stats(torch.randn(3, 5))


def test_outputs_on_fake_tensors() -> None:
    with torch._subclasses.FakeTensorMode():
        mean, count = row_stats(torch.empty(3, 4, 5, dtype=torch.float16))
    assert (mean.shape, mean.dtype) == ((3, 4), torch.float32)
    assert (count.shape, count.dtype) == ((3, 4), torch.int32)


def test_backward_without_a_formula_is_an_error() -> None:
    x = torch.randn(4, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"backward through toys\.axpy.* register_autograd"):
        axpy(x, torch.randn(4)).sum().backward()


def test_tensors_on_several_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="must be on one device"):
        axpy._run(torch.randn(4), torch.randn(4, device="meta"))


GOOD = {
    "schema": "(Tensor x, Tensor y, float alpha=1.0) -> Tensor",
    "shapes": lambda x: x.shape,
    "grid": (1,),
    "arguments": {"n": 4, "BLOCK": 16},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "axpy"}, "'axpy' is not the name of an op"),
        ({"schema": "(Tensor x"}, "cannot be read"),
        ({"schema": "(float x, float y, float alpha) -> Tensor"}, "at least one tensor argument"),
        ({"schema": "(Tensor x, Tensor y, float alpha) -> float"}, "returns tensors"),
        ({"schema": "(Tensor(a!) x, Tensor y, float alpha) -> Tensor(a!)"}, "may not alias"),
        ({"schema": "(Tensor x, Tensor y, Tensor out, float alpha) -> Tensor"}, "a name of its own"),
        ({"shapes": lambda z: z.shape}, "shapes asks for z; there is x, y, alpha"),
        ({"shapes": (4,)}, "is not a function"),
        ({"grid": lambda batch: batch}, "grid asks for batch"),
        ({"arguments": {"n": 4}}, "nothing gives the kernel's parameter 'BLOCK'"),
        ({"arguments": {"n": 4, "BLOCK": 16, "M": 3}}, "the kernel has no parameter M"),
        ({"kernel": 3}, "neither a Triton kernel nor a function"),
    ],
)
def test_declarations_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    options = {"name": "toys::wrong", "kernel": axpy_kernel, **GOOD, **changes}
    with pytest.raises(PackError, match=message):
        triton_plugin(options.pop("name"), options.pop("kernel"), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": lambda x: [x.shape, x.shape]}, "2 shapes for 1 outputs"),
        ({"dtypes": [torch.float32, torch.int32]}, "2 dtypes for 1 outputs"),
        ({"kernel": lambda: 3}, "3 is no Triton kernel"),
        ({"grid": (1, 1, 1, 1)}, "has 4 dimensions"),
        ({"grid": (0,)}, "leaves out unwritten"),
    ],
)
def test_declarations_whose_functions_make_no_sense(changes: dict[str, object], message: str) -> None:
    options = {"kernel": axpy_kernel, **GOOD, **changes}
    op = triton_plugin("toys::wrong_later", options.pop("kernel"), **options)
    values = {"x": torch.randn(4), "y": torch.randn(4), "alpha": 1.0}

    def use() -> None:
        op.launch({**values, "out": op.new_outputs(values)[0]}, torch.device("cpu"))
        op.kernel_arguments(values)

    with pytest.raises(PackError, match=message):
        use()


def test_declaring_again_replaces() -> None:
    options = {**GOOD, "reference": lambda x, y, alpha: x + 1}
    triton_plugin("toys::twice", axpy_kernel, **options)
    x = torch.randn(4)
    assert torch.equal(torch.ops.toys.twice(x, x), x + 1)
    triton_plugin("toys::twice", axpy_kernel, **{**options, "reference": lambda x, y, alpha: -x})
    assert torch.equal(torch.ops.toys.twice(x, x), -x)


def test_declaring_with_a_function_imports_no_triton() -> None:
    code = """
import sys, torch
import trtcore_plugins.pack
from trtcore_plugins import triton_plugin
def kernel():
    raise SystemExit("the kernel was made")
op = triton_plugin("toys::lazy", kernel, schema="(Tensor x) -> Tensor", shapes=lambda x: x.shape, grid=1)
assert op(torch.empty(3, device="meta")).shape == (3,)
print("triton" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.stdout.strip() == "False", run.stderr
