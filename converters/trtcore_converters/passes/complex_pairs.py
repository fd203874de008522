"""Complex numbers as pairs of real ones: TensorRT has no complex data type.

Every op on complex values is replaced by ops on their real and imaginary parts (`_complex_rules`, `_fourier`). Values
that ops link with each other change together or not at all: one that has to stay complex would only be taken apart and
put together around its op, between engines.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    CompileContext,
    expand_call,
    facts,
    forced_to_torch,
    insert_call,
    insert_constant,
    log_rewrite,
    node_arguments,
    parameters_of,
    remove_unread,
    set_facts,
)
from trtcore_converters.passes import _fourier
from trtcore_converters.passes._complex_rules import EXACT, RULES
from trtcore_converters.passes._complex_values import REAL, Declined, Emitter, Pair, is_complex
from trtcore_converters.passes._graph import constants, fixed, keeps, same_sizes, tensor_of
from trtcore_converters.passes.folding import constant_folding

aten = torch.ops.aten

__all__ = ["complex_pairs"]

_ROUNDS = 8
assert aten._fft_c2c.default in RULES, _fourier


def complex_pairs(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Write complex values as pairs of real ones, wherever all that is computed with them can be written so.

    Complex inputs are taken apart after they came in, and complex results put together before they go out, in torch.
    """
    if ctx.backend is None or not _any_complex(graph_module):
        return
    if not ctx.settings.use_complex_decomposition:
        for node in graph_module.graph.nodes:
            if node.op == "call_function" and _touches(node):
                set_facts(node, reason="complex numbers, and use_complex_decomposition is False")
        return
    constant_folding(graph_module, ctx)
    _take_apart(graph_module, ctx)
    known = {**constants(graph_module), **fixed(graph_module, ctx)}
    if not ctx.settings.immutable_weights:
        known = {}
    borders: dict[fx.Node, Pair] = {}
    for part in _parts(graph_module):
        _Part(graph_module, ctx, part, known, borders).write()
    remove_unread(graph_module.graph)


def _any_complex(graph_module: fx.GraphModule) -> bool:
    return any(is_complex(node) or _computes_inside(node) for node in graph_module.graph.nodes)


def _computes_inside(node: fx.Node) -> bool:
    """Whether an op may compute with complex numbers where it takes and gives real ones."""
    name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
    return node.op == "call_function" and (name.startswith("fft_") or name in ("stft", "istft"))


def _touches(node: fx.Node) -> bool:
    """Whether a node has to do with complex values."""
    return is_complex(node) or any(map(is_complex, node.all_input_nodes)) or _computes_inside(node)


def _is_op(node: fx.Node) -> bool:
    """Whether a node is a call that has to do with complex values, and no border between them and real ones."""
    return (
        node.op == "call_function" and not keeps(node) and _touches(node) and not facts(node).boundary
    )  # fmt: skip


