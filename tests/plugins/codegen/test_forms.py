"""Every form of kernel, at sizes small enough for the interpreter: loops, pieces, wide indices, all sorts of strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from codegen_cases import CASES, POINTWISE, Case, assert_right, make_inputs

pytest.importorskip("triton")

from trtcore_plugins.codegen import plan
from trtcore_plugins.codegen.source import scalars
from trtcore_plugins.codegen.trace import decomposed, program_of

REDUCING = (
    "max_values_indices",
    "argmin",
    "sum_ints",
    "var",
    "softmax",
    "log_softmax",
    "exponentials",
    "layer_norm",
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning"
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of more than 8 elements count as long, and tiles are small."""
    monkeypatch.setattr(plan, "LARGEST_TILE", 8)
    for name in ("loop_blocks", "piece_blocks"):
        monkeypatch.setattr(plan, name, lambda *_: plan.Blocks(1, 16, 1))
    monkeypatch.setattr(plan, "column_blocks", lambda *_: plan.Blocks(4, 8, 1))
    monkeypatch.setattr(plan, "_plans", type(plan._plans)())


def check(case: Case, inputs: Sequence[torch.Tensor], forms: set[str]) -> None:
    program = program_of(case.function, *inputs)
    made = plan.make_plan(program, inputs, ())
    assert made is not None
    assert {launch.kernel.name.rpartition("_")[2] for launch in made.launches} & ALL_FORMS == forms
    results = plan.execute(made, inputs, interpret=True, poisoned=True)
    assert_right(case.function, inputs, results)


ALL_FORMS = {"loop", "partial", "combine", "apply"}


@pytest.mark.parametrize("name", REDUCING)
def test_loops(name: str, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_MULTIPROCESSORS", 1)
    case = CASES[name]
    check(case, make_inputs(case, (3, 37), case.dtypes[-1], special=True), {"loop"})


@pytest.mark.parametrize("name", REDUCING)
def test_pieces(name: str, small: None) -> None:
    case = CASES[name]
    program = program_of(case.function, *make_inputs(case, (2, 90), case.dtypes[0]))
    forms = {"partial", "combine"}
    if plan.Planner(program, [], (), 1)._has_wide_results():
        forms.add("apply")
    check(case, make_inputs(case, (2, 90), case.dtypes[0], special=True), forms)


@pytest.mark.parametrize("multiprocessors", [1, 132], ids=["loop", "pieces"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "exponentials"])
def test_rows_of_infinities(
    name: str, multiprocessors: int, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maximum and the sum of exponentials are taken together: rows, and parts of rows, of minus infinity."""
    monkeypatch.setattr(plan, "_MULTIPROCESSORS", multiprocessors)
    x = torch.randn(4, 90)
    x[0, :40] = x[1, 30:] = x[2] = x[3, 17] = float("-inf")
    x[1, :30], x[3, 70] = 1e30, float("inf")
    pieces = {"partial", "combine"} if name == "exponentials" else {"partial", "combine", "apply"}
    for dtype in (torch.float32, torch.bfloat16):
        check(CASES[name], [x.to(dtype)], {"loop"} if multiprocessors == 1 else pieces)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "exponentials"])
def test_sums_of_exponentials_need_no_pass_of_their_own(name: str) -> None:
    program = program_of(CASES[name].function, torch.randn(3, 40))
    assert scalars(program).levels == 1
    assert [value.reduce for value in scalars(program).reductions(1)] == ["max", "sum"]


@pytest.mark.parametrize("name", ["columns", "column_max", "softmax_columns"])
@pytest.mark.parametrize("multiprocessors", [1, 132])
def test_down_columns(name: str, multiprocessors: int, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_MULTIPROCESSORS", multiprocessors)
    case = CASES[name]
    pieces = {"partial", "combine", "apply"} if name == "softmax_columns" else {"partial", "combine"}
    check(
        case,
        make_inputs(case, (70, 9), torch.float32, special=True),
        pieces if multiprocessors > 1 else {"loop"},
    )


@pytest.mark.parametrize("name", ["swiglu", "max_values_indices", "softmax", "everything"])
def test_wide_indices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_FAR", 10)
    case = CASES[name]
    inputs = [x[:, ::2, :, ::3] for x in make_inputs(case, (3, 4, 5, 30), torch.float32)]
    program = program_of(case.function, *inputs)
    made = plan.make_plan(program, inputs, ())
    assert made is not None
    assert all(launch.wide for launch in made.launches)
    assert_right(case.function, inputs, plan.execute(made, inputs, interpret=True, poisoned=True))


def _layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "transposed": x.transpose(0, 1),
        "last first": x.permute(2, 0, 1),
        "steps": x[::2, :, 1::3],
        "expanded": x[:, :1].expand_as(x),
        "one row": x[:1, :1].expand_as(x),
        "offset": x.reshape(-1)[4:].view(-1, 4),
        "channels last": x.reshape(2, 4, 3, -1).to(memory_format=torch.channels_last),
        "multiples": torch.empty_strided(x.shape, (24 * 40, 40, 1)).copy_(x),
    }


@pytest.mark.parametrize("layout", _layouts(torch.zeros(8, 6, 13)))
@pytest.mark.parametrize("name", ["swiglu", "l2_normalize"])
def test_strides(name: str, layout: str) -> None:
    """One operand strided, the other contiguous: strides of results are eager's too (`assert_right`)."""
    case: Any = CASES[name] if name in CASES else POINTWISE[name]
    x = torch.randn(8, 6, 13)
    inputs = [_layouts(x)[layout]]
    if len(case.inputs) > 1:
        inputs.append(torch.randn(inputs[0].shape))
    program = program_of(case.function, *inputs)
    assert_right(case.function, inputs, plan.run(program, inputs, interpret=True, poisoned=True))


def test_arguments_with_one_fake_tensor_are_two_arguments():
    graph = torch.fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    x.meta["val"] = y.meta["val"] = torch.empty(4, 5)
    pieces = decomposed(graph.call_function(torch.ops.aten.mse_loss.default, (x, y)))
    assert pieces is not None
    assert all(node.users for node in pieces.find_nodes(op="placeholder"))
