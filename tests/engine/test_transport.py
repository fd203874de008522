"""What a segment takes with it to the build process, looked at in one process; test_isolation.py has both."""

from __future__ import annotations

from typing import Any

import crashing_converters as bad
import pytest
import torch

from trtcore.engine import transport
from trtcore.errors import SettingsError
from trtcore.packs.declare import Converter, PackInfo, Scope

relu = torch.ops.aten.relu.default


def parcel_of(*targets: Any) -> transport.Parcel:
    nodes = [transport._NodeData("call_function", "n", target, (), {}, None, None, ()) for target in targets]
    return transport.Parcel("p", tuple(nodes), {}, {}, {})


def test_an_op_that_the_build_process_lacks_is_registered_by_its_schema() -> None:
    schema = "transport_test::scaled.out_of(Tensor x, float by=2., *, int? n=None) -> (Tensor, Tensor)"
    parcel = parcel_of(
        transport._Op(str(relu), str(relu._schema)), transport._Op("transport_test.scaled.out_of", schema)
    )
    assert transport.define_ops(parcel)
    assert str(torch.ops.transport_test.scaled.out_of._schema) == schema
    assert not transport.define_ops(parcel)


def chosen(pack: PackInfo | None, scope: Scope, function: Any = bad.prints) -> transport.ConverterReference:
    node = torch.fx.Graph().create_node("call_function", relu, ())
    return transport._reference(Converter(relu, function, name="c", pack=pack, scope=scope), node)


def test_converters_of_installed_packs_go_by_pack_and_others_by_module() -> None:
    installed = chosen(PackInfo("acme", "1", "ops", value="acme.pack"), Scope.THIRD_PARTY)
    assert (installed.distribution, installed.pack, installed.module) == ("acme", "ops", "")
    by_hand = PackInfo("in-process", "0", "mine", Scope.PROCESS, value="Mine")
    for found in (chosen(by_hand, Scope.PROCESS), chosen(None, Scope.PROCESS), chosen(None, Scope.CALL_SITE)):
        assert (found.pack, found.module, found.function) == ("", "crashing_converters", "prints")
    with pytest.raises(SettingsError, match="cannot be found by another process"):
        chosen(by_hand, Scope.PROCESS, lambda ctx, x: x)
