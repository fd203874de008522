"""The grammar of --input."""

from __future__ import annotations

import pytest
import torch

from trtcore.cli.inputs import parse_dtype, parse_input, parse_settings, split_inputs
from trtcore.errors import InputError, SettingsError
from trtcore.settings import CompilationSettings


def test_static() -> None:
    name, value = parse_input("1x3x224x224:float32")
    assert name is None
    assert value.shape == (1, 3, 224, 224)
    assert value.dtype is torch.float32
    assert not value.is_dynamic


def test_dtype_defaults_to_float32() -> None:
    assert parse_input("2x4")[1].dtype is torch.float32


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("4:int64", torch.int64),
        ("4:torch.bool", torch.bool),
        ("4:bf16", torch.bfloat16),
        ("4:fp16", torch.float16),
    ],
)
def test_dtypes(text: str, dtype: torch.dtype) -> None:
    assert parse_input(text)[1].dtype is dtype


def test_dynamic() -> None:
    _, value = parse_input("?x128:int64@1x128,8x128,32x128")
    assert (value.min_shape, value.opt_shape, value.max_shape) == ((1, 128), (8, 128), (32, 128))
    assert value.dtype is torch.int64
    assert value.is_dynamic


def test_several_profiles() -> None:
    _, value = parse_input("?x9:fp16@1x9@8x9,32x9,64x9")
    assert value.profiles == (((1, 9),) * 3, ((8, 9), (32, 9), (64, 9)))
    assert (value.min_shape, value.opt_shape, value.max_shape) == ((1, 9), (1, 9), (64, 9))
    assert value.dtype is torch.float16


def test_named_with_two_dynamic_dimensions() -> None:
    name, value = parse_input("attention_mask=?x?:int64@1x8,4x32,8x128")
    assert name == "attention_mask"
    assert value.name == "attention_mask"
    assert [str(dim) for dim in value.dims] == ["1..8 (opt 4)", "8..128 (opt 32)"]


@pytest.mark.parametrize("text", ["scalar:float32", "():float32"])
def test_scalar(text: str) -> None:
    assert parse_input(text)[1].shape == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", r"'' is not a number or \?"),
        ("1x-3", "'-3' is not a number"),
        ("axb:float32", "'a' is not a number"),
        ("1x3:flaot32", "did you mean float32"),
        ("?x3:float32", "needs its ranges"),
        ("?x3:float32@1x3,2x3", "here are 2"),
        ("?x3:float32@1x3,2x3,4", "'4' has 1 dimensions, the shape has 2"),
        ("?x3:float32@1x3,2x3,?x3", r"'\?' is not a number\n"),
        ("?x3:float32@1x3,2x4,4x3", "dimension 1 is 3 in the shape and 4 in '2x4'"),
        ("?x3:float32@4x3,2x3,8x3", "min <= opt <= max"),
        ("?x3:float32@1x3", "here are 1"),
        ("?x3:float32@1x3@2x3,4x3", "here are 2"),
        ("?x3:float32@1x3@2x4,4x4,4x4", "dimension 1 is 3 in the shape and 4"),
        ("?x3:float32@1x3@", "'' is not a number"),
        ("1:2:3", "does not have the form"),
    ],
)
def test_what_does_not_parse_says_why(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_input(text)


def test_unknown_dtype_without_a_near_one() -> None:
    with pytest.raises(InputError, match="no dtype 'zzz'") as caught:
        parse_dtype("zzz")
    assert "did you mean" not in str(caught.value)


def test_split_positional_and_named() -> None:
    positional, named = split_inputs([parse_input("1x2"), parse_input("mask=3:bool"), parse_input("4")])
    assert [value.shape for value in positional] == [(1, 2), (4,)]
    assert list(named) == ["mask"]


def test_a_keyword_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="mask= was given twice"):
        split_inputs([parse_input("mask=3"), parse_input("mask=4")])


def test_settings_are_typed_by_their_field() -> None:
    values = parse_settings(
        ["min_block_size=1", "require_full_compilation=yes", "torch_executed_ops=aten.relu, aten.gelu",
         "optimization_level=none", "device=sm_89", "runtime=reference", "pins.aten.gelu.default=a:b"]
    )  # fmt: skip
    settings = CompilationSettings.from_kwargs(**{**values, "require_full_compilation": False})
    assert values["require_full_compilation"] is True
    assert settings.min_block_size == 1
    assert settings.torch_executed_ops == {"aten.relu", "aten.gelu"}
    assert settings.optimization_level is None
    assert settings.device == (8, 9)
    assert settings.runtime == "reference"
    assert dict(settings.pins) == {"aten.gelu.default": "a:b"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("min_block_size", "write KEY=VALUE"),
        ("min_block_sise=1", "min_block_size"),
        ("min_block_size=many", "must be an int"),
        ("version_compatible=perhaps", "must be True or False"),
        ("torch_executed_ops=aten.rleu", "no op 'aten.rleu'"),
    ],
)
def test_bad_settings_say_why(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        CompilationSettings.from_kwargs(**parse_settings([text]))


def test_the_advice_for_pins_can_be_written_on_the_command_line() -> None:
    values = parse_settings(['pins={"aten.hardswish.default": "trtcore:aten"}'])
    assert dict(CompilationSettings.from_kwargs(**values).pins) == {"aten.hardswish.default": "trtcore:aten"}
    with pytest.raises(SettingsError, match="a mapping from ops to packs"):
        CompilationSettings.from_kwargs(**parse_settings(["pins={aten.hardswish.default: x}"]))


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="min_block_size= was given twice"):
        parse_settings(["min_block_size=1", "min_block_size=2"])
