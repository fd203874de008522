"""Rule-based autocast: float32 nodes in float16 or bfloat16, but for those that would lose too much by it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    CompileContext,
    SettingsError,
    fake_result,
    forced_to_torch,
    insert_call,
    insert_constant,
    module_path,
    node_arguments,
    set_facts,
)
from trtcore_converters.passes._bounds import Bounds
from trtcore_converters.passes._graph import fixed, keeps, tensor_of

aten = torch.ops.aten


def autocast(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """Compute float32 nodes in ``settings.autocast_dtype``; results keep the model's dtypes.

    A node stays in float32 where the settings say so (`autocast_excluded_nodes`, `autocast_excluded_ops`,
    `autocast_max_output_threshold` with calibration data, `autocast_max_depth_of_reduction`); where what it reads is
    beyond the lower dtype's range on that data; where its op is one that `torch.autocast` keeps in float32 for its
    range (`FLOAT_OPS`); where a number or weight of it is beyond the lower dtype's range; where it depends on integers
    and constants alone (positions, masks), where it chooses among elements, and where it will run in torch.
    """
    dtype = ctx.settings.autocast_dtype
    if dtype is not None:
        _Autocast(graph_module, ctx, dtype).run()


# By name, all overloads. What torch.autocast keeps in float32, without the normalisations and the softmax, whose
# converters keep statistics in float32 and whose results are small; and what reads coordinates or compares.
FLOAT_OPS = frozenset(
    f"aten.{name}"
    for name in (
        "acos", "asin", "cosh", "sinh", "tan", "erfinv", "exp", "exp2", "expm1", "log", "log10", "log2", "log1p",
        "reciprocal", "rsqrt", "pow", "softplus", "norm", "linalg_vector_norm", "nuclear_norm", "renorm",
        "cosine_similarity", "cdist", "pdist", "dist", "prod", "sum", "cumsum", "cumprod", "logcumsumexp",
        "logsumexp", "log_softmax", "_log_softmax", "std", "var", "std_mean", "var_mean", "mse_loss", "nll_loss",
        "cross_entropy_loss", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "topk", "sort", "kthvalue",
        "median", "mode", "max", "min", "cummax", "cummin",
    )
)  # fmt: skip
"""Ops that stay in float32."""

_LOOKUPS = frozenset(
    {aten.embedding.default, aten.index.Tensor, aten.gather.default, aten.index_select.default}
)
_MOVES = frozenset(
    {
        aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.permute.default,
        aten.transpose.int, aten.t.default, aten.slice.Tensor, aten.select.int, aten.expand.default,
        aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.flatten.using_ints,
        aten.unflatten.int, aten.contiguous.default, aten.clone.default, aten.split.Tensor,
        aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int, aten.repeat.default,
    }
)  # fmt: skip
_CAST = aten._to_copy.default
_MASKED = frozenset({aten.scaled_dot_product_attention.default})


class _Autocast:
    def __init__(self, graph_module: fx.GraphModule, ctx: CompileContext, dtype: torch.dtype) -> None:
        self.graph_module, self.ctx, self.dtype = graph_module, ctx, dtype
        self.settings = ctx.settings
        self.limit = float(torch.finfo(dtype).max)
        self.known = fixed(graph_module, ctx)
        self.bounds = Bounds(self.known)
        self.patterns = [re.compile(pattern) for pattern in self.settings.autocast_excluded_nodes]
        self.lowered: set[fx.Node] = set()
        self.data: set[fx.Node] = set()
        self.casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}

    def run(self) -> None:
        largest = _largest_outputs(self.graph_module, self.settings.autocast_calibration_dataloader)
        threshold = self.settings.autocast_max_output_threshold
        self.large = {node for node, value in largest.items() if not value <= threshold}
        self.beyond = {node for node, value in largest.items() if not value <= self.limit}
        for node in list(self.graph_module.graph.nodes):
            if self._is_data(node):
                self.data.add(node)
            if node.op == "call_function" and node.target is operator.getitem:
                self._take_item(node)
            elif not (self._may_lower(node) and self._lower(node)):
                self._restore(node)

    def _is_data(self, node: fx.Node) -> bool:
        """Whether a node depends on what the model is fed or has learnt, beyond integers and constants."""
        if node.op == "placeholder":
            value = tensor_of(node)
            return value is not None and value.is_floating_point()
        return node.target in _LOOKUPS or any(source in self.data for source in node.all_input_nodes)

    # ---- which nodes --------------------------------------------------------------------------------

    def _may_lower(self, node: fx.Node) -> bool:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            return False
        if node not in self.data or not _has_float32(node.meta.get("val")) or keeps(node):
            return False
        if not any(self._is_float32(source) or source in self.lowered for source in node.all_input_nodes):
            return False
        if node.target in _MOVES and not any(source in self.lowered for source in node.all_input_nodes):
            return False  # what is not computed is not worth a cast
        rule = self._excluded(node) or self._sensitive(node)
        if rule:
            set_facts(node, precision=rule)
        return not (rule or self._stays_in_torch(node))

    def _excluded(self, node: fx.Node) -> str:
        """The rule of the user's that keeps a node in float32; "" if none does."""
        name = str(node.target)
        if {name, name.rpartition(".")[0]} & self.settings.autocast_excluded_ops:
            return "autocast_excluded_ops has it"
        if node in self.large:
            threshold = self.settings.autocast_max_output_threshold
            return f"its results on the calibration data exceed autocast_max_output_threshold={threshold:g}"
        for pattern in self.patterns:
            if pattern.match(node.name) or pattern.match(module_path(node)):
                return f"autocast_excluded_nodes has {pattern.pattern!r}"
        limit = self.settings.autocast_max_depth_of_reduction
        if limit is not None and _is_deeper(node, limit):
            return f"it sums more than autocast_max_depth_of_reduction={limit} elements"
        return ""

    def _sensitive(self, node: fx.Node) -> str:
        """What of the node's own computation keeps it in float32; "" if nothing does."""
        target: Any = node.target
        if str(target).rpartition(".")[0] in FLOAT_OPS:
            return "its op needs float32's range, as torch.autocast has it"
        if any(source in self.beyond for source in node.all_input_nodes):
            return f"what it reads is beyond the range of {self.dtype} on the calibration data"
        if _is_random(node):
            return "it draws random numbers"
        if any(abs(number) > self.limit for number in _numbers(node) if math.isfinite(number)):
            return f"a number of it is beyond the range of {self.dtype}"
        mask = node_arguments(node).get("attn_mask") if target in _MASKED else None
        if any(self._overflows(source) for source in node.all_input_nodes if source is not mask):
            return f"a weight of it is beyond the range of {self.dtype}"
        return ""

    def _overflows(self, source: fx.Node) -> bool:
        """Whether a weight has finite values beyond the lower dtype's range."""
        found = self.bounds.of(source) if source in self.known else None
        return found is not None and any(self.limit < abs(bound) < math.inf for bound in found)

    def _stays_in_torch(self, node: fx.Node) -> bool:
        registry = self.ctx.registry
        if forced_to_torch(node, self.ctx):
            return True
        return not registry.candidates(node.target) and node.target not in registry.decompositions

    def _is_float32(self, node: fx.Node) -> bool:
        value = tensor_of(node)
        return value is not None and value.dtype == torch.float32

    # ---- rewriting ----------------------------------------------------------------------------------

    def _lower(self, node: fx.Node) -> bool:
        """Let a node compute in the lower dtype; False where its op gives float32 whatever it is fed."""

        def low(source: fx.Node) -> fx.Node:
            return self._cast(source, self.dtype, node) if self._is_float32(source) else source

        made = set(self.casts)
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), low)
        try:
            value = fake_result(node.graph, node.target, args, kwargs)
        except (RuntimeError, TypeError, NotImplementedError):
            value = None
        if value is None or _has_float32(value):
            for key in set(self.casts) - made:
                node.graph.erase_node(self.casts.pop(key))
            return False
        node.args, node.kwargs = args, kwargs
        node.meta["val"] = value
        self.lowered.add(node)
        return True

    def _restore(self, node: fx.Node) -> None:
        """Feed a node what it was fed: float32."""
        for source in node.all_input_nodes:
            if source in self.lowered:
                node.replace_input_with(source, self._cast(source, torch.float32, node))

    def _take_item(self, node: fx.Node) -> None:
        source, index = node.args
        if source in self.lowered:
            node.meta["val"] = source.meta["val"][index]  # type: ignore[union-attr]
            if tensor_of(node).dtype == self.dtype:  # type: ignore[union-attr]
                self.lowered.add(node)

    def _cast(self, source: fx.Node, dtype: torch.dtype, reader: fx.Node) -> fx.Node:
        """The source in another dtype, made once, where it is made. Masks beyond the range become its end."""
        key = (source, dtype)
        if key in self.casts:
            return self.casts[key]
        like = reader if source.op == "placeholder" else source
        anchor = source.next
        while anchor.op in ("placeholder", "get_attr"):
            anchor = anchor.next
        found = self.bounds.of(source) if dtype == self.dtype else None
        wide = found is not None and any(self.limit < abs(bound) < math.inf for bound in found)
        constant = self.known.get(source)
        if constant is not None:
            value = constant.clamp(-self.limit, self.limit) if wide else constant
            made = insert_constant(self.graph_module, anchor, value.to(dtype), like=like)
        else:
            if wide:
                source = insert_call(anchor, aten.clamp.default, (source, -self.limit, self.limit), like=like)
            made = insert_call(anchor, _CAST, (source,), {"dtype": dtype}, like=like)
        self.casts[key] = made
        return made


