"""`compare`: a model in eager against its compiled form, and the first node whose value diverges.

The nodes are the model's own: those of the exported program, before any lowering. To look at a node's value, the
program up to this node is compiled alone, and returns it. Bisection takes at most log2(n) + 2 such builds for n nodes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from trtcore.compiler import compile_program
from trtcore.debug.curve import CurvePoint, page
from trtcore.errors import InputError
from trtcore.frontend.export import trace
from trtcore.frontend.program import program_from_exported
from trtcore.ir.graphs import is_getitem, mutates
from trtcore.ir.ops import op_name
from trtcore.ir.provenance import module_path, source_line
from trtcore.report.records import short_path
from trtcore.settings import CompilationSettings

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from typing_extensions import Unpack

    from trtcore.ir.program import Program
    from trtcore.report.data import Report
    from trtcore.settings.kwargs import SettingsDict

_TOLERANCES: Mapping[torch.dtype, float] = {torch.float16: 2e-2, torch.bfloat16: 5e-2, torch.float64: 1e-4}
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Step:
    """One look at a node's value.

    Attributes:
        node: its name in the exported program.
        error: the norm of the difference over the norm of eager's value; inf where one of them is not finite alone.
        diverges: the error exceeds the tolerance.
        engines: how many engines computed it.
    """

    node: str
    error: float
    diverges: bool
    engines: int


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        node: the first node that diverges; "" if the outputs agree.
        op, module_path, source: of that node.
        converter, pack: whose layers compute it; "" where it runs in torch.
        error: at that node, or the largest at the outputs.
        tolerance: what counts as diverging.
        steps: the looks, in the order in which they were taken: at the outputs, then by bisection.
        nodes: how many nodes there were to choose from.
        report: of the whole model's compile.
        curve: the error at every node in order, if it was asked for.
    """

    node: str
    op: str
    module_path: str
    source: str
    converter: str
    pack: str
    error: float
    tolerance: float
    steps: tuple[Step, ...]
    nodes: int
    report: Report
    curve: tuple[CurvePoint, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether the compiled model gives what the model gives, within the tolerance."""
        return not self.node

    @property
    def builds(self) -> int:
        """How many compiles it took, the whole model's among them."""
        return len(self.steps) + bool(self.curve)

    def html(self) -> str:
        """What was found as a page, with the error at each node drawn; one self-contained document.

        The plot needs ``compare(..., curve=True)``; without it the page has the looks of the search.
        """
        return page(str(self), self.curve, self.tolerance, self.node)

    def __str__(self) -> str:
        if self.agrees:
            return f"the outputs agree: error {self.error:.3g}, tolerance {self.tolerance:.3g}"
        place = " ".join(
            filter(None, (self.module_path, f"({short_path(self.source)})" if self.source else ""))
        )
        whose = f"{self.converter} of {self.pack}" if self.converter else "it runs in torch"
        lines = [
            f"the first node that diverges: {self.node} ({self.op}) at {place or 'an unknown place'}",
            f"  converter: {whose}",
            f"  error {self.error:.3g}, tolerance {self.tolerance:.3g}",
            f"  found in {self.builds} builds among {self.nodes} nodes:",
            *(
                f"    {one.node}: error {one.error:.3g}" + (" diverges" if one.diverges else "")
                for one in self.steps
            ),
        ]
        return "\n".join(lines)


def compare(
    model: torch.nn.Module | ExportedProgram,
    inputs: Sequence[Any],
    *,
    kwarg_inputs: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    curve: bool = False,
    **settings: Unpack[SettingsDict],
) -> Comparison:
    """Compare a model with its compiled form at given inputs, and find the first node that diverges.

    Args:
        model: a module, or an ExportedProgram.
        inputs: tensors and other values, the positional arguments; they are what the model is run with.
        kwarg_inputs: the keyword arguments.
        tolerance: the greatest relative error (norm of the difference over norm of eager's value) that does not count;
            None takes 1e-4, or 2e-2 and 5e-2 where the settings or the model compute in float16 and bfloat16.
        curve: also look at every node, in one more build of a program that returns them all. Ops that a pass or
            TensorRT would join are computed one by one there, because each has a result that is asked for.
        **settings: fields of `CompilationSettings`; `min_block_size` is 1 if it is not given.

    Raises:
        InputError: there is nothing to compare: no floating-point output, or the model changes its buffers or inputs.
    """
    settings.setdefault("min_block_size", 1)
    chosen = CompilationSettings.from_kwargs(**settings)
    exported = (
        model
        if isinstance(model, torch.export.ExportedProgram)
        else trace(model, inputs, kwarg_inputs=kwarg_inputs)
    )
    search = _Search(exported, inputs, kwarg_inputs, chosen, tolerance)
    found = search.run()
    return replace(found, curve=search.curve()) if curve else found


class _Search:
    def __init__(
        self,
        exported: ExportedProgram,
        inputs: Sequence[Any],
        kwarg_inputs: Mapping[str, Any] | None,
        settings: CompilationSettings,
        tolerance: float | None,
    ) -> None:
        self.exported, self.settings = exported, settings
        self.inputs, self.kwarg_inputs = tuple(inputs), dict(kwarg_inputs or {})
        program = self._program()
        graph = program.graph_module.graph
        if any(mutates(node) and _writes_outside(node) for node in graph.nodes):
            raise InputError(
                "compare takes models that change neither buffers nor inputs",
                advice="compare a part of it: the submodule that is in question, with inputs of its own",
            )
        self.nodes = [node for node in graph.nodes if _is_comparable(node)]
        self.outputs = [node for node in graph.output_node().all_input_nodes if _is_floating(node)]
        if not self.outputs:
            raise InputError("the model has no floating-point output: there is nothing to compare")
        self.tolerance = tolerance if tolerance is not None else self._tolerance()
        self.values = _eager(program.graph_module, self._flat(program))
        self.steps: list[Step] = []

    def run(self) -> Comparison:
        whole, report = self._look([node.name for node in self.outputs])
        if not whole.diverges:
            return self._found(None, whole, report, report)
        low, high = 0, len(self.nodes) - 1
        last = (whole, report)
        known: dict[int, tuple[Step, Report]] = {}
        while low < high:
            middle = (low + high) // 2
            known[middle] = self._look([self.nodes[middle].name])
            if known[middle][0].diverges:
                high = middle
            else:
                low = middle + 1
        step, at = known.get(low) or (
            last if self.nodes[low] in self.outputs else self._look([self.nodes[low].name])
        )
        return self._found(self.nodes[low], step, at, report)

    def curve(self) -> tuple[CurvePoint, ...]:
        """The error at every node."""
        errors, _ = self._errors([node.name for node in self.nodes])
        return tuple(
            CurvePoint(node.name, op_name(node.target), module_path(node), source_line(node), error)
            for node, error in zip(self.nodes, errors)
        )

    def _found(self, node: Node | None, step: Step, at: Report, report: Report) -> Comparison:
        steps, count = tuple(self.steps), len(self.nodes)
        if node is None:
            return Comparison("", "", "", "", "", "", step.error, self.tolerance, steps, count, report)
        place, line = module_path(node), source_line(node)
        alike = [one for one in at.nodes if (one.module_path, one.source) == (place, line)]
        taken = [one for one in alike if one.name == node.name] or alike[-1:] or at.nodes[-1:]
        converter, pack = (taken[0].converter, taken[0].pack) if taken and taken[0].in_engine else ("", "")
        return Comparison(
            node.name, op_name(node.target), place, line, converter, pack, step.error, self.tolerance, steps, count,
            report,
        )  # fmt: skip

    # ---- one look -----------------------------------------------------------------------------------

    def _look(self, names: Sequence[str]) -> tuple[Step, Report]:
        """Compile the program up to some nodes, and compare their values with eager's."""
        errors, report = self._errors(names)
        worst = max(errors)
        step = Step(", ".join(names), worst, worst > self.tolerance, len(report.engines))
        self.steps.append(step)
        return step, report

    def _errors(self, names: Sequence[str]) -> tuple[list[float], Report]:
        program = _up_to(self._program(), names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first look tells what there is to tell
            compiled = compile_program(program, self.settings)
        report = compiled.report
        with torch.no_grad():
            results = compiled(*self._flat(program))
        results = results if isinstance(results, (tuple, list)) else (results,)
        return [_error(result, self.values[name]) for result, name in zip(results, names)], report

    def _program(self) -> Program:
        given = self.inputs or None
        return program_from_exported(self.exported, given, self.kwarg_inputs or None)

    def _flat(self, program: Program) -> list[Any]:
        """The arguments in the order of the graph's inputs; each run gets copies."""
        from torch.utils import _pytree as pytree

        leaves = pytree.tree_leaves((self.inputs, self.kwarg_inputs))
        return [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]

    def _tolerance(self) -> float:
        settings = self.settings
        dtypes = {node.meta["val"].dtype for node in self.nodes}
        if settings.autocast_dtype is not None:
            dtypes.add(settings.autocast_dtype)
        return max(_TOLERANCES.get(dtype, _TOLERANCE) for dtype in dtypes)


def _is_floating(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_comparable(node: Node) -> bool:
    return node.op == "call_function" and _is_floating(node) and (not mutates(node) or is_getitem(node))


def _writes_outside(node: Node) -> bool:
    target = node.args[0] if node.args else None
    return isinstance(target, Node) and target.op in ("placeholder", "get_attr")


def _up_to(program: Program, names: Sequence[str]) -> Program:
    """The program that returns the values of some nodes, called with flat arguments."""
    graph_module = program.graph_module
    by_name = {node.name: node for node in graph_module.graph.nodes}
    output = graph_module.graph.output_node()
    output.args = (tuple(by_name[name] for name in names),)
    output.meta.pop("val", None)
    last = max(list(by_name).index(name) for name in names)
    for node in reversed(list(by_name.values())[last + 1 :]):
        if node.op == "call_function" and not node.users:
            graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return replace(program, graph_module=graph_module, in_spec=None, out_spec=None)


def _eager(graph_module: GraphModule, flat: Sequence[Any]) -> dict[str, torch.Tensor]:
    """The value of every floating-point node, computed in torch."""
    values: dict[str, torch.Tensor] = {}

    class Keeper(Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor) and result.is_floating_point():
                values[n.name] = result.detach().clone()
            return result

    with torch.no_grad():
        Keeper(graph_module).run(*flat)
    return values


def _error(value: Any, expected: torch.Tensor) -> float:
    if not isinstance(value, torch.Tensor) or value.shape != expected.shape:
        return math.inf
    a, b = value.detach().to("cpu", torch.float64), expected.to("cpu", torch.float64)
    if not torch.equal(a.isfinite(), b.isfinite()):
        return math.inf
    a, b = a.nan_to_num(), b.nan_to_num()
    scale = float(b.norm())
    return float((a - b).norm()) / scale if scale else float((a - b).norm())
