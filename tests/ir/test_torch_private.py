"""A canary for everything that trtcore takes from torch's private parts: each says what a new torch has changed."""

from __future__ import annotations

import ast
import gc
import re
import weakref
from pathlib import Path

import pytest
import sympy
import torch
from torch import nn
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.graph_module import _loader

import trtcore
import trtcore_backends
import trtcore_converters
import trtcore_plugins
import trtcore_reference
from trtcore.ir import torch_private as private
from trtcore.jit.capture import to_aten

CHANGED = f"torch {torch.__version__} has changed"


class Parity(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] % 2 == 0 else x


def exported():
    return torch.export.export(Parity(), (torch.ones(4),), dynamic_shapes=({0: Dim.DYNAMIC(min=2, max=8)},))


def size_of(ep):
    (node,) = ep.graph.find_nodes(op="placeholder")
    return node.meta["val"].shape[0]


def test_guards_code():
    ep = exported()
    code = private.guards_code(ep)
    assert any("L['x'].size()[0] % 2" in one for one in code), (
        f"{CHANGED} the text of an export's guards: {code}"
    )
    private.set_guards_code(ep, [])
    assert private.guards_code(ep) == [], f"{CHANGED} where an export keeps its guards"
    ep.module()(torch.ones(3))  # they are what module() checks


def test_range_constraints():
    ep = exported()
    (symbol,) = private.range_constraints(ep)
    private.range_constraints(ep)[symbol] = private.size_interval(1, 5)
    (found,) = ep.range_constraints.values()
    assert private.interval_bounds(found) == (1, 5), f"{CHANGED} where an export keeps its ranges"