def _has_float32(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_float32(item) for item in value)
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _is_random(node: fx.Node) -> bool:
    if node.target in _MASKED:  # torch's tag is for the dropout
        return bool(node_arguments(node)["dropout_p"])
    return torch.Tag.nondeterministic_seeded in node.target.tags  # type: ignore[union-attr]


def _numbers(node: fx.Node) -> Iterable[float]:
    """The floating-point numbers among a node's own arguments."""
    values = [*node.args, *node.kwargs.values()]
    return [value for value in values if isinstance(value, float)]


# ---- how many elements a node sums -------------------------------------------------------------------------


def _is_deeper(node: fx.Node, limit: int) -> bool:
    """Whether a node sums more than `limit` elements for one of its result, or may."""
    depth = _DEPTHS.get(node.target)
    if depth is None:
        return False
    sizes = depth({name: _traced(value) for name, value in node_arguments(node).items()})
    return not all(isinstance(size, int) for size in sizes) or math.prod(sizes) > limit


def _traced(value: Any) -> Any:
    return value.meta.get("val") if isinstance(value, fx.Node) else value


def _columns(name: str) -> Callable[[dict[str, Any]], Sequence[Any]]:
    return lambda given: given[name].shape[-1:]


def _reduced(given: dict[str, Any]) -> Sequence[Any]:
    shape, dims = given["self"].shape, given.get("dim")
    if dims is None or dims == []:
        return list(shape)
    return [shape[dim] for dim in ([dims] if isinstance(dims, int) else dims)]


