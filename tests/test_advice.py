"""Every piece of advice works: the names in it exist, and what each class of error says to do is done here."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trtcore
from trtcore.cli.app import COMMANDS
from trtcore.errors import TrtcoreError

ROOT = Path(__file__).parent.parent
PACKAGES = ("trtcore", "converters/trtcore_converters", "plugins")

# -- the names in advice ---------------------------------------------------------------------------------


def advice_texts() -> Iterator[tuple[str, str]]:
    """(place, text) of every ``advice=`` and of every literal of a warning; what is filled in is a space."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                told = [keyword.value for keyword in node.keywords if keyword.arg == "advice"]
                told += node.args[:1] if name in ("warn", "warn_once") else []
                for value in told:
                    if text := literal(value):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def literal(value: ast.expr) -> str:
    parts = (one for one in ast.walk(value) if isinstance(one, ast.Constant) and isinstance(one.value, str))
    if isinstance(value, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else " \0 " for part in value.values)  # type: ignore[misc]
    return " ; ".join(one.value for one in parts)


TEXTS = list(advice_texts())


def names(pattern: str) -> list[tuple[str, str]]:
    return sorted({(match[1], place) for place, text in TEXTS for match in re.finditer(pattern, text)})


def test_there_is_advice() -> None:
    assert len(TEXTS) > 150


def resolves(root: Any, dotted: str) -> bool:
    for part in dotted.split("."):
        try:
            root = getattr(root, part)
        except AttributeError:
            return False
    return True


@pytest.mark.parametrize("root", [trtcore, torch], ids=["trtcore", "torch"])
def test_what_advice_names_in_python_exists(root: Any) -> None:
    import trtcore.runtime  # noqa: F401

    found = names(rf"\b{root.__name__}\.([A-Za-z_][\w.]*\w)")
    missing = [(name, place) for name, place in found if not resolves(root, name)]
    assert not missing


def test_commands_in_advice_exist() -> None:
    found = names(r"(?:`|with: |: )trtcore ([a-z-]+)")
    assert {"packs", "run"} <= {name for name, _ in found}
    assert not [(name, place) for name, place in found if name not in COMMANDS]


def test_files_and_headings_in_advice_exist() -> None:
    for path, place in names(r"\b(docs/[\w-]+\.md)"):
        assert (ROOT / path).exists(), place
    for place, text in TEXTS:
        for path, heading in re.findall(r"\b(docs/[\w-]+\.md), \"([^\"]+)\"", text):
            assert re.search(rf"^#+ {re.escape(heading)}$", (ROOT / path).read_text(), re.MULTILINE), place


def _parameters() -> set[str]:
    """Names that advice may write before an ``=``: settings, and parameters of what users call."""
    import trtcore.pack
    from trtcore_plugins.conformance import assert_plugin

    known = {item.name for item in trtcore.CompilationSettings.describe()} | {
        "alpha",
        "memory_format",
        "use_local_output",
    }  # of torch's own
    public: list[Any] = [trtcore.compile, trtcore.Input, trtcore.Input.__init__, trtcore.load, trtcore.save]
    public += [trtcore.dynamo.trace, torch.compile, torch.export.export, torch.export.Dim, assert_plugin]
    public += [getattr(trtcore.pack, name) for name in trtcore.pack.__all__]
    for one in filter(callable, public):
        try:
            known |= set(inspect.signature(one).parameters)
        except (TypeError, ValueError):  # pragma: no cover - builtins without a signature
            continue
    return known


def test_settings_and_parameters_in_advice_exist() -> None:
    known = _parameters()
    missing = [(name, place) for name, place in names(r"(?<![\w.%-])([a-z_]{3,})=(?!=)") if name not in known]
    assert not missing


# -- what it says to do ----------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        x = torch.relu(self.fc(x))
        return x if scale is None else x * scale


class Bessel(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(torch.sigmoid(x))


X = torch.randn(2, 4)
BATCH = trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(4, 4))


def net() -> Net:
    return Net().eval()


