"""What pack authors test with: checks that fail for a bad pack and pass for a good one, and messages that help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trtcore.pack import Converter, Reject, Requires, hookimpl, scoped_registry
from trtcore.packs import loading as packs
from trtcore.packs.loading import register_pack
from trtcore.testing import (
    Example,
    PackConformance,
    assert_converts,
    assert_op_converts,
    assert_sample_converts,
    opinfo_samples,
)
from trtcore.testing.opinfo import samples

aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("trt_backend")


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with scoped_registry():
        yield


def relu(ctx: Any, x: Any) -> Any:
    return ctx.activation(x, "RELU")


def positive(node: Any, ctx: Any) -> Any:
    return True if node.args[0].meta["val"].dim() < 3 else Reject("only two dims")


def of(op: Any = aten.relu.default, body: Any = relu, **options: Any) -> Converter:
    options = {"capability_validator": positive, "supports_dynamic_shapes": True, "name": "mine", **options}
    return Converter(op, body, **options)


def install(*converters: Converter) -> None:
    pack = type("Pack", (), {"converters": hookimpl(specname="converters")(lambda self: converters)})()
    register_pack(pack, name="fine")


BATCH = {0: {0: (1, 2, 4)}}
GOOD = [
    Example(torch.relu, (torch.randn(2, 3),), dynamic=BATCH),
    Example(torch.relu, (torch.randn(2, 3, 4),), converts=False),
]


def kit(examples: list[Example] = GOOD, **fields: Any) -> PackConformance:
    fields = {"pack": "in-process:fine", "examples": lambda self: examples, **fields}
    return type("Kit", (PackConformance,), fields)()


def run(conformance: PackConformance) -> None:
    """Every test of the class, as pytest would."""
    for name in dir(conformance):
        if name.startswith("test_"):
            getattr(conformance, name)()


def test_a_good_pack_passes() -> None:
    install(of())
    run(kit())


@torch.library.custom_op("kit_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


TWICE = [Example(lambda x: torch.ops.kit_test.twice(x), (torch.randn(2, 3),), dynamic=BATCH)]


def kernels(**options: Any) -> None:
    install(of(torch.ops.kit_test.twice.default, requires=Requires(plugins=True), name="twice", **options))


def test_a_kernel_pack_is_at_no_fault_where_there_are_no_plugin_layers(trt_backend: Any) -> None:
    if trt_backend.has_plugins:
        pytest.skip("this backend has plugin layers")
    kernels()
    pack = kit(TWICE)
    with pytest.raises(pytest.skip.Exception, match="needs plugin layers, absent here"):
        pack.test_the_examples_convert()
    pack.test_every_converter_is_shown()
    pack.test_dynamic_claims_are_true()
    mixed = [
        *TWICE,
        Example(lambda x: torch.ops.kit_test.twice(x) + torch.special.bessel_j0(x), (torch.randn(2),)),
    ]
    with pytest.raises(AssertionError, match=r"no converter for aten\.special_bessel_j0"):
        kit(mixed).test_the_examples_convert()  # not for want of plugin layers alone


@pytest.mark.slow
def test_pytest_collects_the_checks_of_a_subclass(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from trtcore.testing import PackConformance\n"
        "class TestBuiltIn(PackConformance):\n"
        "    pack = 'trtcore:backends'\n"
        "    def examples(self): return []\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "loads or cheap or unique",
    ]
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def _adds(node: Any, ctx: Any) -> bool:
    node.graph.call_function(aten.relu.default, node.args)
    return True


def _marks(node: Any, ctx: Any) -> bool:
    node.meta["seen"] = True
    return True


def _bakes(ctx: Any, x: Any) -> Any:
    """Right at the example's size alone."""
    return ctx.elementwise(ctx.activation(x, "RELU"), ctx.constant(torch.zeros(2, 1)), "SUM")


