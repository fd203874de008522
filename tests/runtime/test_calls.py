"""Calls of compiled modules on every route to a call: as the model's own, or refused; never another function.

A table: models, what they were captured with, and calls. Eager says what is right.
"""

import collections
import copy
import io
import itertools
import pickle
import re
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import trtcore

DYNAMIC = torch.export.Dim.DYNAMIC


def t(value, *shape):
    return torch.full(shape or (2,), float(value))


class Riap(NamedTuple):
    second: torch.Tensor
    first: torch.Tensor


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


torch.utils._pytree._register_namedtuple(Pair, serialized_type_name="trtcore_test_calls.Pair")


@dataclass
class Config:
    x: torch.Tensor
    y: torch.Tensor


torch.export.register_dataclass(Config, serialized_type_name="trtcore_test_calls.Config")


class Call:
    """Arguments of a call; copied for every route."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs
        self.left_out: tuple[str, ...] = ()

    def but_for(self, *routes: str) -> "Call":
        """The call, for routes other than these, where torch alone decides about it."""
        self.left_out = routes
        return self

    def of(self, function: Any) -> Any:
        args, kwargs = copy.deepcopy((self.args, self.kwargs))
        return function(*args, **kwargs)

    def __repr__(self) -> str:
        parts = [*map(_short, self.args), *(f"{name}={_short(value)}" for name, value in self.kwargs.items())]
        return f"({', '.join(parts)})"


def _short(value: Any) -> str:
    return f"t{tuple(value.shape)}{value.flatten()[0]:g}" if isinstance(value, torch.Tensor) else repr(value)


@dataclass
class Case:
    """A model and its calls.

    Attributes:
        good: calls that must work, as in eager.
        other: calls that must work as in eager, or be refused.
        sizes: dynamic shapes of the capture.
    """

    model: nn.Module
    captured: Call
    good: list[Call] = field(default_factory=list)
    other: list[Call] = field(default_factory=list)
    sizes: Any = None

    def compiled(self) -> Any:
        if self.sizes is not None:
            exported = torch.export.export(
                self.model, self.captured.args, self.captured.kwargs, dynamic_shapes=self.sizes
            )
            return trtcore.dynamo.compile(exported, min_block_size=1)
        return trtcore.compile(
            self.model,
            arg_inputs=list(self.captured.args),
            kwarg_inputs=self.captured.kwargs,
            min_block_size=1,
        )


def model(forward):
    return type("Model", (nn.Module,), {"forward": forward})()


def _plain(self, x, a, b):
    return x + 10 * a + 100 * b


def _defaults(self, x, scale=2.0, mask=None, mode: str = "mul", on: bool = True):
    y = x * scale if mode == "mul" else x + scale
    y = y if mask is None else y * mask
    return y if on else -y


def _keyword_only(self, x, *, n: int = 1, y, flip=False):
    z = x * n - y
    return -z if flip else z


def _positional_only(self, x, y, /, z):
    return x - 2 * y + 3 * z


def _args(self, x, *rest, scale=1.0):
    for index, one in enumerate(rest):
        x = x + (index + 1) * one
    return x * scale


def _through_kwargs(self, x, **named):
    for index, one in enumerate(named.values()):
        x = x + 10 ** (index + 1) * one
    return x


def _kwargs_by_name(self, x, **named):
    return x + 10 * named["a"] + 100 * named["b"]


def _through_dict(self, d):
    total = 0
    for index, one in enumerate(d.values()):
        total = total + 10**index * one
    return total


def _dict_by_key(self, d, e=None):
    return d["a"] + 10 * d["b"]["c"] + 100 * d["b"]["d"]


def _nested(self, pair, more):
    (a, (b, c)), d = pair, more["d"]
    return a + 10 * b + 100 * c, {"d": d * 2, "sum": (a + d,)}


def _namedtuple(self, p):
    return p.first + 10 * p.second


def _dataclass(self, c, k=1.0):
    return (c.x + 10 * c.y) * k


def _scalars(self, x, i: int, f: float, b: bool, s: str, n=None):
    y = x * i + f
    if b:
        y = -y
    if s == "double":
        y = y * 2
    return y if n is None else y + n


def _shadowing(self, nan, device, self_=None, inf=None, args=None, kwargs=None):
    return nan * 2 + device * 3 + (args if args is not None else 0)


def _two(self, x, y):
    return x.sum(1) + y.sum(1) * 3


def _relation(self, x, y):
    if x.shape[0] * 2 == y.shape[0]:
        return torch.cat([x, y]) * 2
    return torch.cat([x, y]) * 3


def _branch(self, x, k):
    if k > 2:
        return x * k
    return x - k


def _equal(self, x, y):
    return x + y if x.shape == y.shape else x * 2 + y[:1]


def _returns(self, x, y):
    return {"x": x, "y": [y, None, 3, x + y]}


def _nothing_used(self, x, unused, n=1):
    return x * n


EXPORTED = ("torch.export.load", "export", "export, other order", "strict export")
"""torch's own modules: they take what was captured by name by name alone, dicts by their keys, 0.0 for -0.0, and any
value where None was captured."""

CASES = {
    "by name": Case(
        model(_plain), Call(t(1), b=t(3), a=t(2)),
        [Call(t(1), t(2), t(3)), Call(t(1), a=t(2), b=t(3)), Call(t(4), b=t(5), a=t(6)), Call(a=t(2), x=t(1), b=t(3)),
         Call(t(1), t(2), b=t(3))],
        [Call(t(1), t(2)), Call(t(1), t(2), t(3), t(4)), Call(t(1), t(2), t(3), b=t(3)), Call(t(1), t(2), c=t(3)),
         Call(t(1), a=t(2), b=None), Call(t(1), t(2), 3.0), Call(t(1, 3), t(2, 3), t(3, 3)), Call(t(1).half(), t(2), t(3))],
    ),
    "by position": Case(
        model(_plain), Call(t(1), t(2), t(3)),
        [Call(t(1), t(2), t(3)), Call(b=t(3), a=t(2), x=t(1)), Call(t(1), b=t(3), a=t(2))], [Call(t(1), b=t(2))],
    ),
    "defaults": Case(
        model(_defaults), Call(t(1)),
        [Call(t(1)), Call(x=t(4)), Call(t(1), 2.0), Call(t(1), scale=2.0), Call(t(1), mask=None), Call(t(1), mode="mul", on=True)],
        [Call(t(1), 3.0), Call(t(1), 2), Call(t(1), mask=t(0)), Call(t(1), mode="add"), Call(t(1), on=False), Call(t(1), on=1),
         Call(t(1), t(2)), Call(t(1), scale=None)],
    ),
    "the last of the defaults": Case(
        model(_defaults), Call(t(1), mask=t(5)),
        [Call(t(1), mask=t(7)), Call(t(1), 2.0, t(7)), Call(mask=t(7), x=t(1)), Call(t(1), 2.0, mode="mul", mask=t(7))],
        [Call(t(1), t(7)), Call(t(1)), Call(t(1), mask=None), Call(t(1), 3.0, t(7)), Call(t(1), t(7), t(5))],
    ),
    "a default given": Case(
        model(_defaults), Call(t(1), 3.0, mode="add"),
        [Call(t(1), 3.0, mode="add"), Call(t(1), mode="add", scale=3.0), Call(t(1), 3.0, None, "add", True)],
        [Call(t(1)), Call(t(1), 3.0), Call(t(1), mode="add"), Call(t(1), 3.0, mode="mul"), Call(t(1), 3, mode="add"),
         Call(t(1), float("nan"), mode="add")],
    ),
    "keyword only": Case(
        model(_keyword_only), Call(t(1), y=t(3), n=2),
        [Call(t(1), n=2, y=t(3)), Call(y=t(5), x=t(1), n=2), Call(t(1), y=t(3), n=2, flip=False)],
        [Call(t(1), t(3)), Call(t(1), 2, t(3)), Call(t(1), y=t(3)), Call(t(1), y=t(3), n=1), Call(t(1), y=t(3), n=2, flip=True),
         Call(t(1), y=t(3), n=True)],
    ),
    "positional only": Case(
        model(_positional_only), Call(t(1), t(2), t(3)), [Call(t(1), t(2), t(3)), Call(t(1), t(2), z=t(3))],
        [Call(x=t(1), y=t(2), z=t(3)), Call(t(1), y=t(2), z=t(3))],
    ),
    "*args": Case(
        model(_args), Call(t(1), t(2), t(3)), [Call(t(1), t(2), t(3)), Call(t(1), t(2), t(3), scale=1.0)],
        [Call(t(1), t(2)), Call(t(1)), Call(t(1), t(2), t(3), t(4)), Call(t(1), t(2), t(3), scale=2.0), Call(t(1), t(2), 3)],
    ),
    "through **kwargs": Case(
        model(_through_kwargs), Call(t(1), a=t(2), b=t(3)), [Call(t(1), a=t(2), b=t(3)), Call(x=t(1), a=t(2), b=t(3))],
        [Call(t(1), b=t(3), a=t(2)).but_for(*EXPORTED), Call(t(1), a=t(2)), Call(t(1), a=t(2), c=t(3)), Call(t(1), a=t(2), b=t(3), c=t(4)),
         Call(t(1), t(2), t(3))],
    ),
    "**kwargs by name": Case(
        model(_kwargs_by_name), Call(t(1), a=t(2), b=t(3)), [Call(t(1), a=t(2), b=t(3))],
        [Call(t(1), b=t(3), a=t(2)), Call(t(1), b=t(3)), Call(t(1), t(2), t(3))],
    ),
    "through a dict": Case(
        model(_through_dict), Call({"a": t(1), "b": t(2)}), [Call({"a": t(3), "b": t(4)})],
        [Call({"b": t(2), "a": t(1)}).but_for(*EXPORTED), Call({"a": t(1)}), Call({"a": t(1), "c": t(2)}), Call({"a": t(1), "b": t(2), "c": t(3)}),
         Call(collections.OrderedDict(b=t(2), a=t(1)))],
    ),
    "a dict by key": Case(
        model(_dict_by_key), Call({"a": t(1), "b": {"c": t(2), "d": t(3)}}),
        [Call({"a": t(1), "b": {"c": t(2), "d": t(3)}}), Call(d={"b": {"d": t(3), "c": t(2)}, "a": t(1)}),
         Call({"a": t(1), "b": {"c": t(2), "d": t(3)}}, None)],
        [Call({"a": t(1), "b": {"c": t(2)}}), Call({"a": t(1), "b": [t(2), t(3)]})],
    ),
    "nested": Case(
        model(_nested), Call((t(1), [t(2), t(3)]), {"d": t(4)}),
        [Call((t(5), [t(6), t(7)]), {"d": t(8)}), Call(more={"d": t(8)}, pair=(t(5), [t(6), t(7)]))],
        [Call([t(5), [t(6), t(7)]], {"d": t(8)}), Call((t(5), (t(6), t(7))), {"d": t(8)}), Call((t(5), [t(6)]), {"d": t(8)}),
         Call((t(5), [t(6), t(7)]), {"e": t(8)}), Call((t(5), [t(6), t(7)]), t(8))],
    ),
    "a NamedTuple": Case(
        model(_namedtuple), Call(Pair(t(1), t(2))), [Call(Pair(t(3), t(4))), Call(p=Pair(second=t(4), first=t(3)))],
        [Call((t(3), t(4))), Call([t(3), t(4)]), Call(Riap(first=t(3), second=t(4)))],
    ),
    "an OrderedDict": Case(
        model(lambda self, d: d["a"] * 2 + d["b"]), Call(OrderedDict(a=t(1), b=t(2))), [Call(OrderedDict(a=t(3), b=t(4)))],
        [Call({"a": t(3), "b": t(4)}), Call(OrderedDict(a=t(3))), Call(OrderedDict(a=t(3), c=t(4))), Call((t(3), t(4)))],
    ),
    "a dataclass": Case(
        model(_dataclass), Call(Config(t(1), t(2))), [Call(Config(y=t(4), x=t(3))), Call(Config(t(3), t(4)), 1.0)],
        [Call(Config(t(3), t(4)), 2.0), Call((t(3), t(4)))],
    ),
    "scalars": Case(
        model(_scalars), Call(t(1), 2, 0.5, True, "double"),
        [Call(t(3), 2, 0.5, True, "double"), Call(t(3), 2, 0.5, True, "double", None), Call(t(3), 2, f=0.5, s="double", b=True)],
        [Call(t(3), 3, 0.5, True, "double"), Call(t(3), 2, 1.5, True, "double"), Call(t(3), 2, 0.5, False, "double"),
         Call(t(3), 2, 0.5, True, "one"), Call(t(3), 2, 0.5, True, "double", t(1)), Call(t(3), 2.0, 0.5, True, "double"),
         Call(t(3), 2, 0.5, 1, "double"), Call(t(3), t(2), 0.5, True, "double"), Call(t(3), -2, -0.5, True, "double")],
    ),
    "None and -0.0": Case(
        model(lambda self, x, n, z: x / z if n is None else x + n), Call(t(1), None, -0.0), [Call(t(1), None, -0.0)],
        [Call(t(1), None, 0.0).but_for(*EXPORTED, "torch.compile", "torch.compile of it"),
         *(Call(t(1), one, -0.0).but_for(*EXPORTED) for one in (0, False, t(1)))],
    ),
    "shadowing names": Case(
        model(_shadowing), Call(t(1), t(2), args=t(3)), [Call(t(1), t(2), args=t(4)), Call(device=t(2), nan=t(1), args=t(4))],
        [Call(t(1), t(2)), Call(t(1), t(2), kwargs=t(3), args=t(3))],
    ),
    "two sizes": Case(
        model(_two), Call(t(1, 4, 3), t(2, 4, 5)), [Call(t(1, 2, 3), t(2, 2, 5)), Call(t(1, 8, 9), t(2, 8, 2))],
        [Call(t(1, 2, 3), t(2, 3, 5)), Call(t(1, 1, 3), t(2, 4, 5)), Call(t(1, 9, 3), t(2, 9, 5)), Call(t(1, 4, 17), t(2, 4, 5))],
        sizes=({0: DYNAMIC(min=2, max=8), 1: DYNAMIC(min=2, max=16)}, {0: DYNAMIC(min=2, max=8), 1: DYNAMIC(min=2, max=16)}),
    ),
    "a relation": Case(
        model(_relation), Call(t(1, 4, 2), t(2, 8, 2)), [Call(t(1, 3, 2), t(2, 6, 2))],
        [Call(t(1, 4, 2), t(2, 7, 2)), Call(t(1, 3, 2), t(2, 3, 2))],
        sizes=({0: DYNAMIC(min=2, max=8)}, {0: DYNAMIC(min=4, max=16)}),
    ),
    "an int": Case(
        model(_branch), Call(t(1), 5), [Call(t(1), 3), Call(t(1), k=9)],
        [Call(t(1), 2), Call(t(1), -1), Call(t(1), True).but_for("torch.compile"), Call(t(1), 4.0), Call(t(1), 100)],
        sizes=({}, DYNAMIC(min=0, max=16)),
    ),
    "equal shapes": Case(
        model(_equal), Call(t(1, 4), t(2, 4)), [Call(t(1, 3), t(2, 3))], [Call(t(1, 3), t(2, 4)), Call(t(1, 4), t(2, 3))],
        sizes=({0: DYNAMIC(min=2, max=8)}, {0: DYNAMIC(min=2, max=8)}),
    ),
    "results": Case(
        model(_returns), Call(t(1), t(2)), [Call(t(3), t(4)), Call(y=t(4), x=t(3))], [Call(t(3), t(4, 3))],
    ),
    "unused": Case(
        model(_nothing_used), Call(t(1), t(2), n=3), [Call(t(1), t(5), n=3), Call(t(1), unused=t(5), n=3)],
        [Call(t(1), t(5)), Call(t(1), t(5), 4), Call(t(1), n=3), Call(t(1), t(2, 3), n=3)],
    ),
}  # fmt: skip


# --- routes -------------------------------------------------------------------------------------------------


def loaded(case, compiled, path):
    trtcore.save(compiled, path)
    return trtcore.load(path)


def export_loaded(case, compiled, path):
    trtcore.save(compiled, path)
    return torch.export.load(path).module()


def exported_again(case, compiled, path):
    captured = case.captured
    return torch.export.export(compiled, captured.args, captured.kwargs, dynamic_shapes=case.sizes).module()


def exported_otherwise(case, compiled, path):
    """With the keyword arguments the other way round."""
    captured = case.captured
    turned = dict(reversed(captured.kwargs.items()))
    return torch.export.export(compiled, captured.args, turned, dynamic_shapes=case.sizes).module()


def exported_strictly(case, compiled, path):
    captured = case.captured
    return torch.export.export(
        compiled, captured.args, captured.kwargs, dynamic_shapes=case.sizes, strict=True
    ).module()


def compiled_again(case, compiled, path):
    torch._dynamo.reset()
    return torch.compile(compiled, backend="eager")


def torch_saved(case, compiled, path):
    buffer = io.BytesIO()
    torch.save(compiled, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def functional(case, compiled, path):
    state = dict(compiled.named_parameters())
    return lambda *args, **kwargs: torch.func.functional_call(compiled, state, args, kwargs)


def hooked(case, compiled, path):
    module = copy.deepcopy(compiled)
    module.register_forward_hook(lambda *_: None)
    return module


def as_torch_compile(case, compiled, path):
    torch._dynamo.reset()
    return torch.compile(case.model, backend="trtcore", options={"min_block_size": 1})


ROUTES = {
    "call": lambda case, compiled, path: compiled,
    "forward": lambda case, compiled, path: compiled.forward,
    "deepcopy": lambda case, compiled, path: copy.deepcopy(compiled),
    "pickle": lambda case, compiled, path: pickle.loads(pickle.dumps(compiled)),
    "torch.save": torch_saved,
    "load": loaded,
    "load, pickle": lambda case, compiled, path: pickle.loads(pickle.dumps(loaded(case, compiled, path))),
    "torch.export.load": export_loaded,
    "export": exported_again,
    "export, other order": exported_otherwise,
    "strict export": exported_strictly,
    "torch.compile of it": compiled_again,
    "functional_call": functional,
    "hooked": hooked,
    "torch.compile": as_torch_compile,
}


@pytest.fixture(scope="module")
def compiled_case():
    made = {}

    def get(name):
        if name not in made:
            made[name] = CASES[name].compiled()
        return made[name]

    return get


def outcome(call, function):
    try:
        with torch.no_grad():
            return call.of(function)
    except Exception as error:
        return error


_TORCH_REFUSES = r"kwarg keyword mismatch|Trying to flatten user inputs"
_REFUSED = {
    ("positional only", "strict export"): "More arguments than expected",  # so for the model, too
    ("through **kwargs", "export, other order"): "in this order, got b, a",
    ("**kwargs by name", "export, other order"): "in this order, got b, a",
}
_QUICK = {
    "call": None,
    "forward": ("*args", "through **kwargs", "through a dict", "scalars"),
    "load": ("by name", "defaults", "through **kwargs", "None and -0.0", "a NamedTuple", "scalars"),
    "export": ("by name", "defaults", "an int"),
    "export, other order": ("by name", "keyword only", "through **kwargs"),
    "torch.compile of it": ("through **kwargs", "through a dict", "scalars", "a NamedTuple"),
}
"""Routes and cases of the default tests; all others are slow."""


def _table():
    for name, route in itertools.product(CASES, ROUTES):
        if route == "torch.export.load" and name in ("a NamedTuple", "a dataclass"):
            continue  # torch's own logging fails there
        quick = route in _QUICK and (_QUICK[route] is None or name in _QUICK[route])
        yield pytest.param(name, route, id=f"{name}-{route}", marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "route"), list(_table()))
def test_calls(compiled_case, name, route, tmp_path, capfd):
    case = CASES[name]
    if (name, route) in _REFUSED:
        with pytest.raises((trtcore.errors.InputError, AssertionError), match=_REFUSED[name, route]):
            ROUTES[route](case, compiled_case(name), tmp_path / "m.pt2")
        return
    function = ROUTES[route](case, compiled_case(name), tmp_path / "m.pt2")
    capfd.readouterr()
    for number, call in enumerate([*case.good, *case.other]):
        if route in call.left_out:
            continue
        want, have = outcome(call, case.model), outcome(call, function)
        if isinstance(have, Exception):
            theirs = route in EXPORTED and re.search(_TORCH_REFUSES, str(have))
            assert number >= len(case.good) or theirs, f"{call}: {have}"
            continue
        assert not isinstance(want, Exception), f"{call} was accepted, eager says {want}"
        torch.testing.assert_close(have, want, msg=lambda text, call=call: f"{call}: {text}", equal_nan=True)
    assert capfd.readouterr().err == ""


def test_a_structure_without_a_name_is_told_at_the_save(tmp_path):
    class Nameless(NamedTuple):
        x: torch.Tensor

    compiled = trtcore.compile(model(lambda self, p: p.x * 2), inputs=[Nameless(t(1))], min_block_size=1)
    with pytest.raises(trtcore.errors.ArtifactError, match="_register_namedtuple"):
        trtcore.save(compiled, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [deque, partial(defaultdict, list)], ids=["deque", "defaultdict"])
def test_a_structure_that_load_refuses_is_told_at_the_save(kind, tmp_path):
    given = kind([t(1), t(2)]) if kind is deque else kind({0: t(1), 1: t(2)})
    compiled = trtcore.compile(model(lambda self, p: p[0] * 2 + p[1]), inputs=[given], min_block_size=1)
    torch.testing.assert_close(compiled(given), t(1) * 2 + t(2))
    with pytest.raises(trtcore.errors.InputError, match="structure"):
        compiled((t(1), t(2)))
    with pytest.raises(
        trtcore.errors.ArtifactError, match="cannot be saved: to read it, torch imports"
    ) as told:
        trtcore.save(compiled, tmp_path / "m.pt2")
    assert "a list in that of a deque" in told.value.advice
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("in_torch", [(), ("aten.cat.default", "aten.mul.Tensor")])
def test_what_does_not_fit_is_no_example_for_an_export(in_torch, capfd):
    """Nor is anything printed: fx prints a traceback of generated code that raises, before the error itself."""
    case = CASES["a relation"]
    exported = torch.export.export(case.model, case.captured.args, dynamic_shapes=case.sizes)
    compiled = trtcore.dynamo.compile(exported, min_block_size=1, torch_executed_ops=set(in_torch))
    outer = model(lambda self, x, y: compiled(x, y))
    for module, rows in itertools.product((compiled, outer), (3, 7, 40)):
        with pytest.raises(trtcore.errors.InputError):
            torch.export.export(module, (t(1, 3, 2), t(2, rows, 2)))
    assert capfd.readouterr().err == ""
