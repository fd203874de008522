"""CompilationSettings: names, checks, normalising, fingerprints, deprecated names."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from importlib.metadata import version

import attrs
import pytest
import torch
from packaging.version import Version

from trtcore.errors import SettingsError
from trtcore.settings import DEPRECATED, NOT_BUILT, CompilationSettings, op_name

aten = torch.ops.aten


def converter_a(ctx, x):
    return x


def converter_b(ctx, x):
    return ctx


def test_defaults_are_valid_and_nothing_is_explicit():
    settings = CompilationSettings()
    assert settings.explicit == frozenset()
    assert settings.changed() == {}
    assert settings.min_block_size == 5
    assert settings.enabled_precisions == {torch.float32}


def test_every_field_has_a_text_and_an_acting_check():
    for row in CompilationSettings.describe():
        assert len(row.doc) > 10, row.name
        assert row.category, row.name
    assert not NOT_BUILT


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"min_block_size": 0}, "at least 1"),
        ({"min_block_size": True}, "an int"),
        ({"min_block_size": 2.0}, "an int"),
        ({"require_full_compilation": 1}, "True or False"),
        ({"optimization_level": 6}, "from 0 to 5"),
        ({"tiling_optimization_level": "slow"}, "'moderate'"),
        ({"engine_capability": "fast"}, "'standard'"),
        ({"profiling_verbosity": None}, "'detailed'"),
        ({"runtime": "gpu"}, "'reference'"),
        ({"workspace_size": -1}, "at least 0"),
        ({"dla_sram_size": 5000}, "power of two"),
        ({"max_aux_streams": -1}, "or None"),
        ({"l2_limit_for_tiling": -2}, "at least -1"),
        ({"device": "cpu"}, "compute capability"),
        ({"device": "gpu"}, "compute capability"),
        ({"device": (8,)}, "compute capability"),
        ({"device": 0}, "compute capability"),
        ({"backend": ""}, "non-empty"),
        ({"torch_executed_ops": "aten.gelu"}, "torch_executed_ops='aten.gelu': it must be a collection"),
        ({"torch_executed_ops": [3]}, "not a torch op"),
        ({"torch_executed_modules": [3]}, "module paths"),
        ({"torch_executed_modules": [int]}, "module paths"),
        ({"converters": {"aten.gelu": 1}}, "neither a function nor a Converter"),
        ({"converters": [1]}, "a mapping"),
        ({"pins": {"aten.gelu": None}}, "name of a pack"),
        ({"use_python_runtime": False}, "C\\+\\+ runtime is not offered"),
        ({"dryrun": ""}, "a file name"),
        ({"require_full_compilation": True, "torch_executed_ops": ["aten.gelu"]}, "contradicts"),
        ({"require_full_compilation": True, "torch_executed_modules": ["a"]}, "contradicts"),
    ],
)
def test_bad_values_are_refused(kwargs, message):
    with pytest.raises(SettingsError, match=message):
        CompilationSettings(**kwargs)


@pytest.mark.parametrize("make", [CompilationSettings, CompilationSettings.from_kwargs])
def test_an_unknown_name_is_refused_with_the_nearest(make):
    with pytest.raises(SettingsError, match="no setting 'min_block'") as caught:
        make(min_block=3)
    assert "min_block_size" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "torch_executed_ops",
        "fused_ops",
        "autocast_excluded_ops",
        "torch_executed_modules",
        "disabled_packs",
        "disabled_passes",
        "pins",
        "converters",
    ],
)
def test_empty_braces_are_an_empty_collection(name):
    assert not getattr(CompilationSettings(**{name: {}}), name)


def test_a_block_of_infinite_size_keeps_everything_in_torch():
    import trtcore

    assert CompilationSettings(min_block_size=float("inf")).min_block_size == sys.maxsize
    report = trtcore.explain(torch.nn.Linear(4, 4), inputs=[torch.ones(2, 4)], min_block_size=float("inf"))
    assert not report.engines
    for value in (float("-inf"), float("nan"), 1e9):
        with pytest.raises(SettingsError, match="an int of at least 1"):
            CompilationSettings(min_block_size=value)


@pytest.mark.parametrize(
    ("kwargs", "followed"),
    [
        ({"torch_executed_ops": "aten.gelu"}, {"torch_executed_ops": ["aten.gelu"]}),
        ({"torch_executed_ops": {"aten.gelu": 1}}, {"torch_executed_ops": ["aten.gelu"]}),
        ({"torch_executed_ops": aten.gelu.default}, {"torch_executed_ops": ["aten.gelu.default"]}),
        ({"disabled_packs": "acme"}, {"disabled_packs": ["acme"]}),
        ({"torch_executed_modules": "a.b"}, {"torch_executed_modules": ["a.b"]}),
        ({"enabled_precisions": "fp32"}, {"enabled_precisions": ["fp32"]}),
    ],
)
def test_the_advice_for_a_lone_item_works(kwargs, followed):
    with pytest.raises(SettingsError) as caught:
        CompilationSettings(**kwargs)
    (name,) = kwargs
    text = caught.value.advice.removeprefix("write ")
    assert eval(f"dict({text})") == followed
    assert CompilationSettings(**followed).explicit == {name}


@pytest.mark.parametrize("value", [3, None, "nothing.at_all"])
def test_what_is_no_item_is_not_told_to_be_put_into_brackets(value):
    with pytest.raises(SettingsError) as caught:
        CompilationSettings(torch_executed_ops=value)
    assert "[" not in (caught.value.advice or "")


def test_use_python_runtime_false_names_the_alternative():
    with pytest.raises(SettingsError) as caught:
        CompilationSettings(use_python_runtime=False)
    assert "convert_exported_program_to_serialized_trt_engine" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("aten.gelu", "aten.gelu"),
        ("aten.gelu.default", "aten.gelu.default"),
        ("torch.ops.aten.gelu", "aten.gelu"),
        ("torch.ops.aten.gelu.default", "aten.gelu.default"),
        ("aten::gelu", "aten.gelu"),
        ("aten::add.Tensor", "aten.add.Tensor"),
        (aten.gelu, "aten.gelu"),
        (aten.add.Tensor, "aten.add.Tensor"),
        ("torch.ops.aten.sub.Tensor", "aten.sub.Tensor"),
        ("torch.ops.higher_order.cond", "cond"),
        ("higher_order.cond", "cond"),
        ("cond", "cond"),
        (torch.ops.higher_order.cond, "cond"),
    ],
)
def test_op_names(given, name):
    assert op_name(given) == name
    assert CompilationSettings(torch_executed_ops=[given]).torch_executed_ops == {name}


def test_the_names_in_errors_and_reports_are_names_in_settings():
    """`torch_executed_ops={...}` is the advice of a failure: it takes what an error calls an op."""
    from trtcore.ir.provenance import op_name as told

    for op in (
        aten.gelu.default,
        aten.add.Tensor,
        torch.ops.higher_order.cond,
        torch.ops.higher_order.while_loop,
    ):
        assert op_name(told(op)) == op_name(op)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("aten.gellu", "aten.gelu"),
        ("gelu", "aten.gelu"),
        ("aten.gelu.tensor", "aten.gelu.default"),
        ("nothing.at_all", "namespace and name"),
        ("a.b.c.d", "what to do"),
    ],
)
def test_an_op_that_does_not_exist_is_refused_with_the_nearest(given, nearest):
    with pytest.raises(SettingsError, match="torch_executed_ops: torch has no op") as caught:
        CompilationSettings(torch_executed_ops={given})
    assert nearest in str(caught.value)


def test_a_custom_op_is_an_op():
    library = torch.library.Library("trtcore_test_settings", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    settings = CompilationSettings(torch_executed_ops=["trtcore_test_settings.twice"])
    assert settings.torch_executed_ops == {"trtcore_test_settings.twice"}


@pytest.mark.parametrize(
    ("given", "device"),
    [
        (None, None),
        ("cuda:1", torch.device("cuda", 1)),
        ("cuda", torch.device("cuda")),
        (torch.device("cuda:0"), torch.device("cuda:0")),
        ("sm_89", (8, 9)),
        ("SM120", (12, 0)),
        ("8.6", (8, 6)),
        ((8, 9), (8, 9)),
        ([9, 0], (9, 0)),
    ],
)
def test_devices(given, device):
    assert CompilationSettings(device=given).device == device


def test_collections_become_immutable_and_the_object_hashes():
    ops = ["aten.gelu"]
    pins = {"aten.relu.default": "mine:relu"}
    settings = CompilationSettings(
        torch_executed_ops=ops,
        pins=pins,
        converters={"aten.gelu.default": converter_a},
        disabled_packs=["a", "a"],
        torch_executed_modules=["x", torch.nn.Linear],
        disabled_passes={"p"},
    )
    ops.append("aten.relu")
    pins["aten.add.Tensor"] = "other"
    assert settings.torch_executed_ops == {"aten.gelu"}
    assert dict(settings.pins) == {"aten.relu.default": "mine:relu"}
    assert settings.disabled_packs == ("a",)
    assert hash(settings) == hash(settings.replace())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        settings.min_block_size = 3
    with pytest.raises(TypeError):
        settings.pins["aten.add.Tensor"] = "x"


def test_a_packet_as_converter_key_stands_for_its_overloads():
    settings = CompilationSettings(converters={aten.add: converter_a, torch.relu: converter_b})
    assert settings.converters[aten.add.Tensor] is converter_a
    assert settings.converters[aten.add.Scalar] is converter_a
    assert settings.converters[torch.relu] is converter_b


def test_pins_take_canonical_names():
    settings = CompilationSettings(pins={"torch.ops.aten.gelu": "p", aten.relu.default: "q"})
    assert dict(settings.pins) == {"aten.gelu": "p", "aten.relu.default": "q"}
    with pytest.raises(SettingsError, match=r"pins: torch has no op 'aten\.gellu'"):
        CompilationSettings(pins={"aten.gellu": "p"})


def test_a_converter_object_is_a_converter():
    from trtcore.pack import Converter

    given = Converter(aten.gelu.default, converter_a, priority=100)
    settings = CompilationSettings(converters={"aten.gelu.default": given})
    assert settings.converters[aten.gelu.default] is given
    other = CompilationSettings(converters={"aten.gelu.default": Converter(aten.gelu.default, converter_b)})
    assert settings.fingerprint() != other.fingerprint()
    assert settings.fingerprint() == settings.replace().fingerprint()


def test_explicit_and_replace():
    settings = CompilationSettings(min_block_size=5, hardware_compatible=True)
    assert settings.explicit == {"min_block_size", "hardware_compatible"}
    changed = settings.replace(optimization_level=2)
    assert changed.explicit == {"min_block_size", "hardware_compatible", "optimization_level"}
    assert changed.hardware_compatible
    assert CompilationSettings.from_kwargs(settings, max_aux_streams=1).explicit == {
        "min_block_size",
        "hardware_compatible",
        "max_aux_streams",
    }
    with pytest.raises(SettingsError, match="no setting"):
        settings.replace(nothing=1)


def test_evolving_does_not_make_everything_explicit():
    changed = attrs.evolve(CompilationSettings(), optimization_level=2)
    assert changed.optimization_level == 2
    assert changed.explicit == {"optimization_level"}


def test_pickle_and_deepcopy():
    settings = CompilationSettings(
        min_block_size=1,
        device="sm_89",
        torch_executed_ops=[aten.gelu],
        converters={aten.gelu.default: converter_a},
        torch_executed_modules=[torch.nn.Linear],
    )
    for other in (pickle.loads(pickle.dumps(settings)), copy.deepcopy(settings)):
        assert other == settings
        assert other.explicit == settings.explicit
        assert hash(other) == hash(settings)
        assert other.converters[aten.gelu.default] is converter_a


FINGERPRINT = """
import torch
from trtcore.settings import CompilationSettings
def convert(ctx, x):
    return x if x in {"a", "b", "c", "d"} else None
