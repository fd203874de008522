"""Autocast, float32 accumulation and float64 truncation: which nodes, which numbers, which dtypes in the network."""

from __future__ import annotations

import pytest
import torch
from pass_helpers import captured, check_meta, compiled_layers, dtypes_of, network, ops, snapshots, types
from torch import nn

import trtcore
from trtcore import CompilationSettings
from trtcore.compiler import make_context
from trtcore.errors import SettingsError

aten = torch.ops.aten
HALF = {"enable_autocast": True, "autocast_low_precision_type": torch.float16}


def lowered(model, *inputs, names=("autocast",), **settings):
    """The graph after some passes, checked; and the settings' context."""
    from trtcore_converters.passes import PASSES

    ctx = make_context(CompilationSettings(**settings))
    graph_module = captured(model, *inputs)
    for item in PASSES:
        if item.name in ("remove_assertions", "remove_noops", "constant_folding", "scalar_constants", *names):
            item.run(graph_module, ctx)
    graph_module.graph.lint()
    check_meta(graph_module)
    graph_module.recompile()
    return graph_module


def dtypes(graph_module):
    """dtype by node name, of the tensors that calls give."""
    return {
        node.name: node.meta["val"].dtype
        for node in graph_module.graph.nodes
        if node.op == "call_function" and isinstance(node.meta["val"], torch.Tensor)
    }


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 8)

    def forward(self, x):
        return self.second(self.norm(torch.nn.functional.gelu(self.first(x)))).exp()


X = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))

# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, None),
        (HALF, torch.float16),
        ({"enable_autocast": True, "autocast_low_precision_type": "bf16"}, torch.bfloat16),
        ({"use_explicit_typing": False}, None),
        ({"use_explicit_typing": False, "enabled_precisions": {"fp16", "fp32"}}, torch.float16),
        ({"use_explicit_typing": False, "enabled_precisions": {"bf16"}}, torch.bfloat16),
        (
            {
                "use_explicit_typing": False,
                "enabled_precisions": {"fp16", "bf16"},
                "autocast_low_precision_type": "bf16",
            },
            torch.bfloat16,
        ),
    ],
)
def test_what_autocast_casts_to(settings, dtype):
    assert CompilationSettings(**settings).autocast_dtype == dtype


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enabled_precisions": {"fp16"}}, "use_explicit_typing=True"),
        ({"enabled_precisions": {"fp16"}, **HALF}, "use_explicit_typing=True"),
        ({"enabled_precisions": {"int64"}}, "must be of"),
        ({"use_explicit_typing": False, "enabled_precisions": {"int8", "fp32"}}, "would change nothing"),
        ({"use_explicit_typing": False, "enabled_precisions": {"fp8", "fp16"}}, "would change nothing"),
        ({"enabled_precisions": {"int8"}}, "quantises and dequantises"),
        ({"enable_autocast": True}, "to what"),
        ({"autocast_low_precision_type": torch.float16}, "no effect without autocast"),
        ({"autocast_excluded_ops": {"aten.gelu"}}, "no effect without autocast"),
        ({"autocast_max_depth_of_reduction": 8}, "no effect without autocast"),
        ({"use_explicit_typing": False, "enabled_precisions": {"fp16", "bf16"}}, "casts to one"),
        ({"enable_autocast": True, "autocast_low_precision_type": "fp8"}, "torch.float16, torch.bfloat16"),
        (
            {
                "use_explicit_typing": False,
                "enabled_precisions": {"fp16"},
                "autocast_low_precision_type": "bf16",
            },
            "not in enabled_precisions",
        ),
        ({**HALF, "autocast_max_output_threshold": 0}, "above 0"),
    ],
)
def test_contradictions(settings, message):
    with pytest.raises(SettingsError, match=message):
        CompilationSettings(**settings)


# ---- autocast ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    graph_module = lowered(MLP(), X, enable_autocast=True, autocast_low_precision_type=dtype)
    found = dtypes(graph_module)
    assert {found[name] for name in ("linear", "gelu", "layer_norm", "linear_1")} == {dtype}
    assert found["exp"] == torch.float32, "its range is float32's"
    weights = [node for node in graph_module.graph.nodes if node.op == "get_attr" and node.users]
    assert {node.meta["val"].dtype for node in weights} == {dtype}, "weights are cast once, as constants"
    got, want = graph_module(X)[0], MLP()(X)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=5e-2, atol=1e-2)
    assert not torch.equal(got, want)


def test_autocast_is_off_by_default():
    assert set(dtypes(lowered(MLP(), X)).values()) == {torch.float32}


