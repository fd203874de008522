"""What a user or a pack can get wrong: each is refused with a message that says what to do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch

import trtcore
from trtcore.errors import (
    BackendUnavailableError,
    ConversionError,
    EngineBuildError,
    ExportError,
    InputError,
    SettingsError,
    UnsupportedOperatorError,
)
from trtcore.pack import converter

aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("trt_backend")


class Block(torch.nn.Module):
    """A module whose ops all convert, around one that the tests take over (the Bessel function J0)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.linear(x)) * 0.01
        y = torch.special.bessel_j0(y)
        return torch.tanh(y + x)


def model() -> Block:
    torch.manual_seed(0)
    return Block().eval()


X = torch.linspace(-1, 1, 12).reshape(3, 4)


@pytest.fixture(autouse=True)
def _scope() -> Any:
    with trtcore.scoped_registry():
        yield


def same_as_eager(compiled: Any) -> bool:
    with torch.no_grad():
        return bool(torch.allclose(compiled(X), model()(X), atol=1e-6))


# ---- calls ----


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, 4, 1), "input x must have 2 dimensions, got 3"),
        (torch.zeros(3, 4, dtype=torch.float16), "input x must be torch.float32, got torch.float16"),
        (torch.zeros(3, 5), "input x must have size 4 at dimension 1, got 5"),
        (torch.zeros(9, 4), r"input x.*9.*dimension 0.*1\.\.8"),
        ([torch.zeros(3, 4)], r"x|structure"),
        (None, r"x"),
    ],
    ids=["rank", "dtype", "fixed dim", "profile", "structure", "none"],
)
def test_a_call_that_does_not_fit(bad: Any, message: str) -> None:
    compiled = trtcore.compile(model(), [trtcore.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(8, 4))])
    with pytest.raises(InputError, match=message):
        compiled(bad)
    assert compiled(X).shape == (3, 4)  # and it still works


@pytest.mark.parametrize("arguments", [(), (X, X)], ids=["none", "two"])
def test_a_call_with_the_wrong_number_of_arguments(arguments: tuple[torch.Tensor, ...]) -> None:
    compiled = trtcore.compile(model(), [X])
    with pytest.raises(InputError, match="x"):
        compiled(*arguments)
    with pytest.raises(InputError, match="flavour"):
        compiled(X, flavour=1)


# ---- compiles ----


def test_no_inputs() -> None:
    with pytest.raises(InputError, match="inputs"):
        trtcore.compile(model())


def test_inputs_twice() -> None:
    with pytest.raises(InputError, match="not both"):
        trtcore.compile(model(), inputs=[X], arg_inputs=[X])


def test_an_unknown_setting_offers_the_nearest() -> None:
    with pytest.raises(SettingsError, match="min_block_size"):
        trtcore.compile(model(), [X], min_blok_size=1)


def test_bad_settings_are_refused_before_the_model_is_looked_at() -> None:
    with pytest.raises(SettingsError, match="min_block_size"):
        trtcore.compile(object(), [X], min_block_size="many")


def test_an_unexportable_model_names_the_line() -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:  # the data decides
                return x
            return -x

    with pytest.raises(ExportError) as caught:
        trtcore.compile(Branches(), [X])
    assert "Branches" in str(caught.value)
    assert "test_bad_input.py" in str(caught.value)
    assert "what to do" in str(caught.value)


def test_full_compilation_lists_what_is_left() -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        trtcore.compile(model(), [X], require_full_compilation=True, torch_executed_ops=[])
    text = str(caught.value)
    assert "aten.special_bessel_j0.default" in text
    assert "test_bad_input.py" in text


def test_a_backend_that_is_not_there() -> None:
    with pytest.raises((BackendUnavailableError, SettingsError), match=r"pip install|GPU"):
        trtcore.compile(model(), [X], backend="tensorrt")