print(CompilationSettings(torch_executed_ops=["aten.gelu", "aten.relu", "aten.add"], device="sm_89",
    disabled_passes={"x", "y", "z"}, converters={"aten.gelu.default": convert},
    torch_executed_modules=[torch.nn.Linear, "a.b"]).fingerprint())
"""


@pytest.mark.slow
def test_the_fingerprint_is_the_same_in_every_process():
    prints = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


def test_the_fingerprint_follows_values():
    base = CompilationSettings()
    assert base.fingerprint() == CompilationSettings(min_block_size=5).fingerprint()
    assert base.fingerprint() != CompilationSettings(min_block_size=6).fingerprint()
    assert base.fingerprint(["device"]) == CompilationSettings(min_block_size=6).fingerprint(["device"])
    a = CompilationSettings(converters={"aten.gelu": converter_a}).fingerprint()
    b = CompilationSettings(converters={"aten.gelu": converter_b}).fingerprint()
    assert a != b
    with pytest.raises(SettingsError):
        base.fingerprint(["nothing"])


@pytest.mark.parametrize("old", ["truncate_long_and_double", "refit", "make_refittable"])
def test_deprecated_names_warn_and_map(old):
    new = DEPRECATED[old].new
    with pytest.warns(DeprecationWarning, match=f"{old} is deprecated.*{new}"):
        settings = CompilationSettings.from_kwargs(**{old: False})
    assert settings.explicit == {new}
    with pytest.warns(DeprecationWarning, match=old):
        settings = CompilationSettings.from_kwargs(**{old: True})
    assert getattr(settings, new) is DEPRECATED[old].convert(True)


def test_debug_is_deprecated_and_raises_the_log_level():
    import logging

    logger = logging.getLogger("trtcore")
    before = logger.level
    try:
        with pytest.warns(DeprecationWarning, match="debug is deprecated"):
            CompilationSettings.from_kwargs(debug=True)
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"refit": False, "immutable_weights": True},
        {"truncate_long_and_double": False, "truncate_double": False},
    ],
)
def test_old_and_new_together_are_refused(kwargs):
    with pytest.raises(SettingsError, match="same thing"):
        CompilationSettings.from_kwargs(**kwargs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_old_names_for_one_thing_are_refused():
    with pytest.raises(SettingsError, match=r"refit.*same thing"):
        CompilationSettings.from_kwargs(refit=False, make_refittable=False)


def test_deprecated_names_do_not_outlive_their_version():
    for old, rule in DEPRECATED.items():
        assert Version(version("trtcore")) < Version(rule.removed_in), old
