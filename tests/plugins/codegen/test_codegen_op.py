"""The torch op of generated kernels: registered well, symbolic, saved as data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from codegen_cases import CASES, make_inputs

import trtcore
from trtcore_plugins.codegen import generate_kernel
from trtcore_plugins.codegen.op import run
from trtcore_plugins.codegen.program import Program, ProgramError
from trtcore_plugins.codegen.rules import Unsupported
from trtcore_plugins.codegen.trace import program_of


def softmax_program() -> Program:
    return program_of(lambda x, w: torch.softmax(x * w, -1), torch.randn(4, 6), torch.randn(6))


def test_the_op_is_registered_well() -> None:
    program = softmax_program()
    torch.library.opcheck(run, ([torch.randn(3, 5), torch.randn(5)], [], program.text))


def test_sizes_stay_symbolic_under_compile() -> None:
    kernel = generate_kernel(lambda x: torch.softmax(x, -1), torch.randn(4, 6))
    compiled = torch.compile(lambda x: kernel(x + 1) * 2, dynamic=True, backend="aot_eager", fullgraph=True)
    for shape in ((2, 3), (5, 7), (8, 11)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), torch.softmax(x + 1, -1) * 2)


def test_a_symbolic_int_is_an_argument() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x * x.shape[0]) / x.shape[1]

    inputs = [trtcore.Input(min_shape=(2, 3), opt_shape=(4, 5), max_shape=(8, 9))]
    compiled = trtcore.compile(Model(), inputs=inputs, fused_ops=["aten.tanh", "aten.mul", "aten.div"])
    (call,) = [node for node in compiled.graph.nodes if node.target is run]
    assert len(call.args[1]) == 2
    for shape in ((2, 3), (5, 4), (8, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), torch.tanh(x * shape[0]) / shape[1])


def test_programs_are_data() -> None:
    for name, case in CASES.items():
        program = program_of(case.function, *make_inputs(case, (3, 4), case.dtypes[0]))
        again = Program.from_text(program.text)
        assert (again, again.name, again.text) == (program, program.name, program.text), name


@pytest.mark.slow
def test_names_are_the_same_in_every_process() -> None:
    code = (
        "import torch; from trtcore_plugins.codegen.trace import program_of; "
        "print(program_of(lambda x, w: torch.softmax(x * w, -1), torch.randn(9, 2), torch.randn(2)).name)"
    )
    run_ = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert run_.stdout.strip() == softmax_program().name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"calls": [{"op": "aten.system.default", "args": [], "kwargs": {}, "results": []}]}, "do not know the op"),
        ({"outputs": [99]}, "output"),
        ({"reduced": [7]}, "reduced axis"),
        ({"inputs": [["float32", [5]], ["float32", [1]]]}, "axis"),
        ({"inputs": [["complex64", [0]]]}, "no program"),
        ({"calls": [{"op": "aten.exp.default", "args": [{"tensor": 9}], "kwargs": {}, "results": []}]}, "not there yet"),
        ({"calls": [{"op": "aten.exp.default", "args": [{"code": "x"}], "kwargs": {}, "results": []}]}, "no program"),
    ],
)  # fmt: skip
def test_foreign_programs_are_refused(change: dict[str, object], message: str) -> None:
    plain = {**json.loads(softmax_program().text), **change}
    with pytest.raises(ProgramError, match=message):
        Program.from_text(json.dumps(plain))
    with pytest.raises(ProgramError, match="no program"):
        Program.from_text("[]")


def test_other_inputs_are_refused() -> None:
    text = softmax_program().text
    for inputs in (
        [torch.randn(3, 5)],
        [torch.randn(3, 5), torch.randn(5).half()],
        [torch.randn(3), torch.randn(3)],
    ):
        with pytest.raises(ValueError, match="fused_mul_softmax"):
            run(inputs, [], text)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x + x.t(), "own transpose"),
        (lambda x: (x.sum(0), x.sum(1)), "different dims"),
        (lambda x: torch.cumsum(x, 0), "no rule"),
        (lambda x: x.view(2, 8).sum(-1), "splits or merges"),
        (lambda x: x.sum(1) * 2 + x.sum(1)[:, None], "transpose|dims|loop|smaller"),
        (lambda x: x, "is an input"),
        (lambda x: torch.rand_like(x) * x, "no rule"),
        (lambda x: (x, x.exp()[0]), "no rule|input"),
    ],
)
def test_what_is_not_one_kernel_is_refused(function: object, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        program_of(function, torch.randn(4, 4))  # type: ignore[arg-type]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = torch.special.entr(torch.sigmoid(y)) * y
        return self.second(y / y.abs().sum(-1, keepdim=True).clamp_min(1))


@pytest.mark.slow
def test_a_saved_module_loads_in_another_process(tmp_path: Path) -> None:
    model, x = Model().eval(), torch.randn(3, 8)
    inputs = [trtcore.Input(min_shape=(2, 8), opt_shape=(4, 8), max_shape=(6, 8))]
    names = ["special_entr", "sigmoid", "mul", "div", "abs", "sum", "clamp_min"]
    compiled = trtcore.compile(
        model, inputs=inputs, min_block_size=1, fused_ops=[f"aten.{name}" for name in names]
    )
    (call,) = [node for node in compiled.graph.nodes if node.target is run]
    torch.testing.assert_close(compiled(x), model(x))
    trtcore.save(compiled, tmp_path / "m.pt2")
    torch.save({"x": x, "y": model(x)}, tmp_path / "data.pt")
    code = (
        "import torch, trtcore; d = torch.load('data.pt'); m = trtcore.load('m.pt2'); "
        "torch.testing.assert_close(m(d['x']), d['y']); "
        "print([n.args[2] for n in m.graph.nodes if 'trtcore_fused' in str(n.target)][0])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == call.args[2]