VALIDATORS, CONVERT = "validators_answer_and_change_nothing", "the_examples_convert"
BAD: dict[str, tuple[list[Converter], str, str]] = {
    "same name twice": (
        [of(), of(priority=5)],
        "converter_names_are_unique",
        "two converters of aten.relu.default",
    ),
    "adds a node": ([of(capability_validator=_adds)], VALIDATORS, "changes the graph at relu"),
    "changes metadata": ([of(capability_validator=_marks)], VALIDATORS, "changes the graph at relu"),
    "no words": (
        [of(capability_validator=lambda *_: Reject(" "))],
        VALIDATORS,
        r"answers Reject\(reason=' '\)",
    ),
    "False": ([of(capability_validator=lambda *_: False)], VALIDATORS, "answers False"),
    "raises": ([of(capability_validator=lambda *_: 1 / 0)], VALIDATORS, "of mine raises ZeroDivisionError"),
    "wrong numbers": ([of(body=lambda ctx, x: ctx.unary(x, "ABS"))], CONVERT, "L2 failed"),
    "false dynamic claim": ([of(body=_bakes)], CONVERT, "failed"),
    "not shown": (
        [of(), of(aten.tanh.default, name="other")],
        "every_converter_is_shown",
        "converters other",
    ),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore::trtcore.packs.loading.PackWarning")
def test_a_bad_pack_fails(kind: str) -> None:
    converters, test, said = BAD[kind]
    install(*converters)
    with pytest.raises(AssertionError, match=said):
        getattr(kit(), f"test_{test}")()


def test_a_dynamic_claim_without_an_example_fails() -> None:
    install(of())
    with pytest.raises(
        AssertionError, match=r"supports_dynamic_shapes=True is not shown of mine: give an Example"
    ):
        kit([Example(torch.relu, (torch.randn(2, 3),))]).test_dynamic_claims_are_true()


def test_an_example_that_converts_against_its_claim_fails() -> None:
    install(of())
    with pytest.raises(AssertionError, match="with converts=False converts"):
        kit([Example(torch.relu, (torch.randn(2, 3),), converts=False)]).test_the_examples_convert()


def test_functions_of_one_name_are_shown_each() -> None:
    install(of(), of(aten.tanh.default, wrong))
    with pytest.raises(AssertionError, match="taken by the converters mine"):
        kit().test_every_converter_is_shown()


def test_a_pack_that_is_not_there() -> None:
    with pytest.raises(AssertionError, match="no pack 'nothing' is installed"):
        kit(pack="nothing").test_it_loads()


@pytest.mark.parametrize("heavy", [False, True])
def test_a_pack_whose_import_loads_tensorrt_fails(heavy: bool, tmp_path: Path, monkeypatch: Any) -> None:
    info = tmp_path / "heavy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: heavy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trtcore]\nheavy = heavy_pack\n")
    source = """
        import torch
        from trtcore.pack import converter, converters_in, hookimpl

        @converter(torch.ops.aten.relu.default)
        def relu(ctx, x): ...

        @hookimpl
        def converters():
            import sys
            return converters_in(sys.modules[__name__])
    """
    source = textwrap.dedent(source) + ("\nimport triton\n" if heavy else "")
    (tmp_path / "heavy_pack.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    packs.forget_packs()
    try:
        if not heavy:
            kit(pack="heavy").test_importing_it_is_cheap()
            return
        with pytest.raises(AssertionError, match="importing heavy_pack loads triton"):
            kit(pack="heavy").test_importing_it_is_cheap()
    finally:
        monkeypatch.undo()
        sys.modules.pop("heavy_pack", None)
        packs.forget_packs()


# -- messages ----------------------------------------------------------------------------------------------------


def wrong(ctx: Any, x: Any) -> Any:
    return ctx.activation(x, "SIGMOID")


def refused(ctx: Any, x: Any) -> Any:
    half = ctx.constant(torch.zeros(3, 3, dtype=torch.float16))
    layer = ctx.net.add_elementwise(ctx.unary(x, "ABS"), half, ctx.trt.ElementWiseOperation.SUM)
    return ctx.output(layer)


def message(body: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_converts(torch.tanh, (torch.randn(2, 4),), settings={"converters": {aten.tanh.default: body}})
    return str(caught.value)


def test_a_wrong_number_shows_the_converter_and_its_layers() -> None:
    text = message(wrong)
    assert "L2 failed (float32, example shapes): output" in text
    assert "aten.tanh.default by wrong of call site" in text
    assert "ACTIVATION(type=SIGMOID, alpha=0.0, beta=0.0) -> float32[2, 4]" in text


def raises(ctx: Any, x: Any) -> Any:
    table: dict[str, Any] = {}
    return table["gone"]


def misspelt(ctx: Any, x: Any) -> Any:
    return ctx.unary(x, "TANN")


def one_too_few(ctx: Any) -> Any:
    return None


@pytest.mark.parametrize(
    ("body", "line", "said"),
    [
        (raises, 2, "KeyError: 'gone'"),
        (misspelt, 1, r"TensorRT's UnaryOperation has no 'TANN'; it has TAN"),
        (
            one_too_few,
            0,
            r"takes 1 positional argument but 2 were given: it is called as the op, with \(ctx, self\)",
        ),
    ],
)
def test_a_converter_that_raises_is_told_with_its_line(body: Any, line: int, said: str) -> None:
    text = message(body)
    assert re.search(said, text)
    at = f"{__file__}:{body.__code__.co_firstlineno + line}"
    assert f"code of: call site, {at}" in text
    assert f"correct it at {at}" in text


def test_a_proof_is_printed_in_lines() -> None:
    proof = assert_converts(torch.tanh, (torch.randn(2, 4),), dynamic={0: {0: (1, 2, 3)}})
    first, *calls = str(proof).splitlines()
    assert first == "converted: aten.tanh.default by tanh of trtcore:aten 0.1.0"
    assert [line.split()[:2] for line in calls] == [
        ["float32", shapes] for shapes in ("example", "min", "opt", "max", "between")
    ]


def test_a_refused_layer_shows_the_converter_its_layers_and_tensorrts_message() -> None:
    text = message(refused)
    assert "the converter refused of aten.tanh.default failed" in text
    assert "code of: call site" in text
    assert "layers it added: CONSTANT -> half[3, 3], UNARY -> float[2, 4], ELEMENTWISE -> refused" in text
    assert "first input has type Float but second input has type Half" in text


# -- PyTorch's samples ---------------------------------------------------------------------------------------------


@opinfo_samples("tanh", dtypes=[torch.float32, torch.int64], limit=2)
def test_samples_are_parameters(sample: Any) -> None:
    assert sample.key[:1] == ("tanh",)
    assert_sample_converts(sample, refused=["int64"])


def test_a_wrong_converter_fails_its_samples() -> None:
    (sample, *_) = samples("tanh", torch.float32)
    with pytest.raises(AssertionError, match=r"tanh float32 #0 .*failed"):
        assert_sample_converts(sample, converters={aten.tanh.default: wrong})


def test_a_refusal_must_be_expected() -> None:
    options: dict[str, Any] = {
        "dtypes": [torch.float32, torch.float16],
        "limit": 1,
        "torch_executed_ops": {"aten.tanh"},
    }
    with pytest.raises(AssertionError, match="forced to torch"):
        assert_op_converts("tanh", **options)
    results = assert_op_converts("tanh", refused=["forced to torch"], least=0, **options)
    assert [result.outcome for result in results] == ["refused", "refused"]
    with pytest.raises(AssertionError, match="0 of 2 samples of tanh convert, at least 1 should"):
        assert_op_converts("tanh", refused=["forced to torch"], **options)


def test_an_op_without_samples() -> None:
    with pytest.raises(KeyError, match="op_db has no operator 'nothing'"):
        opinfo_samples("nothing")
    with pytest.raises(ValueError, match="no samples of 'bitwise_and'"):
        opinfo_samples("bitwise_and", dtypes=[torch.float32])