def test_silent_export(capfd):
    class Detector(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    def export():
        with pytest.raises(Exception, match="data-dependent") as caught:
            torch.export.export(Detector(), (torch.ones(3),))
        return caught.value

    with private.silent_export():
        assert "aten.sum" in export().partial_fx_graph, f"{CHANGED} where a failed export keeps its graph"
    # The graph alone: torch 2.14 also logs that it does not know the user's line, which `quiet_torch` is for.
    assert "aten.sum" not in capfd.readouterr().err, (
        f"{CHANGED} how torch.export prints the graph of a failed trace"
    )
    export()
    assert "aten.sum" in capfd.readouterr().err


def test_script_to_exported():
    script = torch.jit.trace(nn.Linear(3, 2), (torch.ones(1, 3),))
    ep = private.script_to_exported(script, (torch.ones(1, 3),), {})
    assert isinstance(ep, torch.export.ExportedProgram), f"{CHANGED} its converter of ScriptModules"


def test_expression_and_hint():
    size = size_of(exported())
    assert private.expression(size).is_Symbol, f"{CHANGED} SymInt.node.expr"
    assert private.hint(size) == 4, f"{CHANGED} SymInt.node.hint"
    assert private.hint(ShapeEnv().create_unbacked_symint()) is None


def test_bounds_of_symbol():
    low, high = private.bounds_of_symbol(size_of(exported()))
    assert (int(low), int(high)) == (2, 8), f"{CHANGED} ShapeEnv.var_to_range"


def test_interval_bounds():
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges

    assert private.interval_bounds(private.size_interval(2, 8)) == (2, 8)
    assert private.interval_bounds(ValueRanges(0, int_oo)) == (0, None), (
        f"{CHANGED} its infinity of whole numbers"
    )
    assert private.interval_bounds(ValueRanges(-sympy.oo, 3)) == (None, 3)


def test_expression_bounds_and_evaluation():
    n = sympy.Symbol("n", integer=True, positive=True)
    functions = private.size_functions()
    e = functions.FloorDiv(n + 1, 2) * functions.Mod(n, 3)
    low, high = private.expression_bounds(e, {n: (1, 7)})
    assert (int(low), int(high)) == (0, 8), f"{CHANGED} bound_sympy"
    assert private.evaluate_expression(e, {n: 5}) == 6, f"{CHANGED} sympy_interp"


def test_undecided_sizes():
    size = size_of(exported())
    env = size.node.shape_env
    with (
        pytest.raises(Exception, match=r"size|guard|known|specializ") as caught,
        private.undecided_sizes(env),
    ):
        bool(size == 5)
    assert private.is_size_decision(caught.value), (
        f"{CHANGED} what a ShapeEnv raises for a new guard: {caught.value!r}"
    )
    with pytest.raises(private.SizeDecisionError), private._raising(env):  # as for torch 2.11
        bool(size == 6)


# What a ShapeEnv has that may differ after all: it counts, it says where in the code something was, or it is a cache.
NO_FACTS = {
    "counter", "fake_tensor_cache", "tracked_fakes", "var_to_range_sloc", "_expr_sym_node_id", "_prev_cache_key",
    "_replacements_version_counter", "_version_counter",
}  # fmt: skip


def test_remember_sizes():
    size = size_of(exported())
    env = size.node.shape_env

    def facts():
        return {name: repr(value) for name, value in vars(env).items() if name not in NO_FACTS}

    def decide():
        return bool(size % 3 == 1), bool(size < 7), bool(size == 4)

    before = facts()
    restore = private.remember_sizes(env)
    for _ in range(2):  # what was forgotten once is forgotten again
        assert decide() == (True, True, True)
        assert not private.expression(size).is_Symbol
        changed = {name for name, value in facts().items() if value != before.get(name)}
        assert changed >= {"guards", "replacements", "var_to_range", "axioms"}, (
            f"{CHANGED} where it keeps what was decided on sizes: {sorted(changed)}"
        )
        restore()
        left = {name for name, value in facts().items() if value != before.get(name)}
        assert not left, f"{CHANGED} what a ShapeEnv knows of sizes; `remember_sizes` lacks {sorted(left)}"
        assert private.expression(size).is_Symbol
        assert tuple(map(int, private.bounds_of_symbol(size))) == (2, 8)
    with pytest.raises(Exception) as caught, private.undecided_sizes(env):
        decide()
    assert private.is_size_decision(caught.value), f"{CHANGED} its caches of answers: {caught.value!r}"


def test_remember_sizes_forgets_operators_that_were_traced():
    """An op's output that a cache has would not say again that its size was decided."""
    size = size_of(exported())
    env = size.node.shape_env
    restore = private.remember_sizes(env)
    with private.FakeTensorMode(shape_env=env):
        x = torch.empty(size)

        def add():
            return x + torch.empty(4)  # decides size == 4

        for _ in range(2):
            assert add().shape == (4,)
            assert not private.expression(size).is_Symbol, f"{CHANGED} its cache of traced operators"
            restore()
            assert private.expression(size).is_Symbol


def test_storage_id():
    x = torch.ones(4)
    assert private.storage_id(x) == private.storage_id(x[1:]), f"{CHANGED} UntypedStorage._cdata"
    assert private.storage_id(x) != private.storage_id(x.clone())


def test_version():
    x = torch.ones(4)
    before = private.version(x)
    x.add_(1)
    assert private.version(x) == before + 1, f"{CHANGED} Tensor._version"


def test_composite_kernel():
    assert private.composite_kernel(torch.ops.aten.flatten.using_ints), (
        f"{CHANGED} what it has composite kernels for"
    )
    assert not private.composite_kernel(torch.ops.aten.add.Tensor)


def test_graphs_have_names_for_switches():
    ops = set()

    def backend(gm, examples):
        ops.update(node.target for node in gm.graph.nodes if node.op == "call_function")
        return gm.forward

    def function(x):
        with torch.no_grad(), torch.autocast("cpu"):
            return x.data.sin()

    torch.compile(function, backend=backend)(torch.ones(2, requires_grad=True))
    torch._dynamo.reset()
    assert private.grad_mode_switch() in ops, f"{CHANGED} how graphs switch gradients: {ops}"
    assert private.autocast_entry() in ops, f"{CHANGED} how graphs enter autocast: {ops}"
    assert private.data_getter() in ops, f"{CHANGED} how graphs take x.data: {ops}"


def test_placeholders_of_dynamo():
    seen = {}

    def backend(gm, examples):
        for node in gm.graph.find_nodes(op="placeholder"):
            seen[private.source_text(node)] = private.is_static_input(node)
        return gm.forward

    torch.compile(nn.Linear(2, 2), backend=backend)(torch.ones(1, 2))
    torch._dynamo.reset()
    assert any("weight" in text and static for text, static in seen.items()), (
        f"{CHANGED} static inputs: {seen}"
    )
    assert any("args" in text and not static for text, static in seen.items()), f"{CHANGED} sources: {seen}"


def test_specialise_floats():
    """A float on a module is an input under dynamic=True, until Dynamo is told to start again with a constant."""
    from torch._dynamo.exc import TensorifyScalarRestartAnalysis

    graphs, restarts = [], []

    class Scale(nn.Module):
        factor = 2.5

        def forward(self, x):
            return x * self.factor

    def backend(gm, examples):
        nodes = gm.graph.find_nodes(op="placeholder")
        items = [getattr(node.meta["example_value"], "item_memo", None) for node in nodes]
        graphs.append(len(nodes))
        try:
            private.specialise_floats([item for item in items if isinstance(item, torch.SymFloat)])
        except TensorifyScalarRestartAnalysis:
            restarts.append(True)
            raise
        return gm.forward

    torch.compile(Scale(), backend=backend, dynamic=True)(torch.ones(3))
    torch._dynamo.reset()
    assert restarts, f"{CHANGED} how Dynamo makes inputs of floats (placeholders per graph: {graphs})"
    assert graphs[-1] == graphs[0] - 1, f"{CHANGED} how floats become constants again: {graphs}"


def calls_of(function):
    ep = torch.export.export(WithFunction(function), (torch.ones(2, 3),))
    return [node for node in ep.graph.nodes if node.op == "call_function"]


def test_calls_of_transforms():
    batched = calls_of(torch.vmap(torch.sin))
    assert any(private.is_transform_call(node.target) for node in batched), f"{CHANGED} how graphs hold vmap"
    assert not any(private.is_derivative_call(node.target) for node in batched)
    inside = [node.meta["val"] for node in batched if node.target is torch.ops.aten.sin.default]
    assert all(map(private.is_of_transform, inside)), f"{CHANGED} what graphs say of batches"


@pytest.mark.torch_since("2.13", "torch.export stops at what torch.func.grad leaves in a graph")
def test_calls_of_derivatives():
    derived = calls_of(torch.func.grad(lambda x: x.sin().sum()))
    assert any(private.is_derivative_call(node.target) for node in derived), f"{CHANGED} how graphs hold grad"


@pytest.mark.parametrize(
    ("function", "entered", "differentiated"),
    [
        (torch.sin, False, False),
        (torch.vmap(torch.sin), True, False),
        (torch.func.grad(lambda x: x.sum()), True, True),
        (lambda x: torch.func.jvp(torch.sin, (x,), (x,)), True, True),
        (lambda x: torch.func.vjp(torch.sin, x)[1](x), True, True),
        (lambda x: torch.autograd.functional.jacobian(torch.sin, x), True, True),
    ],
)
def test_transforms_are_seen(function, entered, differentiated):
    with private.transforms_watched() as seen:
        function(torch.ones(2))
    found = (seen.entered, seen.differentiated)
    assert found == (entered, differentiated), f"{CHANGED} how transforms are entered"
    with private.transforms_watched() as seen:
        pass
    assert not seen.entered


class WithFunction(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_transforms_undone():
    depth = torch._C._functorch.get_dynamic_layer_stack_depth
    with private.transforms_undone():
        torch._C._functorch._vmap_increment_nesting(2, "error")
        assert depth() == 1
    assert depth() == 0, f"{CHANGED} how transforms are left"


def test_export_below_dispatch():
    model = WithFunction(torch.func.grad(lambda x: x.sin().sum()))
    ep = private.export_below_dispatch(model, (torch.ones(2, 3),), {}, None)
    x = torch.randn(2, 3)
    torch.testing.assert_close(ep.module()(x), x.cos())


def test_kernel_below_autocast():
    op, seen = torch.ops.aten.linear.default, []

    def kernel(x, weight, bias=None):
        seen.append((x.dtype, weight.dtype))
        return op(x, weight, bias)

    x, weight = torch.ones(2, 3), torch.ones(4, 3)
    with torch.no_grad(), private.python_dispatcher(), private.kernel_below_autocast({op: kernel}):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert op(x, weight).dtype == torch.bfloat16
        assert seen == [(torch.bfloat16, torch.bfloat16)], (
            f"{CHANGED} in what order autocast and kernels come"
        )
    with private.python_dispatcher():
        op(x, weight)
    assert len(seen) == 1, f"{CHANGED} how kernels are taken back"


def test_classes():
    with private.FakeTensorMode():
        assert isinstance(torch.ones(2), private.FakeTensor), f"{CHANGED} FakeTensor"
    assert issubclass(private.LazyGraphModule, torch.fx.GraphModule), f"{CHANGED} _LazyGraphModule"


def test_names_of_ops():
    assert {"aten::add.Tensor", "aten::relu"} <= set(private.names_of_ops()), f"{CHANGED} its list of ops"


def test_higher_order_name():
    assert private.higher_order_name(torch.ops.higher_order.cond) == "cond", f"{CHANGED} its operators' names"


def test_is_inplace_view():
    aten, seen = torch.ops.aten, []
    for op in (aten.t_.default, aten.resize_.default, aten.set_.source_Tensor):
        assert private.is_inplace_view(op), f"{CHANGED} the tags of {op}"
    assert not private.is_inplace_view(aten.add_.Tensor)
    assert not private.is_inplace_view(print)

    def sets(x):
        x.data = x + 1
        return x * 2

    def backend(gm, _inputs):
        seen.extend(node.target for node in to_aten(gm).graph.nodes)
        return gm.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(sets, backend=backend)(torch.ones(3))
    assert any(map(private.is_inplace_view, seen)), f"{CHANGED} the op of `x.data = y`: {seen}"


def test_overlaps_itself():
    x = torch.ones(4)
    assert not private.overlaps_itself(x), f"{CHANGED} _debug_has_internal_overlap"
    assert private.overlaps_itself(x.expand(3, 4))
    assert private.overlaps_itself(x.as_strided((3, 2), (1, 1)))


def test_users_of_storage():
    x = torch.ones(4)
    alone = private.users_of_storage(x)
    other = x[1:]
    assert private.users_of_storage(x) == alone + 1, f"{CHANGED} _storage_Use_Count"
    del other
    assert private.users_of_storage(x) == alone


def test_core_decompositions():
    assert torch.ops.aten.addcmul.default in private.core_decompositions(), f"{CHANGED} its decompositions"


def test_what_sees_ops():
    """What a direct call of an engine must not go past."""
    from torch.autograd import forward_ad
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    seen = {}

    def watch(name, value):
        seen[name] = (private.ops_are_watched(), private.is_transformed())
        return value

    watch("nothing", None)
    with Mode():
        watch("mode", None)
    with torch.profiler.profile():
        watch("profiler", None)
    with torch.device("cpu"):
        watch("function mode", None)
    with forward_ad.dual_level():
        watch("forward mode", None)
    torch.vmap(lambda x: watch("vmap", x))(torch.ones(2))
    assert seen == {
        "nothing": (False, False), "mode": (True, True), "profiler": (True, False), "function mode": (True, False),
        "forward mode": (True, False), "vmap": (True, True),
    }, f"{CHANGED} what sees ops: {seen}"  # fmt: skip


def test_copy_all():
    into = [torch.zeros(2), torch.zeros(3, dtype=torch.int64)]
    private.copy_all(into, [torch.ones(2), torch.full((3,), 5)])
    assert [one.tolist() for one in into] == [[1.0, 1.0], [5, 5, 5]], f"{CHANGED} _foreach_copy_"


def test_any_autocast():
    seen = [private.any_autocast()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen += [private.any_autocast(), private.ops_are_watched()]
    assert seen == [False, True, True], f"{CHANGED} what tells of autocast"


def test_profiler_is_on():
    assert not private.profiler_is_on()
    with torch.profiler.profile():
        assert private.profiler_is_on(), f"{CHANGED} what tells of profilers"


def test_global_pre_hooks():
    assert not private.has_global_pre_hooks()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: None)
    try:
        assert private.has_global_pre_hooks(), f"{CHANGED} where hooks for every module are"
        assert private.has_global_hooks()
    finally:
        handle.remove()


def test_new_tensors_without_a_parser():
    made = private.empty_on_cpu()((2, 3), (3, 1), torch.float16)
    assert (made.shape, made.stride(), made.dtype) == ((2, 3), (3, 1), torch.float16), (
        f"{CHANGED} _empty_strided_cpu"
    )


@pytest.mark.gpu
def test_cuda_calls():
    device, stream, capturing, empty = private.cuda_calls()
    assert device() == torch.cuda.current_device()
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        assert stream(device()) == torch.cuda.current_stream().cuda_stream
    assert not capturing()
    assert empty((2, 3), (3, 1), torch.float16).device == torch.device("cuda", device())


def test_is_being_differentiated():
    from torch.autograd import forward_ad

    x, seen = torch.ones(2), []

    def looked_at(value):
        seen.append(private.is_being_differentiated([x, value]))
        return value.sum()

    looked_at(x.clone().requires_grad_())
    torch.func.grad(looked_at)(x)
    torch.vmap(looked_at)(x)
    with forward_ad.dual_level():
        looked_at(x)
        looked_at(forward_ad.make_dual(x, x))
    assert seen == [False, True, False, False, True], f"{CHANGED} how derivatives are taken: {seen}"


def test_is_traced_by_jit():
    seen = []

    def function(x):
        seen.append(bool(private.is_traced_by_jit()))
        return x + 1

    function(torch.ones(2))
    torch.jit.trace(function, torch.ones(2), check_trace=False)
    assert seen == [False, True], f"{CHANGED} how torch.jit.trace is told"


def test_has_global_hooks():
    assert not private.has_global_hooks()
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, args: None)
    try:
        assert private.has_global_hooks(), f"{CHANGED} where it keeps hooks of every module"
    finally:
        handle.remove()


def test_below_autograd():
    x = torch.ones(2, requires_grad=True)
    with private.below_autograd():
        assert not torch.ops.aten.sin(x).requires_grad, f"{CHANGED} _AutoDispatchBelowAutograd"
    assert torch.ops.aten.sin(x).requires_grad


def test_python_dispatcher():
    """In-place ops of torch's in C++ read the sizes of a view as plain ints."""
    size = size_of(exported())
    with private.FakeTensorMode(shape_env=size.node.shape_env), private.python_dispatcher():
        x = torch.ones(size)
        assert x.flatten().shape[0] == size, f"{CHANGED} its dispatcher in Python"


def test_writes():
    """Functional tensors: who was written to, and what it is now."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def function(x, y):
        view = x[:1]
        view.add_(y[0])
        return x * 2, y

    written = []

    def looked_at(x, y):
        result = function(x, y)
        written.extend(map(private.is_written, (x, y)))
        return result

    private.functionalised(looked_at)(torch.ones(3), torch.ones(3))
    assert written == [True, False], f"{CHANGED} its functional tensors: {written}"
    traced = make_fx(private.writes_at_end(function))(torch.ones(3), torch.ones(3))
    ops = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    writes = [op for op in ops if isinstance(op, torch._ops.OpOverload) and op._schema.is_mutable]
    assert writes == [torch.ops.aten.copy_.default], f"{CHANGED} how writes are taken out: {traced.code}"
    x, y = torch.ones(3), torch.ones(3)
    doubled, same = traced(x, y)
    assert (x.tolist(), doubled.tolist(), same.tolist()) == ([2, 1, 1], [4, 2, 2], [1, 1, 1])


def test_auto_functionalized():
    """Files of torch.export hold the first kind; torch's other passes may ask for the second."""
    from torch.fx.experimental.proxy_tensor import make_fx

    @torch.library.custom_op("canary::write_", mutates_args=("x",))
    def write_(x: torch.Tensor) -> None:
        x.zero_()

    class Writes(nn.Module):
        def forward(self, x):
            y = x + 1
            torch.ops.canary.write_(y)
            return y

    with private.first_auto_functionalized():
        traced = make_fx(private.writes_at_end(Writes()))(torch.ones(2))
    targets = [str(node.target) for node in traced.graph.nodes]
    assert "auto_functionalized" in targets, f"{CHANGED} enable_auto_functionalized_v2: {targets}"


def test_graphs():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(torch.sin, (x,))
    graph.erase_node(y)
    assert (private.is_erased(y), private.is_erased(x)) == (True, False), f"{CHANGED} Node._erased"
    codegen = torch.fx.graph.CodeGen()
    graph.set_codegen(codegen)
    assert private.codegen_of(graph) is codegen, f"{CHANGED} Graph._codegen"


def test_compiled_forward():
    forward = private.compiled_forward(
        "def forward(self, x):\n    return twice(x) + 1\n", {"twice": lambda x: 2 * x}
    )
    assert forward(None, 3) == 7, f"{CHANGED} how fx makes functions of source"


def test_samples_and_tolerances():
    assert any(op.name == "add" for op in private.operator_samples()), f"{CHANGED} its OpInfo database"
    rtol, atol = private.default_tolerances(torch.float32)
    assert 0 < rtol <= atol < 1e-3, f"{CHANGED} its default tolerances"


def test_with_tensors():
    ep = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    other = private.with_tensors(ep, {"weight": torch.ones(1)}, {"c": torch.ones(2)})
    assert (list(other.state_dict), list(other.constants)) == (["weight"], ["c"]), f"{CHANGED} its programs"
    assert sorted(ep.state_dict) == ["bias", "weight"]


# What is written as private, but is no torch internal, or documented by torch under this name.
FINE = {"torch._ops", "torch._dynamo", "torch.utils._pytree", "torch._check"}
# Names of torch's objects that torch's documentation of subclasses or of schemas uses.
FINE_NAMES = {"_schema", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"} | {
    f"_{direction}{when}_hooks{how}"
    for direction in ("forward", "backward")
    for when in ("", "_pre")
    for how in ("", "_with_kwargs")
}


def private_names(tree):
    """(line, name) of what a file takes of torch that begins with an underscore, by import or as torch.x._y."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.partition(".")[0] == "torch"]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)] if re.match(r"torch\.(?!ops\.)", ast.unparse(node)) else []
        for name in names:
            if re.search(r"\._[a-z]", name) and not any(name.startswith(fine) for fine in FINE):
                yield node.lineno, name


def names_of_others(tree, own):
    """(line, name) of attributes with an underscore of objects that are not of this repository."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and re.match("_[a-z]", node.attr)
            and node.attr not in own | FINE_NAMES
            and not ast.unparse(node).startswith(("torch.", "sys.", "aten."))
        ):
            yield node.lineno, ast.unparse(node)