def test_autocast_in_the_network():
    found = network(MLP(), X, rtol=5e-2, atol=1e-2, **HALF)
    assert types(found.layers)["MATRIX_MULTIPLY"] == 2
    assert dtypes_of(found, "MATRIX_MULTIPLY", "NORMALIZATION") == {torch.float16}
    assert dtypes_of(network(MLP(), X, disabled_passes={"autocast"}, **HALF)) == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"autocast_excluded_nodes": ["linear$"]}, {"linear"}),
        ({"autocast_excluded_nodes": [r"second"]}, {"linear_1"}),
        ({"autocast_excluded_nodes": ["ayer"]}, set()),
        ({"autocast_excluded_ops": {"aten.gelu", torch.ops.aten.layer_norm.default}}, {"gelu", "layer_norm"}),
        ({"autocast_max_depth_of_reduction": 16}, {"linear_1", "layer_norm"}),
        ({"autocast_max_depth_of_reduction": 15}, {"linear", "linear_1", "layer_norm"}),
        ({"torch_executed_ops": {"aten.layer_norm"}}, {"layer_norm"}),
    ],
)
def test_nodes_that_stay_in_float32(settings, kept):
    found = dtypes(lowered(MLP(), X, **HALF, **settings))
    names = ("linear", "gelu", "layer_norm", "linear_1")
    assert {name for name in names if found[name] == torch.float32} == kept


class Loud(nn.Module):
    """The second product is large."""

    def forward(self, x, y):
        return torch.mm(torch.mm(x, y) * 100, x)


@pytest.mark.parametrize("batches", [
    [(X, X.T)], [[X, X.T]], [{"x": X, "y": X.T}], iter([{"y": X.T, "x": X}, (X, X.T)]),
])  # fmt: skip
def test_calibration(batches):
    model = Loud()
    large = float(model(X, X.T).abs().max())
    settings = {**HALF, "autocast_calibration_dataloader": batches}
    kept = dtypes(lowered(model, X, X.T, **settings, autocast_max_output_threshold=large * 0.99))
    assert (kept["mm"], kept["mm_1"]) == (torch.float16, torch.float32)
    assert dtypes(lowered(model, X, X.T, **HALF))["mm_1"] == torch.float16, "without data the rule is skipped"


def test_calibration_above_the_threshold_only():
    model = Loud()
    large = float(model(X, X.T).abs().max())
    settings = {**HALF, "autocast_calibration_dataloader": [(X, X.T)]}
    found = dtypes(lowered(model, X, X.T, **settings, autocast_max_output_threshold=large * 1.01))
    assert found["mm_1"] == torch.float16


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(X,)], "1 values, and the model takes 2 \\(x, y\\)"),
        ([(X, X)], "does not run on batch 0"),
        ([], "no batches"),
        (3, "not iterable"),
    ],
)
def test_calibration_that_does_not_fit(batches, message):
    with pytest.raises(SettingsError, match=message):
        lowered(Loud(), X, X.T, **HALF, autocast_calibration_dataloader=batches)


def test_calibration_writes_nothing():
    class Counting(MLP):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return super().forward(x) + self.calls

    model = Counting()
    trtcore.compile(model, inputs=[X], **HALF, autocast_calibration_dataloader=[(X,)], dryrun=True)
    assert float(model.calls) == 0


def test_positions_and_masks_stay_in_float32():
    class Positions(nn.Module):
        def forward(self, x, ids):
            angles = ids.float() * 0.3
            mask = torch.where(ids > 1, 0.0, torch.finfo(torch.float32).min)
            q = x * angles.cos()
            return torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)

    x = torch.randn(1, 2, 4, 4)
    ids = torch.arange(4)[None, None, None]
    graph_module = lowered(Positions(), x, ids, **HALF)
    found = dtypes(graph_module)
    assert found["cos"] == found["mul"] == found["where"] == torch.float32
    assert found["scaled_dot_product_attention"] == torch.float16
    got = graph_module(x, ids)[0]
    torch.testing.assert_close(got, Positions()(x, ids), rtol=1e-2, atol=1e-2)


def test_numbers_and_weights_beyond_float16_stay_in_float32():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((16, 2), 1e5))

        def forward(self, x):
            return x @ self.weight, x * 1e6, x + 1.0

    found = dtypes(lowered(Large(), X, **HALF))
    assert (found["matmul"], found["mul"], found["add"]) == (torch.float32, torch.float32, torch.float16)
    wide = dtypes(lowered(Large(), X, enable_autocast=True, autocast_low_precision_type="bf16"))
    assert wide["matmul"] == wide["mul"] == torch.bfloat16


