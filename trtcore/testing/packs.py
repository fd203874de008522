"""Checks that any pack can take over: subclass `PackConformance` in a test module.

from trtcore.testing import Example, PackConformance

class TestMyPack(PackConformance):
    pack = "my-pack"

    def examples(self):
        yield Example(torch.relu, (torch.randn(2, 3),), dynamic={0: {0: (1, 2, 8)}})
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch

from trtcore.ir.ops import target_name
from trtcore.packs.loading import IN_PROCESS, LoadedPack, load_packs, means
from trtcore.packs.model import Converter, PackInfo, Reject
from trtcore.packs.registry import ConverterRegistry
from trtcore.testing.conformance import (
    Dynamic,
    _as_module,
    _compile,
    _input,
    _ranges,
    assert_converts,
    usable_backend,
)

if TYPE_CHECKING:
    from trtcore.context import CompileContext
    from trtcore.report.data import Report

__all__ = ["Example", "PackConformance"]

HEAVY = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "triton")
"""What importing a pack must not load: a user who never compiles pays for it too."""


@dataclass(frozen=True)
class Example:
    """A model that uses ops of the pack.

    Attributes:
        module: a module, or a function of tensors.
        inputs: example arguments.
        dynamic: as for `assert_converts`; None compiles for the example's sizes alone.
        dtypes, rtol, atol: as for `assert_converts`.
        converts: False where the pack rightly refuses an op of it.
        settings: further compile settings.
    """

    module: torch.nn.Module | Callable[..., Any]
    inputs: tuple[Any, ...]
    dynamic: Dynamic | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    rtol: float | None = None
    atol: float | None = None
    converts: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


class PackConformance:
    """Tests of a pack, for pytest. Give `pack` and `examples`; together they must use every converter of it.

    The pack is pinned for its ops, so that other packs of the environment do not stand in its way.

    Attributes:
        pack: its name, ``distribution:name``, or its distribution.
        not_shown: names of converters that no example can use here (say, because the backend lacks a layer).
    """

    pack: ClassVar[str]
    not_shown: ClassVar[frozenset[str]] = frozenset()

    def examples(self) -> Iterable[Example]:
        """Models that use the pack's ops, with every option that its validators look at."""
        raise NotImplementedError(f"{type(self).__name__}.examples must yield Example(module, inputs)")

    # -- the pack ----------------------------------------------------------------------------------------------

    def test_it_loads(self) -> None:
        """It is installed (or registered), fits this trtcore and loads; its names are its own."""
        self._loaded()

    def test_importing_it_is_cheap(self) -> None:
        """Its module loads neither TensorRT nor Triton."""
        info = self._loaded().info
        if info.distribution == IN_PROCESS:
            return  # registered by hand: there is no module of its own
        module = info.module
        code = (
            "import importlib, sys, torch, trtcore.pack\n"
            "before = set(sys.modules)\n"
            f"importlib.import_module({module!r})\n"
            f"print(*[name for name in {HEAVY!r} if name in sys.modules and name not in before])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"importing {module} fails:\n{done.stderr}"
        assert not done.stdout.split(), f"importing {module} loads {', '.join(done.stdout.split())}"

    def test_converter_names_are_unique(self) -> None:
        """For one op, so that users can pin ``pack:converter``."""
        seen: dict[tuple[str, str], Converter] = {}
        for one in self._loaded().converters:
            other = seen.setdefault((target_name(one.target), one.name), one)
            assert other is one, (
                f"two converters of {target_name(one.target)} are named {one.name!r}: give name="
            )

    # -- its validators ----------------------------------------------------------------------------------------

    def test_validators_answer_and_change_nothing(self) -> None:
        """True or a Reject with words, for every node of the examples; the graph is as it was."""
        for one, node, context in self._validated():
            before = _state(node.graph)
            try:
                answer = one.capability_validator(node, context)  # type: ignore[misc]
            except Exception as error:
                raise AssertionError(
                    f"the validator of {one.name} raises {error!r} at {node.format_node()}"
                ) from error
            assert _state(node.graph) == before, (
                f"the validator of {one.name} changes the graph at {node.name}"
            )
            told = isinstance(answer, Reject) and isinstance(answer.reason, str) and answer.reason.strip()
            assert answer is True or told, (
                f"the validator of {one.name} answers {answer!r} at {node.format_node()}: "
                'it must be True or Reject("why")'
            )

    # -- its converters ----------------------------------------------------------------------------------------

    def test_the_examples_convert(self) -> None:
        """Accepted, right and built, at the example's sizes and over the dynamic ranges.

        Of an example with ``converts=False`` a converter of the pack refuses an op, or one stays in torch.
        """
        __tracebackhide__ = True
        for example in self._examples():
            if not example.converts:
                self._is_refused(example)
            else:
                assert_converts(
                    example.module,
                    example.inputs,
                    dynamic=example.dynamic,
                    dtypes=example.dtypes,
                    rtol=example.rtol,
                    atol=example.atol,
                    settings=self._settings(example),
                )

    def _is_refused(self, example: Example) -> None:
        pack = str(self._loaded().info)
        report = self._report(example)
        rejected = [
            one
            for node in report.nodes
            for one in node.candidates
            if one.pack == pack and one.verdict == "rejected"
        ]
        assert rejected or report.in_torch, (
            "an example with converts=False converts: leave that out, or give one that a validator refuses\n\n"
            f"{report}"
        )

    def test_every_converter_is_shown(self) -> None:
        """Each one takes a node of some example."""
        missing = self._not_chosen(self._loaded().converters, dynamic=False)
        assert not missing, (
            f"no example is taken by the converters {', '.join(missing)}: yield an Example of a model "
            "that uses their op, or name them in not_shown; trtcore.explain says what takes the op instead"
        )

    def test_dynamic_claims_are_true(self) -> None:
        """What says ``supports_dynamic_shapes`` takes a node with symbolic dims in some example that converts."""
        claims = [one for one in self._loaded().converters if one.supports_dynamic_shapes]
        missing = self._not_chosen(claims, dynamic=True)
        assert not missing, (
            f"supports_dynamic_shapes=True is not shown of {', '.join(missing)}: give an Example that they "
            "take dynamic={input: {dim: (min, opt, max)}}, or leave the claim out"
        )

    # -- helpers -----------------------------------------------------------------------------------------------

    def _loaded(self) -> LoadedPack:
        found = [one for one in load_packs() if means(self.pack, one.info)]
        assert found, f"no pack {self.pack!r} is installed; `trtcore packs` lists those that are"
        assert len(found) == 1, (
            f"{self.pack!r} means {', '.join(one.info.id for one in found)}; give distribution:name"
        )
        (pack,) = found
        assert pack.info.status == "loaded", f"{pack.info} is {pack.info.status}: {pack.info.error}"
        return pack

    def _examples(self) -> list[Example]:
        _need_backend()
        found = list(self.examples())
        assert found, f"{type(self).__name__}.examples yields none"
        return found

    def _settings(self, example: Example) -> dict[str, Any]:
        pack = self._loaded()
        ops = {target_name(one.target) for one in pack.converters if _is_op(one.target)}
        return {"pins": dict.fromkeys(sorted(ops), pack.info.id), **example.settings}

    def _not_chosen(self, converters: Iterable[Converter], dynamic: bool) -> list[str]:
        """The names of the functions that take no node of an example; one that serves several ops has to take one."""
        chosen = {item for report in self._reports(dynamic) for item in self._chosen(report)}
        taken: dict[tuple[str, Any], bool] = {}
        for one in converters:
            key = one.name, one.implementation
            op = target_name(one.target)  # without an overload for an op that was given by name
            taken[key] = taken.get(key, False) or any(
                name == one.name and f"{node}.".startswith(f"{op}.") for node, name in chosen
            )
        return sorted({name for (name, _), is_taken in taken.items() if not is_taken} - self.not_shown)

    def _reports(self, dynamic: bool) -> Iterator[Report]:
        """The reports of the compiles of the examples (of those with dynamic sizes, and that convert)."""
        for example in self._examples():
            if dynamic and not (example.dynamic and example.converts):
                continue
            yield self._report(example)

    def _report(self, example: Example) -> Report:
        options = {"min_block_size": 1, "runtime": "reference", **self._settings(example)}
        eager = _as_module(example.module, example.dtypes[0])
        report: Report = _compile(eager, example.inputs, {}, example.dynamic, options).report
        return report

    def _chosen(self, report: Report) -> set[tuple[str, str]]:
        pack = str(self._loaded().info)
        return {(node.op, node.converter) for node in report.converted if node.pack == pack}

    def _validated(self) -> Iterator[tuple[Converter, torch.fx.Node, Any]]:
        """Every converter of the pack with a validator, with every node of the examples that it may be asked about."""
        own = {(one.name, one.order) for one in self._loaded().converters if one.capability_validator}
        for example in self._examples():
            graph_module, context = _lowered(example, self._settings(example), self._loaded().info)
            for node in graph_module.graph.nodes:
                if node.op != "call_function":
                    continue
                for one in context.registry.candidates(node.target):
                    mine = one.pack is not None and means(self.pack, one.pack)
                    if mine and (one.name, one.order) in own:
                        yield one, node, context


@cache
def _need_backend() -> None:
    from trtcore.errors import BackendUnavailableError

    try:
        usable_backend()
    except BackendUnavailableError as error:
        import pytest

        pytest.skip(str(error))


def _is_op(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload)


def _lowered(
    example: Example, settings: Mapping[str, Any], asked: PackInfo
) -> tuple[torch.fx.GraphModule, CompileContext]:
    """An example's graph as a pack's validators see it, before any of them has, and the compile's context."""
    from trtcore.compiler import make_context
    from trtcore.frontend.export import program_from_exported, trace
    from trtcore.lowering import lower
    from trtcore.settings import CompilationSettings

    inputs = tuple(
        _input(value, _ranges(example.dynamic, i, value)) for i, value in enumerate(example.inputs)
    )
    exported = trace(_as_module(example.module, example.dtypes[0]), arg_inputs=inputs)
    context = make_context(CompilationSettings.from_kwargs(**settings))
    trusting = [
        replace(
            pack, converters=tuple(attrs.evolve(one, capability_validator=None) for one in pack.converters)
        )
        if pack.info.id == asked.id
        else pack
        for pack in load_packs()
    ]
    lowering = replace(context, registry=ConverterRegistry.build(trusting))
    return lower(program_from_exported(exported, inputs, None), lowering).graph_module, context


def _state(graph: torch.fx.Graph) -> list[Any]:
    """What must be the same before and after: nodes, calls, metadata."""
    return [
        (
            node.name,
            node.op,
            node.target,
            node.args,
            node.kwargs,
            sorted(node.meta, key=str),
            id(node.meta.get("val")),
        )
        for node in graph.nodes
    ]
