"""Generated kernels against torch in float64, through Triton's interpreter, with poisoned outputs."""

from __future__ import annotations

import pytest
import torch
from codegen_cases import CASES, assert_right, make_inputs

pytest.importorskip("triton")

from trtcore_plugins.codegen.plan import dividing_by, run
from trtcore_plugins.codegen.program import evaluate
from trtcore_plugins.codegen.trace import program_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning"
)


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    case = CASES[name]
    for dtype in {case.dtypes[0], case.dtypes[-1]}:  # all of them on a GPU
        inputs = make_inputs(case, (3, 37), dtype, special=True)
        program = program_of(case.function, *inputs)
        assert_right(case.function, inputs, run(program, inputs, interpret=True, poisoned=True))
        assert_right(case.function, inputs, evaluate(program, inputs))


@pytest.mark.parametrize("name", ["tanh_scaled", "argmax", "columns", "l2_normalize"])
@pytest.mark.parametrize("shape", [(1, 5), (4, 1), (2, 3, 130)], ids=str)
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    """A program is made at one size and right at others, those of size 1 among them."""
    case = CASES[name]
    example = make_inputs(case, tuple(7 + dim for dim in range(len(shape))), torch.float32)
    program = program_of(case.function, *example)
    inputs = make_inputs(case, shape, torch.float32)
    assert_right(case.function, inputs, run(program, inputs, interpret=True, poisoned=True))


def test_empty_tensors() -> None:
    for name, shape in (("gelu_bias", (0, 5)), ("sum", (4, 0)), ("sum", (0, 4)), ("softmax", (0, 3))):
        case = CASES[name]
        program = program_of(case.function, *make_inputs(case, (4, 5), torch.float32))
        inputs = make_inputs(case, shape, torch.float32)
        (result,) = run(program, inputs, interpret=True)
        assert torch.equal(result, case.function(*inputs))


def test_rounding_is_torchs() -> None:
    """Each op rounds its result to half precision, as in eager: the results are equal, and not only near."""

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x * y + x) * 3 - y / 7

    for dtype in (torch.float16, torch.bfloat16):
        x, y = torch.randn(2, 4096, dtype=dtype).unbind()
        (result,) = run(program_of(function, x, y), [x, y], interpret=True, poisoned=True)
        assert torch.equal(result, function(x, y))


@pytest.mark.parametrize(
    "divisor", [1, 2, 3, 5, 7, 10, 641, 1023, 1024, 1025, 65537, (1 << 30) - 1, (1 << 31) - 1]
)
def test_division_by_multiplication(divisor: int) -> None:
    magic, shift = (value & 0xFFFFFFFF for value in dividing_by(divisor))
    near = [k * divisor + d for k in (0, 1, 2, 1000, (1 << 31) // divisor) for d in (-1, 0, 1)]
    numbers = [n for n in (*near, *range(0, 1 << 31, 999_983)) if 0 <= n < 1 << 31]
    assert all(((n * magic >> 32) + n) >> shift == n // divisor for n in numbers)