def _normalised(given: dict[str, Any]) -> Sequence[Any]:
    return list(given["normalized_shape"])


_DEPTHS: Mapping[Any, Callable[[dict[str, Any]], Sequence[Any]]] = {
    aten.linear.default: _columns("input"),
    aten.matmul.default: _columns("self"),
    aten.mm.default: _columns("self"),
    aten.bmm.default: _columns("self"),
    aten.mv.default: _columns("self"),
    aten.dot.default: _columns("self"),
    aten.addmm.default: _columns("mat1"),
    aten.baddbmm.default: _columns("batch1"),
    **dict.fromkeys(
        (
            aten.conv1d.default, aten.conv2d.default, aten.conv3d.default,
            aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding,
        ),
        lambda given: given["weight"].shape[1:],
    ),
    **dict.fromkeys(
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
        lambda given: [given["weight"].shape[0] // given["groups"], *given["weight"].shape[2:]],
    ),
    aten.scaled_dot_product_attention.default: lambda given: [max(given["key"].shape[-2:])]
    if all(isinstance(size, int) for size in given["key"].shape[-2:])
    else given["key"].shape[-2:],
    aten.mean.dim: _reduced,
    aten.mean.default: _reduced,
    aten.softmax.int: _reduced,
    aten.layer_norm.default: _normalised,
    aten.rms_norm.default: _normalised,
}  # fmt: skip
"""The sizes whose product is the number of elements summed. The ops of `FLOAT_OPS` stay in float32 anyway."""


# ---- calibration -------------------------------------------------------------------------------------------


class _Recorder(fx.Interpreter):
    """Runs a graph without its writes and keeps the largest absolute value of each float node."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.largest: dict[fx.Node, float] = {}

    def run_node(self, node: fx.Node) -> Any:
        if node.op == "call_function" and keeps(node):
            return self.env.get(node.args[0])  # type: ignore[arg-type]
        result = super().run_node(node)
        for value in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
                found = float(value.abs().max())
                known = self.largest.get(node, 0.0)
                self.largest[node] = found if found != found else max(known, found)
        return result


def _largest_outputs(graph_module: fx.GraphModule, batches: Any) -> dict[fx.Node, float]:
    """The largest absolute output of each node over the calibration data; empty without data.

    Raises:
        SettingsError: the data cannot be iterated, or a batch does not fit the model.
    """
    if batches is None:
        return {}
    recorder = _Recorder(graph_module)
    names = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    try:
        numbered = enumerate(batches)
    except TypeError as error:
        raise SettingsError(f"autocast_calibration_dataloader: {error}") from None
    count = 0
    for count, batch in numbered:
        values = _flat(batch, names)
        try:
            with torch.no_grad():
                recorder.run(*values)
        except Exception as error:
            raise SettingsError(
                f"autocast_calibration_dataloader: the model does not run on batch {count}: {error}",
                advice="give batches with the shapes and dtypes of the inputs that the model is compiled for",
            ) from error
        count += 1
    if not count:
        raise SettingsError("autocast_calibration_dataloader has no batches")
    return recorder.largest


def _flat(batch: Any, placeholders: Sequence[fx.Node]) -> list[Any]:
    """A batch as the values of the graph's placeholders."""
    names = [node.name for node in placeholders]
    if isinstance(batch, Mapping) and set(batch) == set(names):
        leaves = [batch[name] for name in names]
    else:
        leaves = torch.utils._pytree.tree_leaves(batch)
    if len(leaves) != len(names):
        raise SettingsError(
            f"autocast_calibration_dataloader: a batch has {len(leaves)} values, and the model takes {len(names)} "
            f"({', '.join(names)})",
            advice="give each batch as the tuple of the positional inputs, or as a dict of the inputs by name",
        )
    return [
        leaf.to(value.device) if isinstance(leaf, torch.Tensor) and value is not None else leaf
        for leaf, value in zip(leaves, map(tensor_of, placeholders))
    ]