def test_ops_with_several_results_and_writes():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("state", torch.zeros(4, 16))

        def forward(self, x):
            a, b = (x * 2).split(8, -1)
            self.state.copy_(x * 3)
            return a @ b.mT, torch.topk(x * 2, 2)

    graph_module = lowered(Several(), X, **HALF)
    found = dtypes(graph_module)
    assert found["matmul"] == torch.float16
    want = Several()(X)
    torch.testing.assert_close(graph_module(X)[0], want[0], rtol=1e-2, atol=1e-2)
    assert graph_module(X)[1].dtype == torch.float32


def test_autocast_of_a_model_on_the_whole():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

        def forward(self, x):
            return self.layer(x)

    x = torch.randn(2, 8, 32)
    model = Attention().eval()
    found = network(model, x, rtol=5e-2, atol=2e-2, use_explicit_typing=False, enabled_precisions={"fp16"})
    assert types(found.layers)["MATRIX_MULTIPLY"] == 4
    assert dtypes_of(found, "MATRIX_MULTIPLY", "ATTENTION_OUTPUT") == {torch.float16}


# ---- fp32 accumulation -------------------------------------------------------------------------------------


def test_products_accumulate_in_float32():
    model = MLP().half()
    graph_module = lowered(model, X.half(), names=("fp32_accumulation",), use_fp32_acc=True)
    found = dtypes(graph_module)
    assert found["linear_default"] == found["linear_default_1"] == torch.float32
    assert found["linear"] == found["linear_1"] == torch.float16, "the casts back carry the names"
    weights = [node for node in graph_module.graph.nodes if node.op == "get_attr"]
    assert {node.meta["val"].dtype for node in weights} == {torch.float16}
    assert ops(lowered(model, X.half(), names=("fp32_accumulation",)))["_to_copy"] == 0


def test_accumulation_in_the_network():
    model = nn.Linear(256, 4).half()
    x = torch.randn(4, 256).half()
    found = network(model, x, rtol=1e-2, atol=1e-2, use_fp32_acc=True)
    assert dtypes_of(found, "MATRIX_MULTIPLY") == {torch.float32}
    assert dtypes_of(found, "CONSTANT") == {torch.float16}
    bfloat = nn.Linear(8, 4).bfloat16()
    other = network(bfloat, torch.randn(2, 8).bfloat16(), use_fp32_acc=True, rtol=5e-2, atol=5e-2)
    assert types(other.layers)["CAST"] == 0


