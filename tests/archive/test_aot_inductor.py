"""Packages of AOTInductor: written by save, run by torch in another process; and the way over an exported program."""

import subprocess
import sys

import pytest
import torch

import trtcore
from trtcore.errors import ArtifactError, ExportError

x8 = (3, 8)
wide = {"min_shape": (1, 8), "opt_shape": (3, 8), "max_shape": (9, 8)}


class Hybrid(torch.nn.Module):
    """Torch ops before and behind an engine, a dict out, an argument that stays None."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

    def forward(self, x, *, scale=None, more=None):
        x = torch.special.bessel_j0(x) * 2
        if more is not None:
            x = x + more["by"]
        x = self.second(self.first(x).relu())
        return {"out": x, "sine": torch.special.bessel_j0(x)}


class Whole(torch.nn.Module):
    """All in one engine, with a size that goes in beside the tensors."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x).relu() / x.shape[0]


class Counting(torch.nn.Module):
    """Writes to a buffer in every call."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x):
        self.seen.add_(x.sum(0))
        return self.linear(x).relu() + self.seen


CASES = {
    "hybrid dynamic": (Hybrid, [trtcore.Input(**wide)], {}, (1, 3, 9)),
    "hybrid static": (Hybrid, [trtcore.Input(x8)], {"more": {"by": trtcore.Input(x8)}}, (3,)),
    "whole static": (Whole, [trtcore.Input(x8)], {}, (3,)),
    "whole dynamic": (Whole, [trtcore.Input(**wide)], {}, (1, 2, 9)),
    "written buffer": (Counting, [trtcore.Input(**wide)], {}, (3, 1)),
}
SCRIPT = """
import sys, torch, trtcore
calls = torch.load(sys.argv[2])
run = torch._inductor.aoti_load_package(sys.argv[1])
torch.save([run(*args, **kwargs) for args, kwargs in calls], sys.argv[3])
assert not [n for n in sys.modules if n.startswith(("trtcore.frontend", "trtcore.engine", "trtcore_converters"))]
"""


def compiled(kind, inputs, kwargs):
    torch.manual_seed(0)
    model = kind().eval()
    return model, trtcore.compile(model, inputs=inputs, kwarg_inputs=kwargs, min_block_size=1)


def elsewhere(path, calls, tmp_path):
    """What another process gets from a package."""
    torch.save(calls, tmp_path / "calls.pt")
    command = [sys.executable, "-c", SCRIPT, path, tmp_path / "calls.pt", tmp_path / "results.pt"]
    subprocess.run(command, check=True, timeout=600)
    return torch.load(tmp_path / "results.pt")


def one_call(rows, kwargs):
    made = {name: {"by": torch.randn(rows, 8)} for name in kwargs}
    return (torch.randn(rows, 8),), made


@pytest.mark.parametrize(
    "name",
    [name if name == "hybrid dynamic" else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_another_process_runs_the_package(name, tmp_path):
    kind, inputs, kwargs, sizes = CASES[name]
    model, module = compiled(kind, inputs, kwargs)
    path = tmp_path / "model.pt2"
    trtcore.save(module, path, output_format="aot_inductor")
    calls = [one_call(rows, kwargs) for rows in sizes]
    with torch.no_grad():
        for got, (args, more) in zip(elsewhere(path, calls, tmp_path), calls):
            torch.testing.assert_close(got, model(*args, **more), rtol=1e-5, atol=1e-5)
    with pytest.raises(ArtifactError, match="machine code") as caught:
        trtcore.load(path)
    assert "aoti_load_package" in str(caught.value)
    if name.startswith("hybrid"):
        refuses_what_does_not_fit(path, kwargs)


def refuses_what_does_not_fit(path, kwargs):
    """Code that torch compiled would read past the end of another shape, and by other strides."""
    run = torch._inductor.aoti_load_package(path)
    more = {name: {"by": torch.randn(x8)} for name in kwargs}
    for wrong, words in (
        (torch.randn(10, 8), "input x"),
        (torch.randn(3, 9), "must have size 8 at dimension 1"),
        (torch.randn(x8).double(), "must be torch.float32"),
        (torch.randn(8, 3).t(), "pass x.contiguous()"),
    ):
        with pytest.raises(RuntimeError, match=r"InputError") as caught:
            run(wrong, **more)
        assert words in str(caught.value)
    run(torch.randn(x8), **more)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid dynamic", "whole static"])
def test_torch_packages_what_was_saved_as_an_exported_program(name, tmp_path):
    kind, inputs, kwargs, sizes = CASES[name]
    model, module = compiled(kind, inputs, kwargs)
    trtcore.save(module, tmp_path / "saved.pt2")
    program = torch.export.load(tmp_path / "saved.pt2")
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))
    calls = [one_call(rows, kwargs) for rows in sizes]
    with torch.no_grad():
        for got, (args, more) in zip(elsewhere(path, calls, tmp_path), calls):
            torch.testing.assert_close(got, model(*args, **more), rtol=1e-5, atol=1e-5)


def test_only_a_pt2(tmp_path):
    _, module = compiled(Whole, [trtcore.Input(x8)], {})
    with pytest.raises(ArtifactError, match=r"\*\.pt2") as caught:
        trtcore.save(module, tmp_path / "model.so", output_format="aot_inductor")
    assert "'model.pt2'" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_aotinductor_refuses_leaves_the_old_file(tmp_path):
    from torch._inductor import config

    _, module = compiled(Whole, [trtcore.Input(x8)], {})
    path = tmp_path / "model.pt2"
    path.write_bytes(b"old")
    with config.patch({"cpp.cxx": ("/nowhere/c++",)}), pytest.raises(ExportError) as caught:
        trtcore.save(module, path, output_format="aot_inductor")
    assert "install one (g++)" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
