"""Settings that change nothing for the model: told after a compile. Names that match nothing, with the nearest names
that would; precisions that no op computes in.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import fx

from trtcore.ir.ops import target_name
from trtcore.ir.provenance import module_path
from trtcore.packs.rules import in_module, modules_of
from trtcore.settings.values import FP4

if TYPE_CHECKING:
    from trtcore.settings import CompilationSettings

_OPS = ("torch_executed_ops", "fused_ops", "autocast_excluded_ops", "converters", "pins")
_NOTHING: dict[str, str] = {
    "torch_executed_modules": "no op of the model is in it",
    "disabled_passes": "there is no such lowering pass",
    "autocast_excluded_nodes": "no node's name, and no module's path, begins with a match",
    **dict.fromkeys(_OPS, "the model has no such op"),
}


class SettingsUse:
    """Which of a compile's settings have matched something so far.

    Lowering changes a graph in place, and its passes look at names of their own time: so a graph is looked at before
    and after.

        use = SettingsUse(settings, pass_names)
        use.look(program.graph_module.graph)
        ...                                      # lowering
        use.look(lowered.graph_module.graph)
        use.warn()
    """

    def __init__(self, settings: CompilationSettings, passes: Collection[str]) -> None:
        self._unmatched: dict[str, list[Any]] = {
            name: _wanted(name, getattr(settings, name)) for name in _NOTHING if getattr(settings, name)
        }
        self._known: dict[str, set[str]] = {name: set() for name in self._unmatched}
        self._settings = settings
        self._in_float: list[Counter[torch.dtype]] = []
        if "disabled_passes" in self._unmatched:
            self._known["disabled_passes"] = set(passes)
            self._strike("disabled_passes", lambda name: name in passes)

    def look(self, graph: fx.Graph) -> None:
        """Strike what matches a node of a graph. Costs nothing where no setting names anything."""
        if self._settings.autocast_dtype is not None:
            self._in_float.append(_floats(graph))
        if not any(self._unmatched.values()):
            return
        nodes = [node for node in graph.nodes if node.op == "call_function"]
        self._look_at_modules(nodes)
        self._look_at_names(nodes)
        self._look_at_ops(nodes)

    def texts(self) -> list[str]:
        """One sentence for each name that has matched nothing."""
        return [
            f"{setting} has {_shown(item)}: {_NOTHING[setting]}{self._hint(setting, item)}"
            for setting, items in self._unmatched.items()
            for item in sorted(items, key=str)
        ] + self._precisions()

    def _precisions(self) -> list[str]:
        """Lower precisions that the settings allow and that no op has been changed to."""
        found = []
        if FP4 is not None and FP4 in self._settings.enabled_precisions:
            found.append(
                f"enabled_precisions has {FP4}, which changes nothing: what the model quantises to it is computed in "
                "it anyway; leave it out"
            )
        dtype = self._settings.autocast_dtype
        threshold = self._settings.autocast_max_output_threshold
        if (
            self._settings.autocast_calibration_dataloader is None
            and threshold != attrs.fields_dict(type(self._settings))["autocast_max_output_threshold"].default
        ):
            found.append(
                f"autocast_max_output_threshold={threshold:g} changes nothing without autocast_calibration_dataloader, "
                "on whose batches results are measured"
            )
        if dtype is None or len(self._in_float) < 2 or not self._in_float[0]:
            return found
        before, after = self._in_float[0], self._in_float[-1]
        if after[dtype] <= before[dtype]:
            why = (
                "every op stays in float32, and the report says by which rule"
                if before[torch.float32]
                else f"no op of the model is in float32, but in {', '.join(sorted(map(str, before)))}"
            )
            found.append(f"autocast to {dtype} changes nothing: {why}")
        return found

    def warn(self) -> list[str]:
        """Say each of `texts` as a UserWarning; return them, for the report."""
        texts = self.texts()
        for text in texts:
            warnings.warn(text, UserWarning, stacklevel=3)
        return texts

    # -- one kind of setting each --------------------------------------------------------------------------

    def _strike(self, setting: str, matches: Callable[[Any], bool]) -> None:
        self._unmatched[setting] = [item for item in self._unmatched[setting] if not matches(item)]

    def _look_at_modules(self, nodes: list[fx.Node]) -> None:
        if not self._unmatched.get("torch_executed_modules"):
            return
        modules = {(path, kind) for node in nodes for path, kind in modules_of(node)}
        self._known["torch_executed_modules"] |= {path for path, _ in modules if path}
        self._strike(
            "torch_executed_modules", lambda wanted: any(in_module(*module, wanted) for module in modules)
        )

    def _look_at_names(self, nodes: list[fx.Node]) -> None:
        if not self._unmatched.get("autocast_excluded_nodes"):
            return
        names = {name for node in nodes for name in (node.name, module_path(node)) if name}
        self._known["autocast_excluded_nodes"] |= names
        self._strike("autocast_excluded_nodes", lambda pattern: any(map(re.compile(pattern).match, names)))

    def _look_at_ops(self, nodes: list[fx.Node]) -> None:
        for setting in _OPS:
            if self._unmatched.get(setting):
                ops = {target_name(node.target) for node in nodes}
                ops |= {op.rpartition(".")[0] for op in ops}
                self._known[setting] |= ops
                self._strike(setting, ops.__contains__)

    def _hint(self, setting: str, item: Any) -> str:
        wanted = re.sub(r"[\^$\\]", "", item) if isinstance(item, str) else item.__name__
        near = _nearest(wanted, self._known[setting], _bare if setting in _OPS else str)
        return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _floats(graph: fx.Graph) -> Counter[torch.dtype]:
    """How many calls give floating-point tensors of which dtype."""
    values = (node.meta.get("val") for node in graph.nodes if node.op == "call_function")
    return Counter(one.dtype for one in values if isinstance(one, torch.Tensor) and one.is_floating_point())


def _wanted(setting: str, value: Iterable[Any]) -> list[Any]:
    """What a setting names; converters by their ops' names, a function of every overload of an op by the op's."""
    if setting != "converters" or not isinstance(value, Mapping):
        return list(value)
    by_op: dict[tuple[str, int], list[str]] = {}
    for op, converter in value.items():
        name = target_name(op)
        of_torch = isinstance(op, torch._ops.OpOverload)
        by_op.setdefault((name.rpartition(".")[0] if of_torch else name, id(converter)), []).append(name)
    return [op if len(names) > 1 else names[0] for (op, _), names in by_op.items()]


def _bare(op: str) -> str:
    """An op's name without what most of them share, which would make any two alike."""
    return op.removeprefix("aten.").removesuffix(".default")


def _nearest(wanted: str, known: Iterable[str], key: Callable[[str], str]) -> list[str]:
    by_key: dict[str, str] = {}
    # An op is named as it was asked for, with its overload or without.
    for name in sorted(known, key=lambda name: (name.count(".") != wanted.count("."), name)):
        by_key.setdefault(key(name), name)
    near = difflib.get_close_matches(key(wanted), list(by_key), n=3, cutoff=0.5)
    return [by_key[one] for one in near]


def _shown(item: str | type) -> str:
    return repr(item) if isinstance(item, str) else item.__qualname__