def explained(model: torch.nn.Module | None = None, *inputs: Any, **settings: Any) -> Any:
    return trtcore.explain(model or net(), list(inputs) or [X], **{"min_block_size": 1, **settings})


def made(model: torch.nn.Module | None = None, *inputs: Any, **settings: Any) -> Any:
    return trtcore.compile(model or net(), list(inputs) or [X], **{"min_block_size": 1, **settings})


def broken(**settings: Any) -> Any:
    """A compile with a converter that fails."""
    from trtcore.pack import converter, scoped_registry

    with scoped_registry():

        @converter("aten::special_bessel_j0", supports_dynamic_shapes=True)
        def nonsense(ctx: Any, x: Any, *rest: Any) -> Any:
            raise ValueError("not today")

        return made(Bessel(), require_full_compilation=settings.pop("whole", False), **settings)


def saved_plain(folder: Path) -> str:
    path = str(folder / "plain.pt2")
    torch.export.save(torch.export.export(net(), (X,)), path)
    return path


def inference_weights() -> Net:
    with torch.inference_mode():
        return net()


class Sine(Net):
    """The weights of `Net`, and another function of them."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x, scale).sin()


def refitted(program: Any, **how: Any) -> Any:
    """A compiled `Net` with other weights."""
    return trtcore.dynamo.refit_module_weights(made(), program, **how)


def in_folder(folder: Path | str) -> Any:
    """A compile whose temporary files go to a folder."""
    import tempfile

    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        return made()
    finally:
        tempfile.tempdir = before


# what fails; a part of the advice; what it says to do
CASES: dict[str, tuple[Callable[..., Any], str, Callable[..., Any]]] = {
    "SettingsError: unknown": (
        lambda: explained(min_blok_size=3),
        "did you mean min_block_size",
        lambda: explained(min_block_size=3),
    ),
    "SettingsError: a precision, by converting the model": (
        lambda: explained(enabled_precisions={torch.float16}),
        "convert the model (model.half())",
        lambda: explained(net().half(), X.half()),
    ),
    "SettingsError: a precision, by autocast": (
        lambda: explained(enabled_precisions={torch.float16}),
        "set use_explicit_typing=False for autocast",
        lambda: explained(enabled_precisions={torch.float16}, use_explicit_typing=False),
    ),
    "SettingsError: a precision, by a setting": (
        lambda: explained(enabled_precisions={torch.float16}),
        "enable_autocast=True with autocast_low_precision_type",
        lambda: explained(enable_autocast=True, autocast_low_precision_type=torch.float16),
    ),
    "SettingsError: an op's name": (
        lambda: explained(torch_executed_ops={"aten.reluu"}),
        "aten.relu",
        lambda: explained(torch_executed_ops={"aten.relu"}),
    ),
    "SettingsError: a partitioner": (
        lambda: explained(partitioner="nobody's"),
        "there are: fast",
        lambda: explained(partitioner="fast"),
    ),
    "SettingsError: a pin": (
        lambda: explained(pins={"aten.relu.default": "trtcore"}),
        'write "distribution:pack"',
        lambda: explained(pins={"aten.relu.default": "trtcore:aten"}),
    ),
    "SettingsError: two that contradict": (
        lambda: explained(require_full_compilation=True, torch_executed_ops={"aten.relu"}),
        "drop one of the two: require_full_compilation or torch_executed_ops",
        lambda: explained(torch_executed_ops={"aten.relu"}),
    ),
    "InputError: a shape": (
        lambda: explained(net(), (2, 4)),
        "trtcore.Input((2, 4))",
        lambda: explained(net(), trtcore.Input((2, 4))),
    ),
    "InputError: none": (
        lambda: trtcore.explain(net()),
        "example tensors or trtcore.Input(...)",
        lambda: trtcore.explain(net(), inputs=(X,)),
    ),
    "InputError: the model refuses them": (
        lambda: explained(net(), X.double()),
        "trtcore.Input(shape, dtype=...)",
        lambda: explained(net(), trtcore.Input((2, 4), dtype=torch.float32)),
    ),
    "InputError: ranges for torch.compile": (
        lambda: trtcore.compile(net(), [BATCH], ir="torch_compile"),
        "ir='dynamo' for engines with ranges",
        lambda: trtcore.compile(net(), [BATCH], ir="dynamo", min_block_size=1),
    ),
    "InputError: a call of another dtype": (
        lambda: made()(X.double()),
        "convert it (x.to(torch.float32))",
        lambda: made()(X.double().to(torch.float32)),
    ),
    "InputError: a call of another shape": (
        lambda: made()(torch.randn(3, 4)),
        "an Input whose min_shape and max_shape include it",
        lambda: made(net(), BATCH)(torch.randn(3, 4)),
    ),
    "InputError: a call with another argument": (
        lambda: made()(X, scale=X),
        "compile the model with scale among its inputs",
        lambda: made(net(), X, X)(X, scale=X),
    ),
    "ExportError: a function": (
        lambda: trtcore.dynamo.trace(torch.relu, [X]),  # type: ignore[arg-type]
        "put a function into a module's forward",
        lambda: trtcore.dynamo.trace(torch.nn.ReLU(), [X]),
    ),
    "ExportError: weights of inference mode": (
        lambda: explained(inference_weights()),
        "requires_grad_(False)",
        lambda: explained(inference_weights().requires_grad_(False)),
    ),
    "UnsupportedOperatorError: explain": (
        lambda: made(Bessel(), require_full_compilation=True),
        "run trtcore.explain(model, inputs)",
        lambda: explained(Bessel()),
    ),
    "UnsupportedOperatorError: let it run in torch": (
        lambda: made(Bessel(), require_full_compilation=True),
        "let it run in torch",
        lambda: made(Bessel())(X),
    ),
    "UnsupportedOperatorError: several engines": (
        lambda: trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(
            net(), [X], max_segment_size=1
        ),
        "raise max_segment_size",
        lambda: trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(
            net(), [X], max_segment_size=9
        ),
    ),
    "ConversionError: a converter fails": (
        lambda: broken(pass_through_build_failures=True),
        "leave the op to torch with torch_executed_ops",
        lambda: broken(
            pass_through_build_failures=True, torch_executed_ops={"aten.special_bessel_j0.default"}
        ),
    ),
    "EngineBuildError: no room": (
        lambda: in_folder("/proc/no-such-folder"),
        "set TMPDIR to a larger file system",
        lambda: in_folder("/tmp"),
    ),
    "PackError: a name": (
        lambda: trtcore.pack.converter("relu")(lambda ctx, x: x),
        'write "namespace::op"',
        lambda: trtcore.pack.converter("aten::relu")(lambda ctx, x: x),
    ),
    "ArtifactError: a plain ExportedProgram": (
        lambda folder: trtcore.load(saved_plain(folder)),
        "torch.export.load",
        lambda folder: torch.export.load(saved_plain(folder)).module()(X),
    ),
    "ArtifactError: what is not compiled": (
        lambda folder: trtcore.save(net(), folder / "net.pt2"),
        "compile it first",
        lambda folder: trtcore.save(made(), folder / "net.pt2"),
    ),
    "RefitError: a module in place of a program": (
        lambda: refitted(net()),
        "trtcore.dynamo.trace(model, inputs)",
        lambda: refitted(trtcore.dynamo.trace(net(), [X])),
    ),
    "RefitError: another model": (
        lambda: refitted(trtcore.dynamo.trace(torch.nn.Linear(4, 4), [X])),
        "export the very model that was compiled",
        lambda: refitted(trtcore.dynamo.trace(net(), [X])),
    ),
    "RefitError: the same weights, another computation": (
        lambda: refitted(trtcore.dynamo.trace(Sine(), [X])),
        "compile the model with the new weights",
        lambda: made(Sine()),
    ),
    "RefitError: what was not compiled": (
        lambda: trtcore.dynamo.refit_module_weights(net(), trtcore.dynamo.trace(net(), [X])),  # type: ignore[arg-type]
        "compile the model first",
        lambda: trtcore.dynamo.refit_module_weights(made(), trtcore.dynamo.trace(net(), [X])),
    ),
    "RefitError: other sizes": (
        lambda: trtcore.dynamo.refit_module_weights(made(net(), BATCH), trtcore.dynamo.trace(net(), [X])),
        "export the model for the same inputs",
        lambda: trtcore.dynamo.refit_module_weights(made(net(), BATCH), trtcore.dynamo.trace(net(), [BATCH])),
    ),
    "RefitError: nothing to verify with": (
        lambda: refitted(trtcore.dynamo.trace(net(), [X]), verify_output=True),
        "give arg_inputs and kwarg_inputs",
        lambda: refitted(
            trtcore.dynamo.trace(net(), [X]), verify_output=True, arg_inputs=[X], kwarg_inputs={}
        ),
    ),
    "BackendUnavailableError: one that is not installed": (
        lambda: explained(backend="tensorrt"),
        'pip install "trtcore[tensorrt]"',
        lambda: "tensorrt =" in (ROOT / "pyproject.toml").read_text() or pytest.fail("no such extra"),
    ),
}


def call(function: Callable[..., Any], folder: Path) -> Any:
    return function(folder) if inspect.signature(function).parameters else function()


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("case", CASES)
def test_the_advice_of_an_error_works(case: str, tmp_path: Path) -> None:
    from trtcore.pack import scoped_registry

    fault, advice, follow = CASES[case]
    kind = getattr(trtcore.errors, case.partition(":")[0])
    with scoped_registry(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(kind) as caught:
            call(fault, tmp_path)
        assert isinstance(caught.value, TrtcoreError)
        assert advice in str(caught.value)
        call(follow, tmp_path)


def test_every_error_class_has_a_case() -> None:
    classes = {
        name for name, kind in vars(trtcore.errors).items()
        if isinstance(kind, type) and issubclass(kind, TrtcoreError) and kind is not TrtcoreError
    }  # fmt: skip
    assert classes == {case.partition(":")[0] for case in CASES}


class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double().sin().float()


# what is compiled with a warning; a part of it; what it says to do, which gives an engine and no warning
WARNED: dict[str, tuple[Callable[[], Any], str, Callable[[], Any]]] = {
    "too small for an engine": (
        lambda: trtcore.compile(net(), [X]),
        "min_block_size=1 takes them",
        lambda: trtcore.compile(net(), [X], min_block_size=1),
    ),
    "float64": (
        lambda: made(Double()),
        "truncate_double=True computes what is float64 in float32",
        lambda: made(Double(), truncate_double=True),
    ),
    "an old name": (
        lambda: made(truncate_long_and_double=True),
        "use truncate_double",
        lambda: made(truncate_double=True),
    ),
    "a module that is not there": (
        lambda: made(torch_executed_modules=["fd"]),
        "no op of the model is in it",
        lambda: made(),
    ),
    "a pass that is not there": (
        lambda: made(disabled_passes={"recover_atention"}),
        "did you mean 'recover_attention'",
        lambda: made(disabled_passes={"recover_attention"}),
    ),
}


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("case", WARNED)
def test_the_advice_of_a_warning_works(case: str) -> None:
    fault, advice, follow = WARNED[case]
    with pytest.warns((UserWarning, DeprecationWarning)) as caught:
        fault()
    assert any(advice in str(one.message) for one in caught)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="trtcore")
        warnings.filterwarnings("error", message="no engine was made")
        assert follow().report.engines


@pytest.mark.usefixtures("trt_backend")
def test_a_reason_names_one_cause() -> None:
    (double,) = (group for group in explained(Double()).fallbacks() if group.op == "aten.sin.default")
    assert double.reason == "a float64 tensor, which tensorrt_rtx cannot represent"
    (bessel,) = explained(Bessel()).fallbacks()
    assert bessel.reason == "no converter for aten.special_bessel_j0.default in any pack"


@pytest.mark.usefixtures("trt_backend")
def test_inputs_that_eager_refuses_are_refused_though_a_trace_takes_them() -> None:
    with pytest.raises(trtcore.errors.InputError, match="in plain torch too"):
        made(net(), trtcore.Input((2, 4), dtype=torch.float64))
    assert made(net().double(), X.double()).report.in_torch
