"""Running single lowering passes on exported models, and reading the networks that compiles give."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

import trtcore
from trtcore.compiler import make_context
from trtcore.frontend.export import program_from_exported
from trtcore.ir.graphs import attribute
from trtcore.runtime.engine import resolve
from trtcore.runtime.op import execute_engine
from trtcore.settings import CompilationSettings


class Function(torch.nn.Module):
    """A function as a module, whose nodes have stack traces as a user's have."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run

    def forward(self, *inputs: Any) -> Any:
        return self.run(*inputs)


def module_of(run: Any) -> torch.nn.Module:
    """A function as a module."""
    return run if isinstance(run, torch.nn.Module) else Function(run)


def captured(run: Any, *inputs: Any, dynamic: Any = None) -> torch.fx.GraphModule:
    """The flat graph of a function or module."""
    exported = torch.export.export(module_of(run).eval(), inputs, dynamic_shapes=dynamic)
    return program_from_exported(exported).graph_module


def after(
    names: str | tuple[str, ...],
    run: Any,
    *inputs: Any,
    dynamic: Any = None,
    calls: Any = (),
    rtol: float = 1e-5,
    atol: float = 1e-5,
    **settings: Any,
) -> Counter[str]:
    """The ops left by some passes (with the clean-up before them), checked: values, FakeTensors, provenance.

    Args:
        calls: further inputs that the graph is to give the same values for.
    """
    from trtcore_converters.passes import PASSES

    ctx = make_context(CompilationSettings(**settings))
    graph_module = captured(run, *inputs, dynamic=dynamic)
    table = {item.name: item.run for item in PASSES}
    for name in ("remove_assertions", "remove_noops", "constant_folding"):
        table[name](graph_module, ctx)
    before = copy.deepcopy(graph_module)
    for name in (names,) if isinstance(names, str) else names:
        assert table[name](graph_module, ctx) is None
        graph_module.graph.lint()
    check_meta(graph_module)
    graph_module.recompile()
    for args in (inputs, *calls):
        for want, got in zip(before(*args), graph_module(*args)):
            assert got.dtype == want.dtype
            torch.testing.assert_close(got, want, rtol=rtol, atol=atol, equal_nan=True)
    return ops(graph_module)


def check_meta(graph_module: torch.fx.GraphModule) -> None:
    """Every node has what its op gives as FakeTensor, and knows where it comes from."""
    from trtcore.lowering.rewrite import fake_result

    for node in graph_module.graph.nodes:
        if node.op == "output":
            continue
        assert "val" in node.meta, node.format_node()
        if node.op != "call_function":
            continue
        assert node.meta.get("stack_trace") is not None, node.format_node()
        want, got = fake_result(graph_module.graph, node.target, node.args, node.kwargs), node.meta["val"]
        if isinstance(want, torch.Tensor):
            assert (want.dtype, want.shape) == (got.dtype, got.shape), node.format_node()


def ops(graph_module: torch.fx.GraphModule) -> Counter[str]:
    """How often each op is called, by its short name."""
    nodes = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    return Counter(str(node.target).removeprefix("aten.").rpartition(".")[0] for node in nodes)


def compiled_layers(run: Any, *inputs: Any, **options: Any) -> list[Any]:
    """The layers of the one engine that a module becomes; its numbers are checked against eager."""
    return list(network(run, *inputs, **options).layers)


def network(run: Any, *inputs: Any, rtol: float = 1e-4, atol: float = 1e-5, **settings: Any) -> Any:
    """The network of the one engine that a module becomes; its numbers are checked against eager."""
    module = module_of(run).eval()
    options = {"min_block_size": 1, "runtime": "reference", "require_full_compilation": True, **settings}
    compiled = trtcore.compile(module, inputs=list(inputs), **options)
    with torch.no_grad():
        wants, gots = module(*inputs), compiled(*inputs)
    pairs = zip(wants, gots) if isinstance(wants, tuple) else [(wants, gots)]
    for want, got in pairs:
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=rtol, atol=atol)
    (snapshot,) = snapshots(compiled)
    return snapshot


def snapshots(compiled: Any) -> Iterator[Any]:
    """The networks behind the engines of a compiled module."""
    for node in compiled.graph.nodes:
        if node.op == "call_function" and node.target is execute_engine:
            yield resolve(str(node.args[3]), attribute(compiled, node.args[2].target)).artifact.snapshot


def dtypes_of(snapshot: Any, *kinds: str) -> set[torch.dtype]:
    """The floating-point dtypes of what layers of some types give (of all layers without any)."""
    found = [i for layer in snapshot.layers if not kinds or layer.type in kinds for i in layer.outputs]
    dtypes = {snapshot.tensors[index].dtype for index in found}
    return {dtype for dtype in dtypes if dtype.is_floating_point}


def types(layers: list[Any]) -> Counter[str]:
    """How many layers of each type there are."""
    return Counter(layer.type for layer in layers)