def test_no_tensorrt_installed() -> None:
    """In a process that cannot import any bindings: torch alone, with the reason; by name it is an error."""
    script = """
        import sys
        for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            sys.modules[name] = None
        import torch, trtcore
        model, x = torch.nn.Linear(4, 4).eval(), torch.ones(2, 4)
        compiled = trtcore.compile(model, [x], min_block_size=1)
        assert torch.equal(compiled(x), model(x))
        assert not compiled.report.engines
        assert "pip install" in str(compiled.report), str(compiled.report)
        try:
            trtcore.compile(model, [x], backend="tensorrt_rtx")
        except trtcore.errors.BackendUnavailableError as error:
            assert "pip install" in str(error), error
            print("refused")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout


def test_every_pack_blocked() -> None:
    compiled = trtcore.compile(model(), [X], disabled_packs=["trtcore"], min_block_size=1)
    assert not compiled.report.engines
    assert same_as_eager(compiled)
    assert "disabled" in str(compiled.report)
    compiled = trtcore.compile(model(), [X], disabled_packs=["trtcore:aten"], min_block_size=1)
    assert not compiled.report.engines
    assert "no converter for aten.linear.default" in str(compiled.report)
    assert same_as_eager(compiled)


# ---- converters ----


def declare(body: Any, **options: Any) -> None:
    converter(aten.special_bessel_j0.default, supports_dynamic_shapes=True, **options)(body)


def raising(ctx: Any, x: Any) -> Any:
    raise KeyError("no such table")


def nonsense(ctx: Any, x: Any) -> Any:
    return "a string"


def nothing(ctx: Any, x: Any) -> Any:
    return None


def wrong_dtype(ctx: Any, x: Any) -> Any:
    return ctx.cast(x, torch.float16)


def wrong_shape(ctx: Any, x: Any) -> Any:
    return ctx.reshape(x, [4, 3])


def rejected_at_shape(ctx: Any, x: Any) -> Any:
    """Adds fp32 and fp16: TensorRT says so when the output's shape is read."""
    return ctx.output(
        ctx.net.add_elementwise(x, ctx.cast(x, torch.float16), ctx.trt.ElementWiseOperation.SUM)
    )


def refused_parameters(ctx: Any, x: Any) -> Any:
    """TopK with more than 3840: add_topk returns None."""
    return ctx.output(ctx.net.add_topk(x, ctx.trt.TopKOperation.MAX, 4000, 1))


def rejected_at_build(ctx: Any, x: Any) -> Any:
    """A zero point that is not 0: refused by the builder."""
    scale, zero = ctx.constant(0.5), ctx.constant(torch.tensor(3, dtype=torch.int8))
    layer = ctx.net.add_quantize(x, scale, ctx.trt.DataType.INT8)
    layer.set_input(2, zero)
    back = ctx.net.add_dequantize(layer.get_output(0), scale, ctx.trt.DataType.FLOAT)
    back.set_input(2, zero)
    return back.get_output(0)


CONVERTERS = {
    "raises": (raising, "KeyError", ConversionError),
    "returns a string": (nonsense, "returned str", ConversionError),
    "returns None": (nothing, "returned NoneType", ConversionError),
    "wrong dtype": (wrong_dtype, "float16", ConversionError),
    "wrong shape": (wrong_shape, r"\(4, 3\)", ConversionError),
    "rejected at .shape": (rejected_at_shape, None, ConversionError),
    "refused parameters": (refused_parameters, "refused the layer", ConversionError),
    "rejected at build": (rejected_at_build, None, (EngineBuildError, ConversionError)),
}


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_bad_converter_is_quarantined(name: str) -> None:
    body, message, _ = CONVERTERS[name]
    declare(body)
    compiled = trtcore.compile(model(), [X], min_block_size=1)
    assert same_as_eager(compiled)
    report = compiled.report
    (left,) = report.in_torch
    assert left.op == "aten.special_bessel_j0.default"
    assert left.lost_to == "quarantine"
    (quarantined,) = report.quarantined
    assert quarantined.source.endswith(f"test_bad_input.py:{_line('torch.special.bessel_j0')}")
    assert "quarantined" in left.reason
    if message and message.isalpha():
        assert message in left.reason
    assert len(report.engines) == 2


@pytest.mark.parametrize("setting", ["require_full_compilation", "pass_through_build_failures"])
@pytest.mark.parametrize("name", CONVERTERS)
def test_a_bad_converter_is_an_error_when_asked(name: str, setting: str) -> None:
    body, message, kind = CONVERTERS[name]
    declare(body)
    with pytest.raises(kind, match=message) as caught:
        trtcore.compile(model(), [X], min_block_size=1, **{setting: True})
    text = str(caught.value)
    assert "aten.special_bessel_j0.default" in text
    assert f"test_bad_input.py:{_line('torch.special.bessel_j0')}" in text
    assert "what to do" in text
    if name.startswith("rejected"):
        assert "TensorRT:" in text


def test_a_validator_that_raises_is_a_reason() -> None:
    def broken(node: Any, ctx: Any) -> bool:
        raise ZeroDivisionError("oops")

    declare(raising, capability_validator=broken)
    compiled = trtcore.compile(model(), [X], min_block_size=1)
    (left,) = compiled.report.in_torch
    assert "ZeroDivisionError" in left.reason
    assert same_as_eager(compiled)


def _line(text: str) -> int:
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if text in line)
