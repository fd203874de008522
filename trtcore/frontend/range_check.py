"""Holding an exported program to the sizes that were asked for.

torch.export traces with sizes of at least 2 and takes every branch as for those. At the ends of the ranges,
where a size is 0 or 1 or one of torch's guards is false, the captured graph may or may not be the model.
There both are run (or, where that is impossible, the model is exported again with these sizes and the graphs
are compared), and the range is promised only if they agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree
from torch.utils._sympy.value_ranges import ValueRanges

from trtcore.errors import ExportError
from trtcore.frontend.quiet import can_run, run, without_traces
from trtcore.ir.exported import unlifted_module
from trtcore.ir.guards import Guard, input_sources, parse_guards
from trtcore.ir.inputs import Input, InputTree, leaf_paths, profile_count, profile_dims_at
from trtcore.ir.program import SymbolRange
from trtcore.ir.ranges import exported_ranges
from trtcore.ir.symbols import solve_linear

_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2, torch.float32: 1e-3, torch.float64: 1e-6}


def check_corners(
    model: torch.nn.Module, ep: ExportedProgram, tree: InputTree, examples: Sequence[Any]
) -> None:
    """Make `ep` promise exactly the sizes that `tree` asks for.

    Widens ``ep.range_constraints`` to minima of 0 and 1, and drops guards that were seen not to matter.

    Raises:
        ExportError: the model works only for a smaller range, or takes another path at one of its ends.
    """
    checker = _Checker(model, ep, tree, examples)
    if checker.ranges:
        checker.check()


class _Checker:
    def __init__(
        self, model: torch.nn.Module, ep: ExportedProgram, tree: InputTree, examples: Sequence[Any]
    ) -> None:
        self.model, self.ep, self.tree, self.examples = model, ep, tree, examples
        nodes = [node for node in ep.graph.nodes if node.op == "placeholder"]
        specs = ep.graph_signature.input_specs
        self.placeholders = [n for n, spec in zip(nodes, specs) if spec.kind.name == "USER_INPUT"]
        self.places: dict[str, str] = {}
        self.ranges = self._asked_ranges()

    def _asked_ranges(self, profile: int | None = None) -> dict[str, SymbolRange]:
        """What was asked for per symbol, in one profile or over all: the intersection over the places it occurs."""
        ranges: dict[str, SymbolRange] = {}
        for name, leaf, node in zip(self.tree.names, self.tree.leaves, self.placeholders):
            if not isinstance(leaf, Input):
                continue
            dims = leaf.dims if profile is None else profile_dims_at(leaf, profile)
            for index, (overall, asked, dim) in enumerate(zip(leaf.dims, dims, node.meta["val"].shape)):
                if not overall.dynamic:
                    continue
                where = f"{name}: dimension {index}"
                if not isinstance(dim, torch.SymInt):
                    raise ExportError(
                        f"input {where} was asked for as {asked}, but the model fixes it to {int(dim)}",
                        advice="give this size as min, opt and max, or change the model to take others",
                    )
                solved = solve_linear(dim)
                if solved is None:
                    continue
                symbol, scale, offset = solved
                low, high = -(-(asked.min - offset) // scale), (asked.max - offset) // scale
                opt = (asked.opt - offset) // scale
                known = ranges.get(symbol)
                if known is not None:
                    low, high = max(low, known.min), min(high, known.max)
                if known is None or scale == 1:
                    self.places[symbol] = where
                ranges[symbol] = SymbolRange(symbol, low, min(max(opt, low), high), high)
        return ranges

    def check(self) -> None:
        self._check_exported_ranges()
        guards = self._guards()
        dropped: set[str] = set()
        for corner in self._corners():
            size = self._size_of(corner)
            failing = [guard for guard in guards if guard.expression not in dropped and not guard.holds(size)]
            if failing or any(value < 2 for value in corner.values()):
                problem = self._differs(corner)
                if problem is not None:
                    raise self._error(corner, failing, problem)
                dropped.update(guard.expression for guard in failing)
        self._promise(dropped)

    def _check_exported_ranges(self) -> None:
        """torch.export narrows a range without a word where the model needs it (kernel > input)."""
        exported = exported_ranges(self.ep.range_constraints)
        for symbol, asked in self.ranges.items():
            low, high = exported.get(symbol, (0, None))
            # A minimum of 2 is torch's own habit, not the model's need; check() looks at 0 and 1.
            low = 0 if low <= 2 else low
            high = asked.max if high is None else high
            if asked.min < low or asked.max > high:
                raise ExportError(
                    f"input {self.places[symbol]} was asked for as {asked.min}..{asked.max}, but the model "
                    f"works only for {max(low, asked.min)}..{min(high, asked.max)}",
                    advice="ask for this range",
                )

    def _guards(self) -> tuple[Guard, ...]:
        return parse_guards(self.ep._guards_code, self._sources())

    def _sources(self) -> dict[str, int]:
        paths = leaf_paths(self.tree.spec)
        signature = self.ep.module_call_graph[0].signature
        return input_sources(paths, getattr(signature, "forward_arg_names", None) or [])

    def _corners(self) -> Iterator[dict[str, int]]:
        """Per profile all minima, all maxima, and each symbol that may be 0 or 1 at its minimum beside usual sizes."""
        count = profile_count(self.tree.leaves, self.tree.names)
        profiles = [self.ranges] if count == 1 else map(self._asked_ranges, range(count))
        seen = set()
        for ranges in profiles:
            usual = {name: min(max(size.min, 2), size.max) for name, size in ranges.items()}
            corners = [
                {n: size.min for n, size in ranges.items()},
                {n: size.max for n, size in ranges.items()},
            ]
            corners += [{**usual, name: size.min} for name, size in ranges.items() if size.min < 2]
            for corner in corners:
                key = tuple(corner.values())
                if key not in seen:
                    seen.add(key)
                    yield corner

    def _shape(self, index: int, corner: Mapping[str, int]) -> list[int]:
        shape = []
        for dim in self.placeholders[index].meta["val"].shape:
            size = _number(dim, corner)
            shape.append(size if isinstance(size, int) else int(dim.node.hint))
        return shape

    def _size_of(self, corner: Mapping[str, int]) -> Any:
        shapes = {
            index: self._shape(index, corner)
            for index, leaf in enumerate(self.tree.leaves)
            if isinstance(leaf, (Input, torch.Tensor))
        }
        return lambda index, dim: shapes[index][dim]

    def _call_at(self, corner: Mapping[str, int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves: list[Any] = []
        for index, (leaf, example) in enumerate(zip(self.tree.leaves, self.examples)):
            if isinstance(leaf, Input) and leaf.is_dynamic:
                leaves.append(
                    leaf.example_tensor(self._shape(index, corner), device=example.device, seed=index)
                )
            else:
                leaves.append(example)
        return self.tree.unflatten(leaves)

    def _differs(self, corner: Mapping[str, int]) -> str | None:
        """Why the captured graph is not the model at these sizes; None if it is."""
        args, kwargs = self._call_at(corner)
        problem = "its weights are not real, so it can't be tried, and an export with these sizes differs"
        if can_run(self.model):
            try:
                expected = run(self.model, args, kwargs)
            except Exception as error:
                # The size may be wrong for the model, or only our made-up values are; an export can tell.
                problem = f"the model itself fails: {_first_line(error)}"
            else:
                return self._outputs_differ(expected, args, kwargs, corner)
        return None if self._same_graph(args, kwargs, corner) else problem

    def _outputs_differ(
        self, expected: Any, args: Sequence[Any], kwargs: Mapping[str, Any], corner: Mapping[str, int]
    ) -> str | None:
        try:
            found = _run_graph(unlifted_module(self.ep), pytree.tree_leaves((args, kwargs)), corner)
        except Exception as error:
            return f"the captured graph fails: {_first_line(error)}"
        wanted = pytree.tree_leaves(expected)
        if len(wanted) != len(found):
            return "the captured graph has another number of outputs than the model"
        for index, (want, have) in enumerate(zip(wanted, found)):
            if not _agree(want, have):
                return f"output {index} of the captured graph differs from the model's"
        return None

    def _same_graph(self, args: Sequence[Any], kwargs: Mapping[str, Any], corner: Mapping[str, int]) -> bool:
        """Whether an export with exactly these sizes gives the same operations on the same values."""
        try:
            fixed = torch.export.export(self.model, tuple(args), dict(kwargs))
        except Exception:
            return False
        return _operations(self.ep, corner) == _operations(fixed, {})

    def _error(self, corner: Mapping[str, int], failing: Sequence[Guard], problem: str) -> ExportError:
        special = {name: value for name, value in corner.items() if value < 2} or corner
        sizes = ", ".join(
            f"{self.places[name]} = {value}" for name, value in special.items() if name in self.places
        )
        reason = f"; torch.export assumed {' and '.join(g.text for g in failing[:3])}" if failing else ""
        return ExportError(
            f"{type(self.model).__name__} can't be captured for all the sizes asked for, because of {sizes}: "
            f"{problem}{reason}",
            advice="ask for a range without this size (a min of 2, usually), and compile this one on its own",
        )

    def _promise(self, dropped: set[str]) -> None:
        """Put what was checked into the exported program."""
        constraints = self.ep._range_constraints
        for expression in list(constraints):
            solved = solve_linear(expression)
            if solved is None or solved[0] not in self.ranges:
                continue
            symbol, scale, offset = solved
            asked = self.ranges[symbol]
            constraints[expression] = ValueRanges(scale * asked.min + offset, scale * asked.max + offset)
        if dropped:
            sources = self._sources()
            self.ep._guards_code = [
                code
                for code in self.ep._guards_code
                if not any(guard.expression in dropped for guard in parse_guards([code], sources))
            ]


class _ShapeCheck(torch.fx.Interpreter):
    """Runs a graph and holds every tensor to the shape that the capture promises."""

    def __init__(self, module: torch.fx.GraphModule, corner: Mapping[str, int]) -> None:
        super().__init__(module)
        self._corner = corner

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        promised = n.meta.get("val")
        if isinstance(result, torch.Tensor) and isinstance(promised, torch.Tensor):
            shape = tuple(_number(dim, self._corner) for dim in promised.shape)
            known = all(
                isinstance(want, sympy.Expr) or want == have for want, have in zip(shape, result.shape)
            )
            if len(shape) != result.dim() or not known:
                raise RuntimeError(
                    f"{n.name} ({n.target}) has shape {tuple(result.shape)} instead of {shape}"
                )
        return result


def _run_graph(module: torch.fx.GraphModule, leaves: Sequence[Any], corner: Mapping[str, int]) -> list[Any]:
    """The flat outputs of a captured graph, computed without changing its buffers or the inputs."""
    for container in module.modules():
        for name, buffer in list(container._buffers.items()):
            container._buffers[name] = buffer.clone() if buffer is not None else None
    with without_traces(leaves) as own:
        return list(_ShapeCheck(module, corner).run(*own))


def _agree(want: Any, have: Any) -> bool:
    if not isinstance(want, torch.Tensor) or not isinstance(have, torch.Tensor):
        return type(want) is type(have) and bool(want == have)
    if want.shape != have.shape or want.dtype != have.dtype:
        return False
    if not (want.dtype.is_floating_point or want.dtype.is_complex):
        return torch.equal(want, have)
    tolerance = _TOLERANCE.get(want.dtype, 1e-3)
    scale = float(want.abs().nan_to_num(0, 0, 0).max()) if want.numel() else 0.0
    return torch.allclose(want, have, rtol=tolerance, atol=tolerance * max(scale, 1e-30), equal_nan=True)


def _operations(ep: ExportedProgram, corner: Mapping[str, int]) -> list[Any]:
    """The graph as a comparable list; sizes as numbers, and the nodes that only compute sizes left out."""
    numbers: dict[torch.fx.Node, Any] = {}
    listed: list[Any] = []

    def value(argument: Any) -> Any:
        return numbers[argument] if isinstance(argument, torch.fx.Node) else argument

    for node in ep.graph.nodes:
        meta = node.meta.get("val")
        if isinstance(meta, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)):
            numbers[node] = _number(meta, corner)
            continue
        if node.op == "call_function" and not isinstance(meta, (torch.Tensor, tuple, list)):
            continue
        numbers[node] = ("node", len(listed))
        arguments = torch.fx.map_arg((node.args, node.kwargs), lambda n: n)
        shapes = pytree.tree_map_only(torch.Tensor, lambda t: [_number(d, corner) for d in t.shape], meta)
        listed.append((node.op, str(node.target), pytree.tree_map(value, arguments), shapes))
    return listed


def _number(value: Any, corner: Mapping[str, int]) -> Any:
    if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value
    expression = value.node.expr
    known = {s: sympy.Integer(corner[s.name]) for s in expression.free_symbols if s.name in corner}
    result = expression.xreplace(known)
    return int(result) if result.is_Integer else result


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