def _take_apart(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Ops without a rule, as the ops that torch or a pack takes them apart into."""
    for _ in range(_ROUNDS):
        left = [
            node
            for node in graph_module.graph.nodes
            if _is_op(node) and node.target is not operator.getitem and node.target not in RULES
        ]
        expanded = [expand_call(node, ctx) for node in left if not forced_to_torch(node, ctx)]
        if True not in expanded:
            return


def _parts(graph_module: fx.GraphModule) -> Iterable[list[fx.Node]]:
    """The ops on complex values, those together that hand one another such values. Inputs and weights link nothing."""
    leader: dict[fx.Node, fx.Node] = {}

    def find(node: fx.Node) -> fx.Node:
        while leader[node] is not node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    ops = [node for node in graph_module.graph.nodes if _is_op(node)]
    for node in ops:
        leader[node] = node
        for source in node.all_input_nodes:
            if source in leader and is_complex(source):
                leader[find(source)] = find(node)
    grouped: dict[fx.Node, list[fx.Node]] = {}
    for node in ops:
        grouped.setdefault(find(node), []).append(node)
    return grouped.values()


class _Part:
    """Ops on complex values that are written as pairs together."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        ctx: CompileContext,
        nodes: list[fx.Node],
        known: dict[fx.Node, torch.Tensor],
        borders: dict[fx.Node, Pair],
    ) -> None:
        self.graph_module, self.ctx, self.nodes, self.known, self.borders = (
            graph_module,
            ctx,
            nodes,
            known,
            borders,
        )
        self.made: list[fx.Node] = []
        self.written: dict[fx.Node, Any] = {}

    def write(self) -> None:
        """Write all of them, or say at each why it stays in torch."""
        node = self.nodes[0]
        try:
            if all(_double(one) for one in self.nodes) and not self.ctx.settings.truncate_double:
                raise Declined("complex128, whose parts are float64: truncate_double=True makes them float32")
            for node in self.nodes:
                self.written[node] = self._write(node)
        except Declined as declined:
            self._leave(node, str(declined))
        else:
            self._put_in()

    def _write(self, node: fx.Node) -> Any:
        if forced_to_torch(node, self.ctx):
            raise Declined(f"{node.name} is kept in torch by the settings")
        if node.target is operator.getitem:
            return self._item(node)
        written = RULES.get(node.target)
        if written is None:
            raise Declined(f"{node.target} has no form as real numbers here")
        if self.ctx.settings.strict_numerics and written not in EXACT:
            raise Declined(
                f"with strict_numerics {node.target} stays whole: an infinity in one part may reach the other"
            )
        e = Emitter(node, self.known, self.made)
        args, kwargs = self._arguments(node)
        try:
            result = written(e, *args, **kwargs)
        except Declined:
            raise
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise Declined(f"its form as real numbers raised {type(error).__name__}: {first}") from error
        return self._checked(e, result)

    def _item(self, node: fx.Node) -> Any:
        source: Any = node.args[0]
        index = node.args[1]
        pair, e = self.written[source], Emitter(node, self.known, self.made)
        if not is_complex(node):
            return e(operator.getitem, pair.re if isinstance(pair, Pair) else pair, index)
        return Pair(e(operator.getitem, pair.re, index), e(operator.getitem, pair.im, index))

    def _arguments(self, node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
        given = node_arguments(node)
        keyword_only = {one.name for one in parameters_of(node.target) or () if one.keyword_only}

        def pair(one: fx.Node) -> Any:
            return self._pair(one) if is_complex(one) else one

        pairs = fx.map_arg(given, pair)
        args = [value for name, value in pairs.items() if name not in keyword_only]
        return args, {name: pairs[name] for name in keyword_only & pairs.keys() if pairs[name] is not None}

    def _pair(self, node: fx.Node) -> Pair:
        """The pair of a complex value: of an op here, a constant, an input."""
        found = self.written.get(node) or self.borders.get(node)
        if found is None:
            found = self.borders[node] = self._constant(node) if node in self.known else self._border(node)
        assert isinstance(found, Pair)
        return found

    def _constant(self, node: fx.Node) -> Pair:
        value, before = self.known[node].resolve_conj(), _behind(node)
        return Pair(
            *(
                insert_constant(self.graph_module, before, part.contiguous(), like=node)
                for part in (value.real, value.imag)
            )
        )

    def _border(self, node: fx.Node) -> Pair:
        """A complex input, taken apart in torch; `resolve_conj` because it may be conjugated lazily."""
        before = _behind(node)
        like = next(iter(node.users))
        plain = insert_call(before, aten.resolve_conj.default, (node,), like=like)
        whole = insert_call(before, aten.view_as_real.default, (plain,), like=like)
        for one in (plain, whole):
            set_facts(
                one, boundary=True, reason="takes a complex input apart; TensorRT has no complex numbers"
            )
        parts = (insert_call(before, aten.select.int, (whole, -1, part), like=like) for part in (0, 1))
        return Pair(*parts)

    def _checked(self, e: Emitter, result: Any) -> Any:
        """Parts in the dtype and shape that the op's result has."""
        value = e.value
        if not isinstance(value, torch.Tensor):
            return result
        if value.dtype in REAL:
            result = e.like(e.pair(result))
            result = Pair(e.cast(result.re, REAL[value.dtype]), e.cast(result.im, REAL[value.dtype]))
        elif isinstance(result, Pair):
            raise Declined(f"{e.node.target} came out complex, and is real")
        else:
            result = e.cast(result, value.dtype)
        for part in (result.re, result.im) if isinstance(result, Pair) else (result,):
            made = tensor_of(part)
            if made is None or not same_sizes(made.shape, value.shape):
                shape = None if made is None else tuple(made.shape)
                raise Declined(f"{e.node.target} came out in the shape {shape}, not {tuple(value.shape)}")
        return result

    # -- what becomes of them --

    def _leave(self, culprit: fx.Node, why: str) -> None:
        for made in reversed(self.made):
            if not made.users:
                made.graph.erase_node(made)
        for node in self.nodes:
            cause = why if node is culprit else f"{culprit.name}, which it is linked with, is in torch: {why}"
            set_facts(node, reason=f"complex numbers, which TensorRT has not: {cause}")

    def _put_in(self) -> None:
        inside = set(self.nodes)
        names = [node.name for node in self.nodes]
        log_rewrite(
            self.graph_module, "complex_pairs", self.nodes[0], names, [node.name for node in self.made]
        )
        for node in self.nodes:
            result = self.written[node]
            outside = [user for user in node.users if user not in inside]
            if not outside:
                continue
            if isinstance(result, Pair):
                whole = self._joined(node, result)
                for user in outside:
                    user.replace_input_with(node, whole)
            else:
                for user in outside:
                    user.replace_input_with(node, self._laid_out(node, result, user))
        for node in reversed(self.nodes):
            if not node.users:
                node.graph.erase_node(node)

    def _joined(self, node: fx.Node, pair: Pair) -> fx.Node:
        """A complex value put together in torch, with the strides that it has in the model."""
        order = _order(node.meta["val"])
        turned = [_permuted(node, part, order) for part in (pair.re, pair.im)]
        stacked = insert_call(node, aten.stack.default, (turned, -1), like=node)
        whole = insert_call(node, aten.view_as_complex.default, (stacked,), like=node)
        back = _permuted(node, whole, _inverse(order))
        for one in {whole, back}:
            set_facts(
                one, boundary=True, reason="puts a complex result together; TensorRT has no complex numbers"
            )
        return back

    def _laid_out(self, node: fx.Node, result: fx.Node, user: fx.Node) -> fx.Node:
        """A real result; with the strides that it has in the model where it leaves the graph."""
        if not isinstance(node.meta["val"], torch.Tensor):
            return result
        if not keeps(user) or _strides(node.meta["val"]) == _strides(result.meta["val"]):
            if user.target is aten.view.default:
                user.target = aten.reshape.default
            return result
        order = _order(node.meta["val"])
        plain = insert_call(
            node,
            aten.clone.default,
            (_permuted(node, result, order),),
            {"memory_format": torch.contiguous_format},
        )
        return _permuted(node, plain, _inverse(order))


def _double(node: fx.Node) -> bool:
    tensors = [tensor_of(one) for one in (node, *node.all_input_nodes)]
    complexes = [one.dtype for one in tensors if one is not None and one.is_complex()]
    if not complexes:  # a transform of real numbers to real ones
        return any(one is not None and one.dtype == torch.float64 for one in tensors)
    return all(dtype == torch.complex128 for dtype in complexes)


def _behind(node: fx.Node) -> fx.Node:
    """The first node behind another, and behind the graph's inputs and weights where it is one."""
    after = node.next
    while after.op in ("placeholder", "get_attr"):
        after = after.next
    return after


def _strides(value: torch.Tensor) -> list[Any]:
    strides: tuple[Any, ...] = value.stride()
    return [stride.node.expr if isinstance(stride, torch.SymInt) else stride for stride in strides]


def _order(value: torch.Tensor) -> list[int]:
    """The dims, from the one with the largest steps in memory on."""
    steps: tuple[Any, ...] = value.stride()
    strides = [int(s.node.hint or 0) if isinstance(s, torch.SymInt) else s for s in steps]
    return sorted(range(value.dim()), key=lambda dim: -strides[dim])


def _inverse(order: list[int]) -> list[int]:
    return [order.index(dim) for dim in range(len(order))]


def _permuted(before: fx.Node, value: fx.Node, order: list[int]) -> fx.Node:
    if order == sorted(order):
        return value
    return insert_call(before, aten.permute.default, (value, order), like=before)
