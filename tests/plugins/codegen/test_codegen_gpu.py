"""Generated kernels on a real GPU: sizes from 1 to 2^28 elements and beyond 2^31, all dtypes, NaN and infinities."""

from __future__ import annotations

import pytest
import torch
from codegen_cases import CASES, POINTWISE, Case, assert_right, make_inputs

from trtcore_plugins.codegen.plan import run
from trtcore_plugins.codegen.rules import Unsupported
from trtcore_plugins.codegen.trace import program_of

pytestmark = pytest.mark.gpu

SHAPES = ((1, 1), (1, 5), (3, 1), (7, 63), (33, 1000), (257, 1025), (1000, 4096), (5, 40001), (2, 3, 5, 129))


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    case = CASES[name]
    failures = []
    for dtype in case.dtypes:
        for shape in SHAPES:
            for special in (False, True) if case.special and dtype.is_floating_point else (False,):
                inputs = make_inputs(case, shape, dtype, "cuda", special)
                try:
                    program = program_of(case.function, *inputs)
                except Exception as error:
                    if "size 1" in str(error) or "one element" in str(error) or "smaller" in str(error):
                        continue  # nothing to fuse at this size
                    raise
                try:
                    assert_right(case.function, inputs, run(program, inputs, poisoned=True))
                except AssertionError as error:
                    failures.append(f"{dtype} {shape} special={special}: {error}"[:300])
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    "name", ["gelu_bias", "where", "sum", "columns", "argmax", "everything", "softmax", "rms_norm"]
)
@pytest.mark.parametrize("shape", [(65536, 4096), (262147, 1023), (16, 1 << 24)], ids=str)
def test_large(name: str, shape: tuple[int, int]) -> None:
    """About 2^28 elements."""
    case = CASES[name]
    inputs = make_inputs(case, shape, torch.bfloat16, "cuda")
    program = program_of(case.function, *inputs)
    results = run(program, inputs, poisoned=True)
    function = case.function
    if name in ("columns", "sum", "everything", "argmax") or shape[1] > 5000:
        assert_right(function, inputs, results)
        return
    for rows in (slice(0, 4000), slice(shape[0] - 4000, None)):
        part = [x[rows] if x.shape[0] == shape[0] else x for x in inputs]
        assert_right(function, part, [one[rows] for one in results])


LONG = ("argmax", "max_values_indices", "var", "softmax", "log_softmax", "exponentials", "layer_norm")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(200, 40001), (140, 131072), (3, 100003)], ids=str)
@pytest.mark.parametrize("name", LONG)
def test_long_rows(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Rows that are walked in a loop, or in pieces."""
    case = CASES[name]
    for special in (False, True) if case.special else (False,):
        inputs = make_inputs(case, shape, dtype, "cuda", special)
        if special:
            inputs[0][1] = float("-inf")
        program = program_of(case.function, *inputs)
        assert_right(case.function, inputs, run(program, inputs, poisoned=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
@pytest.mark.parametrize("shape", [(70001, 4096), (8192, 1000), (513, 129)], ids=str)
def test_down_columns(shape: tuple[int, int], dtype: torch.dtype) -> None:
    for name in (
        ("columns", "column_max", "softmax_columns") if dtype.is_floating_point else ("sum_columns_ints",)
    ):
        case = CASES.get(name, Case(lambda x: x.sum(0)))
        inputs = make_inputs(case, shape, dtype, "cuda", special=dtype.is_floating_point)
        assert_right(case.function, inputs, run(program_of(case.function, *inputs), inputs, poisoned=True))


def test_beyond_32_bits() -> None:
    """More than 2^31 elements."""
    count = (1 << 31) + 12345
    x = torch.randint(0, 2, (count,), device="cuda", dtype=torch.int8)
    program = program_of(lambda x: x * 2 + 1, x[:100])
    (result,) = run(program, [x], poisoned=True)
    assert bool((result == x * 2 + 1).all())
    del result
    total = run(program_of(lambda x: x.sum(), x[:100]), [x], poisoned=True)[0]
    assert total.item() == x.sum().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides(dtype: torch.dtype) -> None:
    case = POINTWISE["swiglu"]
    x, y = make_inputs(case, (64, 96, 130), dtype, "cuda")
    layouts = (
        (x.transpose(0, 1), y.transpose(0, 1)), (x.permute(2, 0, 1), y.permute(2, 0, 1).contiguous()),
        (x[::2, :, 1::3], y[::2, :, ::3][..., :43]), (x[:, :1].expand_as(x), y), (x.mT, y.mT.contiguous()),
    )  # fmt: skip
    for one, two in layouts:
        program = program_of(case.function, one, two)
        assert_right(case.function, [one, two], run(program, [one, two], poisoned=True))


def test_rounding_is_torchs() -> None:
    """Every op rounds, and no product is fused with a sum: results are eager's, bit for bit."""

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x * y + x) * 3 - y * x

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x, y = torch.randn(2, 1 << 20, device="cuda").to(dtype).unbind()
        (result,) = run(program_of(function, x, y), [x, y], poisoned=True)
        assert torch.equal(result, function(x, y))


def test_other_sizes_use_the_same_kernels() -> None:
    from trtcore_plugins.codegen.plan import compiled, make_plan

    function = CASES["softmax"].function
    program = program_of(function, torch.randn(8, 512, device="cuda"))
    kernels = set()
    for rows in range(16, 4000, 496):
        x = torch.randn(rows, 512, device="cuda")
        plan = make_plan(program, [x], ())
        assert plan is not None
        kernels.update(compiled(launch.kernel) for launch in plan.launches)
        assert_right(function, [x], run(program, [x], poisoned=True))
    assert len(kernels) == 1


def test_random_graphs() -> None:
    """500 subgraphs of the fuzz test, compiled: none may be wrong."""
    import hypothesis
    from test_codegen_fuzz import assert_like_eager, common, graphs

    @hypothesis.settings(max_examples=500, derandomize=True, **common)
    @hypothesis.given(graphs())
    def check(drawn: object) -> None:
        function, inputs = drawn  # type: ignore[misc]
        inputs = [x.cuda() for x in inputs]
        try:
            program = program_of(function, *inputs)
        except Unsupported:
            hypothesis.reject()
        results = run(program, inputs, poisoned=True)
        assert_like_eager(function, inputs, results)

    check()


def test_a_compiled_model_runs_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on the GPU, its ops fused by name: the result is eager's, and the kernels were launched."""
    import trtcore
    from trtcore_plugins.codegen import plan

    class Gate(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return self.second(torch.special.entr(torch.sigmoid(y)) * y)

    launched: list[str] = []
    execute = plan.execute

    def counted(made: plan.Plan, *args: object, **kwargs: object) -> object:
        launched.extend(launch.kernel.name for launch in made.launches)
        return execute(made, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(plan, "execute", counted)
    model, x = Gate().cuda().eval(), torch.randn(32, 64, device="cuda")
    compiled = trtcore.compile(
        model, inputs=[x], min_block_size=1, fused_ops=["aten.special_entr", "aten.sigmoid", "aten.mul"]
    )
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-4)
    assert any(name.startswith("fused_sigmoid") for name in launched)
