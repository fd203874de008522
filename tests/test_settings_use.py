"""Names in settings that match nothing are told, with the nearest ones; what matches is not."""

from __future__ import annotations

import warnings

import pytest
import torch

import trtcore
from trtcore.lowering import CORE_PASSES
from trtcore.settings import CompilationSettings
from trtcore.settings.values import FP4
from trtcore.settings_use import SettingsUse


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.ModuleDict({"d1": torch.nn.Linear(4, 4), "d2": torch.nn.Linear(4, 4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down["d2"](self.down["d1"](x).relu())


def used(**settings: object) -> list[str]:
    program = trtcore.dynamo.trace(Net(), inputs=[torch.ones(2, 4)])
    passes = {one.name for one in CORE_PASSES} | {"recover_attention"}
    use = SettingsUse(CompilationSettings(**settings), passes)  # type: ignore[arg-type]
    use.look(program.graph)
    return use.texts()


def convert(ctx: object, *args: object) -> object:
    return args[0]


AUTOCAST = {"enable_autocast": True, "autocast_low_precision_type": torch.float16}


@pytest.mark.parametrize(
    ("settings", "item", "nearest"),
    [
        ({"torch_executed_modules": ["down.d9", "down.d1"]}, "'down.d9'", "'down.d1'"),
        ({"torch_executed_modules": [torch.nn.Conv2d]}, "Conv2d", ""),
        ({"disabled_passes": {"recover_atention", "decompose"}}, "'recover_atention'", "'recover_attention'"),
        ({**AUTOCAST, "autocast_excluded_nodes": ["^nothing$", "down"]}, "'^nothing$'", ""),
        ({**AUTOCAST, "autocast_excluded_nodes": ["^rellu$"]}, "'^rellu$'", "'relu'"),
        ({**AUTOCAST, "autocast_excluded_ops": ["aten.gelu", "aten.linear"]}, "'aten.gelu'", "'aten.relu'"),
        (
            {"torch_executed_ops": ["aten.relu_.default", "aten.relu"]},
            "'aten.relu_.default'",
            "'aten.relu.default'",
        ),
        ({"fused_ops": ["aten.tanh"]}, "'aten.tanh'", ""),
        ({"pins": {"aten.gelu.default": "trtcore:aten"}}, "'aten.gelu.default'", "'aten.relu.default'"),
        ({"converters": {"aten.gelu": convert, "aten.relu": convert}}, "'aten.gelu'", "'aten.relu'"),
        ({"converters": {torch.ops.aten.relu.out: convert}}, "'aten.relu.out'", "'aten.relu.default'"),
    ],
)
def test_what_matches_nothing_is_told(settings: dict[str, object], item: str, nearest: str) -> None:
    (text,) = used(**settings)
    assert item in text
    assert next(name for name in settings if name not in AUTOCAST) in text
    assert nearest in text
    assert ("did you mean" in text) >= bool(nearest)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"torch_executed_modules": ["down"]},
        {"torch_executed_modules": [torch.nn.Linear]},
        {"torch_executed_ops": ["aten.relu", "aten.linear.default"]},
        {"disabled_passes": {"functionalize"}},
        {"pins": {"aten.relu": "trtcore:aten", "aten.linear.default": "trtcore:aten"}},
        {"converters": {"aten.relu": convert, torch.ops.aten.linear.default: convert}},
        {**AUTOCAST, "autocast_excluded_nodes": ["relu", r"down\.d\d"]},
    ],
)
def test_what_matches_is_not_told(settings: dict[str, object]) -> None:
    assert used(**settings) == []


def test_a_name_of_the_lowered_graph_counts() -> None:
    use = SettingsUse(CompilationSettings(torch_executed_ops=["aten.tanh"]), ())
    use.look(trtcore.dynamo.trace(Net(), inputs=[torch.ones(2, 4)]).graph)
    lowered = torch.fx.Graph()
    lowered.call_function(torch.ops.aten.tanh.default, (lowered.placeholder("x"),))
    use.look(lowered)
    assert use.texts() == []


def test_each_is_a_warning() -> None:
    use = SettingsUse(CompilationSettings(disabled_passes={"recover_atention"}), {"recover_attention"})
    with pytest.warns(UserWarning, match="did you mean 'recover_attention'"):
        assert len(use.warn()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SettingsUse(CompilationSettings(), ()).warn() == []


def told(model: torch.nn.Module, x: torch.Tensor, **settings: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trtcore.explain(model.eval(), inputs=[x], min_block_size=1, **settings)  # type: ignore[arg-type]
    return [str(one.message) for one in caught if issubclass(one.category, UserWarning)]


def test_a_precision_that_changes_nothing_is_told() -> None:
    x = torch.ones(2, 4)
    allowed = {"enabled_precisions": {torch.float16}, "use_explicit_typing": False}
    (text,) = told(Net().half(), x.half(), **allowed)
    assert text == (
        "autocast to torch.float16 changes nothing: no op of the model is in float32, but in torch.float16"
    )
    ops = {"aten.linear", "aten.relu"}
    (text,) = told(Net(), x, **allowed, autocast_excluded_ops=ops)
    assert "every op stays in float32, and the report says by which rule" in text
    (text,) = told(Net(), x, **AUTOCAST, autocast_max_output_threshold=3.5)
    assert text.startswith(
        "autocast_max_output_threshold=3.5 changes nothing without autocast_calibration_dataloader"
    )
    assert told(Net(), x, **allowed) == []
    assert told(Net(), x, **AUTOCAST) == []
    assert told(Net(), x) == []


@pytest.mark.skipif(FP4 is None, reason="this torch has no float4")
def test_float4_in_enabled_precisions_changes_nothing() -> None:
    (text,) = told(Net(), torch.ones(2, 4), enabled_precisions={torch.float32, FP4})
    assert "changes nothing: what the model quantises to it is computed in it anyway; leave it out" in text