def trees():
    """The files of the core and of each pack that ships with it, but for their `torch_private`."""
    for package in (trtcore, trtcore_backends, trtcore_converters, trtcore_plugins, trtcore_reference):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            if path.name != "torch_private.py":
                yield path, ast.parse(path.read_text(encoding="utf-8"))


def test_nothing_private_is_taken_from_elsewhere():
    """The only file of the core, and of a pack, that names a private part of torch is its `torch_private`."""
    found = [f"{path}:{line} {name}" for path, tree in trees() for line, name in private_names(tree)]
    assert not found, "\n".join(found)


def test_no_private_attribute_of_others_is_read():
    """Attributes with an underscore are our own: some class or function of ours sets or defines each."""
    own = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own.add(node.target.id)
    found = [f"{path}:{line} {name}" for path, tree in trees() for line, name in names_of_others(tree, own)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("strict", [True, False])
def test_the_flag_of_an_export_tells_it_from_a_compile(strict):
    """`trtcore.runtime.conditions` writes it into generated code."""

    class Flag(torch.nn.Module):
        def forward(self, x):
            return x + 2 if torch.compiler._is_exporting_flag else x + 1

    zero = torch.zeros(1)
    assert torch.compile(Flag(), backend="eager", dynamic=True)(zero) == 1
    assert torch.export.export(Flag(), (zero,), strict=strict).module()(zero) == 2
    assert Flag()(zero) == 1


def test_auto_functionalized_takes():
    @torch.library.custom_op("private_canary::write_", mutates_args=("x",))
    def write_(x: torch.Tensor, mode: int) -> None:
        x.add_(mode)

    op = torch.ops.private_canary.write_.default
    assert private.can_auto_functionalize(op), f"{CHANGED} can_auto_functionalize"
    assert not private.can_auto_functionalize(torch.ops.aten.add_.Tensor)
    assert private.is_own(torch.ops.aten.add_.Tensor), f"{CHANGED} is_builtin"
    assert not private.is_own(op)


def test_nothing_of_a_trace_stays():
    sizes, texts = [], []
    for _ in range(3):
        with private.forgetting_traces():
            ep = private.export(
                Parity(), (torch.ones(4),), {}, dynamic_shapes=({0: Dim.DYNAMIC(min=2, max=8)},)
            )
            sizes.append(weakref.ref(size_of(ep).node.shape_env))
            kept = torch.fx.GraphModule(ep.graph_module, ep.graph_module.graph)
            private.keep_sources(kept)
        texts.append(type(kept).forward.__code__.co_filename)
        assert texts[-1] in _loader.eval_cache, f"{CHANGED} how fx keeps the text of a graph"
    del ep, kept
    for _ in range(3):  # tensors come back to life once when they are collected
        gc.collect()
    assert not [one for one in sizes if one() is not None], f"{CHANGED} what keeps the sizes of a trace"
    assert not set(texts) & set(_loader.eval_cache)


@pytest.mark.parametrize("turned", [False, True])
def test_the_names_of_an_exports_keyword_arguments(turned):
    """A GraphModule is run by an interpreter there, and the codegen takes its inputs apart."""

    class Two(torch.nn.Module):
        def forward(self, x, *, a, b):
            return x + 10 * a + 100 * b

    seen = []

    class Codegen(torch.fx.graph.CodeGen):
        def process_inputs(self, *args):
            seen.append((private.export_keywords(), private.is_exporting()))
            return args

    traced = torch.fx.symbolic_trace(Two())
    traced.graph.set_codegen(Codegen())
    given = {"a": torch.ones(1), "b": torch.ones(1)}
    torch.export.export(traced, (torch.ones(1),), dict(reversed(given.items())) if turned else given)
    assert (("b", "a") if turned else ("a", "b"), True) in seen
    assert private.export_keywords() is None
    assert not private.is_exporting()


def test_ops_that_autocast_casts():
    aten = torch.ops.aten
    for device in ("cpu", "cuda"):
        assert private.has_autocast_kernel(aten.linear.default, device)
        assert private.has_autocast_kernel(aten.conv2d.default, device)
        assert not private.has_autocast_kernel(aten.relu.default, device)
        assert not private.has_autocast_kernel(aten.add.Tensor, device)
    assert not private.has_autocast_kernel(aten.linear.default, "meta")


def test_packages_of_aotinductor(tmp_path):
    from torch._inductor import config

    exported = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
    # which error it is is torch's affair
    with config.patch({"cpp.cxx": ("/nowhere/c++",)}), pytest.raises(Exception) as caught:
        private.compile_and_package(exported, tmp_path / "a.pt2")
    assert private.lacks_compiler(caught.value)
    assert not private.lacks_compiler(RuntimeError())


def test_fake_like():
    mode = private.FakeTensorMode()
    value = torch.empty(3, 4, dtype=torch.float16).t()
    fake, other = private.fake_like(value, mode), private.fake_like(value, mode)
    assert (fake.shape, fake.stride(), fake.dtype, fake.device) == ((4, 3), (1, 4), value.dtype, value.device)
    assert fake.fake_mode is mode
    assert private.storage_id(fake) != private.storage_id(other)
    with mode:
        assert (fake + other).shape == (4, 3)


def test_maybe_mark_dynamic_and_size_conditions():
    seen = []

    def backend(gm, example_inputs):
        sizes = [value for value in example_inputs if isinstance(value, torch.SymInt)]
        seen.append([str(one) for one in private.size_conditions(sizes[0].node.shape_env)])
        return gm

    x = torch.ones(5, 3)
    private.maybe_mark_dynamic(x, 0)
    torch._dynamo.reset()
    torch.compile(lambda x: x * 2 if x.shape[0] < 9 else x, backend=backend, dynamic=False)(x)
    assert any("9" in one or "8" in one for one in seen[0]), f"{CHANGED} where it keeps conditions on sizes"


def test_fresh_symbols_ignored():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    environment = ShapeEnv()
    with FakeTensorMode(shape_env=environment) as mode:
        x = mode.from_tensor(torch.ones(3))
        with private.fresh_symbols_ignored(environment):
            torch.nonzero(x)
        assert not environment.pending_fresh_unbacked_symbols, f"{CHANGED} what it waits for"