class Attend(nn.Module):
    def forward(self, x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


def test_attention_accumulates_in_float32():
    x = torch.randn(1, 2, 8, 16).half()
    found = network(Attend(), x, rtol=1e-2, atol=1e-2, use_fp32_acc=True)
    assert dtypes_of(found, "MATRIX_MULTIPLY", "ATTENTION_OUTPUT") == {torch.float32}
    without = network(Attend(), x, rtol=1e-2, atol=1e-2)
    assert dtypes_of(without, "MATRIX_MULTIPLY", "ATTENTION_OUTPUT") == {torch.float16}


class Ranges(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.head(self.first(x).exp().cumsum(1) * 1e6)


def test_the_report_names_what_stays_in_float32_and_the_rule(trt_backend):
    import trtcore

    report = trtcore.explain(
        Ranges().eval(), [torch.randn(2, 8)], min_block_size=1, enable_autocast=True,
        autocast_low_precision_type=torch.float16, autocast_excluded_nodes={"^head$"},
        autocast_excluded_ops={"aten.cumsum"},
    )  # fmt: skip
    rules = {group.op: group.reason for group in report.kept_precise()}
    assert rules == {
        "aten.exp.default": "its op needs float32's range, as torch.autocast has it",
        "aten.cumsum.default": "autocast_excluded_ops has it",
        "aten.mul.Tensor": "a number of it is beyond the range of torch.float16",
        "aten.linear.default": "autocast_excluded_nodes has '^head$'",
    }
    assert "1 x aten.linear.default: autocast_excluded_nodes has '^head$'; first at head" in str(report)
    assert not trtcore.explain(Ranges().eval(), [torch.randn(2, 8)], min_block_size=1).kept_precise()


# ---- truncate_double ---------------------------------------------------------------------------------------


class Double(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(16, 8).double()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x, y):
        self.count.add_(1)
        z = self.linear(x) + torch.ones(8, dtype=torch.float64)
        return z.relu(), (y.double() * 2).sum(), y + 1, x


def test_float64_is_float32_inside():
    model, x = Double(), X.double()
    want = Double()(x, X)
    graph_module = lowered(model, x, X, names=("truncate_double",), truncate_double=True)
    got = graph_module(x, X)
    assert [tensor.dtype for tensor in got] == [tensor.dtype for tensor in want]
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    inside = dtypes(graph_module)
    assert {inside[name] for name in ("linear", "relu", "mul", "sum_1")} == {torch.float32}


def test_truncated_models_are_engines_between_casts():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 8).double()

        def forward(self, x):
            return self.linear(x).relu()

    x = X.double()
    options = {"min_block_size": 1, "runtime": "reference", "truncate_double": True}
    compiled = trtcore.compile(Plain(), inputs=[x], require_full_compilation=True, **options)
    torch.testing.assert_close(compiled(x), Plain()(x), rtol=1e-5, atol=1e-5)
    (snapshot,) = snapshots(compiled)
    assert dtypes_of(snapshot) == {torch.float32}
    without = trtcore.explain(Plain(), inputs=[x], min_block_size=1)
    reasons = {node.reason for node in without.nodes if not node.in_engine}
    assert any("float64" in reason for reason in reasons)


class Table(nn.Module):
    """A rotary table in float64, used in float32."""

    def __init__(self, positions):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.positions = nn.Linear(8, 8), positions
        self.register_buffer("steps", 1.0 / (10000.0 ** (torch.arange(0, 8, dtype=torch.float64) / 8)))

    def forward(self, x, given=None):
        at = torch.arange(64 if self.positions == "fixed" else x.shape[1], dtype=torch.float64)
        at = at if given is None else given.double()
        angles = at[..., None] * self.steps
        turned = (angles.cos() - angles.sin()).float()
        return self.linear(x) * (turned[: x.shape[1]] if self.positions == "fixed" else turned)


def rope(positions, *inputs, given, **settings):
    model = Table(positions).eval().requires_grad_(False)
    compiled = trtcore.compile(model, inputs=given, min_block_size=1, runtime="reference", **settings)
    torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
    return [node for node in compiled.report.nodes if not node.in_engine]


LENGTHS = trtcore.Input(min_shape=(1, 2, 8), opt_shape=(2, 16, 8), max_shape=(2, 64, 8))


def test_a_float64_table_that_is_constant_is_computed_once():
    x = torch.randn(2, 16, 8)
    assert not rope("fixed", x, given=[LENGTHS])
    assert not rope("by length", x, given=[x])


@pytest.mark.parametrize("positions", ["by length", "given"])
def test_a_float64_table_that_varies_is_right_and_the_advice_names_truncate_double(positions):
    x, at = torch.randn(2, 16, 8), torch.arange(16).expand(2, 16) + 900
    inputs, given = (x,), [LENGTHS]
    if positions == "given":
        inputs, given = (
            (x, at),
            [
                LENGTHS,
                trtcore.Input(min_shape=(1, 2), opt_shape=(2, 16), max_shape=(2, 64), dtype=torch.int64),
            ],
        )
    left = rope(positions, *inputs, given=given)
    assert left
    assert {node.advice for node in left} == {"truncate_double=True computes it in float32"}
    assert all("float64" in node.reason for node in left)


def test_a_float64_table_that_varies_in_float32():
    assert not rope("by length", torch.randn(2, 16, 8), given=[LENGTHS], truncate_double=True)


def test_weights_beyond_float32_are_refused():
    module = nn.Linear(16, 2).double()
    with torch.no_grad():
        module.weight.fill_(1e300)
    with pytest.raises(SettingsError, match="beyond the range of float32"):
        lowered(module, X.double(), names=("truncate_double",), truncate_double=True)


# ---- decompositions ----------------------------------------------------------------------------------------


def test_all_core_decompositions():
    model = nn.Sequential(nn.SiLU(), nn.GELU())
    plain = trtcore.explain(model, inputs=[X], min_block_size=1)
    pieces = trtcore.explain(model, inputs=[X], min_block_size=1, enable_experimental_decompositions=True)
    assert {node.op for node in plain.nodes} == {"aten.silu.default", "aten.gelu.default"}
    assert "aten.silu.default" not in {node.op for node in pieces.nodes}
    assert {"aten.sigmoid.default", "aten.gelu.default"} <= {node.op for node in pieces.nodes}
    assert pieces.fully_converted
    compiled_layers(model, X, enable_experimental_decompositions=True)
