"""Why each refusal of the ATen pack is one: TensorRT's own words, asked of it again, or what else stands behind it.

`REFUSALS` has a row for every reason that a validator of the pack gives (a test reads the validators' code for them). The
row's grounds are checked against the TensorRT that is installed: when a later one stops saying so, a test fails, and the
validator can go.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT / "converters" / "trtcore_converters"
SEMANTICS = ROOT / "docs" / "semantics.md"


# ---- grounds -----------------------------------------------------------------------------------------------


class Net:
    """A network in the making, with short names for what probes are made of."""

    def __init__(self, net: Any, trt: Any) -> None:
        self.net, self.trt = net, trt

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)

    def input(self, dtype: str, *shape: int) -> Any:
        """A network input with a name of its own."""
        return self.net.add_input(f"x{self.net.num_inputs}", getattr(self.trt, dtype), shape)

    def number(self, value: Any, dtype: str = "float32") -> Any:
        """A constant."""
        array = np.array(value, dtype=dtype)
        return self.net.add_constant(array.shape, self.trt.Weights(array)).get_output(0)

    def member(self, path: str) -> Any:
        """A member of one of TensorRT's enums, as ``UnaryOperation.SIN``."""
        kind, name = path.split(".")
        return getattr(getattr(self.trt, kind), name)


@dataclass(frozen=True)
class Says:
    """TensorRT refuses the network that `make` builds (the layer is what it returns) with a message like `message`."""

    make: Callable[[Net], Any]
    message: str


@dataclass(frozen=True)
class Documents:
    """The bindings' documentation of a class has the sentence."""

    name: str
    sentence: str


@dataclass(frozen=True)
class Lacks:
    """A class of the bindings has no attribute with the word in its name."""

    name: str
    word: str


@dataclass(frozen=True)
class Differs:
    """TensorRT computes something else: docs/semantics.md has the line."""

    line: str


@dataclass(frozen=True)
class Unbuildable:
    """No layer can exist: what shapes the network is not known before it runs. The reason itself says so."""

    words: str = r"vary|varies|varying|depends? on|unknown|not known|dynamic|no upper bound"


@dataclass(frozen=True)
class Training:
    """The model asks for what only training needs; the reason says what to call."""


@dataclass(frozen=True)
class Elsewhere:
    """Another converter of the pack takes the node; this one is for the strongest layer alone."""

    op: str


@dataclass(frozen=True)
class Bounded:
    """A bound of the pack's own, on what an exact way around would cost; the reason names the bound."""


Ground: TypeAlias = Says | Documents | Lacks | Differs | Unbuildable | Training | Elsewhere | Bounded


@dataclass(frozen=True)
class Refusal:
    """A reason (regular expression over the text in the code, where {} stands for what is filled in) and its grounds."""

    reason: str
    grounds: tuple[Ground, ...]


# ---- the smallest networks ---------------------------------------------------------------------------------


def _unary(operation: str, dtype: str) -> Callable[[Net], Any]:
    return lambda n: n.add_unary(n.input(dtype, 2), n.member(f"UnaryOperation.{operation}"))


def _binary(operation: str, dtype: str) -> Callable[[Net], Any]:
    return lambda n: n.add_elementwise(
        n.input(dtype, 2), n.input(dtype, 2), n.member(f"ElementWiseOperation.{operation}")
    )


def _matmul(dtype: str) -> Callable[[Net], Any]:
    def make(n: Net) -> Any:
        plain = n.member("MatrixOperation.NONE")
        return n.add_matrix_multiply(n.input(dtype, 2, 2), plain, n.input(dtype, 2, 2), plain)

    return make


def _convolution(dtype: str, kernel: tuple[int, ...]) -> Callable[[Net], Any]:
    def make(n: Net) -> Any:
        none = n.trt.Weights(n.trt.float32)
        layer = n.add_convolution_nd(n.input(dtype, 1, 1, 4, 4), 1, (1, 1), none, none)
        layer.set_input(1, n.input(dtype, *kernel))
        return layer

    return make


def _resize(dtype: str, scales: tuple[float, ...]) -> Callable[[Net], Any]:
    def make(n: Net) -> Any:
        layer = n.add_resize(n.input(dtype, 1, 1, 4, 4))
        layer.scales = scales
        return layer

    return make


def _quantize(dtype: str, to: str, scale: Any = 1.0, zero_point: int = 0) -> Callable[[Net], Any]:
    def make(n: Net) -> Any:
        layer = n.add_quantize(n.input(dtype, 2, 3), n.number(scale), getattr(n.trt, to))
        if zero_point:
            layer.set_input(2, n.number(zero_point, "int8"))
        return layer

    return make


def _attention(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], dtype: str = "float32",
    mask: tuple[int, ...] = (), mask_dtype: str = "float32", widened: bool = False,
) -> Callable[[Net], Any]:  # fmt: skip
    def make(n: Net) -> Any:
        inputs = [n.input(dtype, *shape) for shape in (query, key, value)]
        if widened:  # (of the key it crashes)
            inputs[2] = n.add_cast(n.input("float16", *value), n.trt.float32).get_output(0)
        layer = n.add_attention_v2(
            *inputs,
            n.member("AttentionNormalizationOp.SOFTMAX"), n.member("CausalMaskKind.NONE"),
        )  # fmt: skip
        layer.decomposable = True
        if mask:
            layer.mask = n.input(mask_dtype, *mask)
        return layer

    return make


def _rotary(
    dtype: str, caches: str, x: tuple[int, ...], cosines: tuple[int, ...] = (1, 3, 2)
) -> Callable[[Net], Any]:
    return lambda n: n.add_rotary_embedding(
        n.input(dtype, *x), n.input(caches, *cosines), n.input(caches, *cosines), False, 4
    )


def _pooling(dtype: str) -> Callable[[Net], Any]:
    return lambda n: n.add_pooling_nd(n.input(dtype, 1, 1, 4, 4), n.member("PoolingType.MAX"), (2, 2))


def _fill(dtype: str) -> Callable[[Net], Any]:
    return lambda n: n.add_fill((4,), n.member("FillOperation.LINSPACE"), getattr(n.trt, dtype))


def _reduce(dtype: str) -> Callable[[Net], Any]:
    return lambda n: n.add_reduce(n.input(dtype, 2, 2), n.member("ReduceOperation.SUM"), 1, False)


def _select(condition: str, dtype: str) -> Callable[[Net], Any]:
    return lambda n: n.add_select(n.input(condition, 2), n.input(dtype, 2), n.input(dtype, 2))


def _normalization(dtype: str) -> Callable[[Net], Any]:
    return lambda n: n.add_normalization_v2(
        n.input(dtype, 2, 4), n.input(dtype, 1, 4), n.input(dtype, 1, 4), 2
    )


_FLOATS = "has type Int32 but must have type Float"
_HEADS = (2, 2, 4, 8)
_NO_DIMS_BEYOND_8 = Says(
    lambda n: n.add_unary(n.input("float32", *[1] * 9), n.member("UnaryOperation.ABS")),
    "incompatible function arguments",
)
_REPLACES = Lacks("IScatterLayer", "reduc")
_NO_UINT8 = Says(_binary("SUM", "uint8"), "SUM requires inputs with type .*But type is UInt8")
_NO_INT8 = Says(_binary("POW", "int8"), "No matching rules found for input operand types")
_UNBUILDABLE = (Unbuildable(),)
_SDPA = Elsewhere("scaled_dot_product_attention.default")
_BUILD_TIME = Documents("IQuantizeLayer", "must be a build-time constant")
_SYMMETRIC = Documents("IQuantizeLayer", "only symmetric quantization is supported")

REFUSALS: tuple[Refusal, ...] = (
    # dtypes
    Refusal("TensorRT does not compute with {}; cast {} before", (_NO_UINT8, _NO_INT8)),
    Refusal("TensorRT has no arithmetic on {}", (_NO_UINT8, _NO_INT8)),
    Refusal(
        "TensorRT computes this only in floating point, and {} is {}",
        (
            Says(_unary("SIN", "int32"), _FLOATS),
            Says(lambda n: n.add_activation(n.input("int32", 2), n.member("ActivationType.SIGMOID")), _FLOATS),
            Says(lambda n: n.add_softmax(n.input("int32", 2, 2)), _FLOATS),
            Says(_pooling("int32"), _FLOATS),
            Says(_convolution("int32", (1, 1, 1, 1)), _FLOATS),
            Says(_normalization("int32"), _FLOATS),
            Says(lambda n: n.add_grid_sample(n.input("int32", 1, 1, 4, 4), n.input("int32", 1, 2, 2, 2)), _FLOATS),
            Says(_resize("int32", (1, 1, 2, 2)), _FLOATS),
        ),
    ),
    Refusal("attention is computed in floating point only", (Says(_attention(*[_HEADS] * 3, dtype="int32"), _FLOATS),)),
    Refusal("TensorRT multiplies matrices in floating point only$", (Says(_matmul("int32"), _FLOATS),)),
    Refusal("these integers make more than {} products", (Says(_matmul("int64"), "has type Int64 but must have type Float"), Bounded())),
    Refusal(
        r"TensorRT has no such operation on bool \({}\)",
        (
            Says(_reduce("bool"), "input has type Bool but must have type Float"),
            Says(_unary("ABS", "bool"), "input has type Bool but must have type Float"),
        ),
    ),
    Refusal("TensorRT casts no {}", (
        Lacks("DataType", "INT16"),
        Lacks("DataType", "DOUBLE"),
        Says(lambda n: n.add_cast(n.input("fp8", 4), n.trt.float32), "validateQuantizedTypes"),
    )),
    Refusal("TensorRT fills no {}", (Says(_fill("int8"), "only supports `output` type kINT32 / kINT64 / kFLOAT"),)),
    Refusal("TensorRT only casts uint8", (
        Says(lambda n: n.add_concatenation([n.input("uint8", 2), n.input("uint8", 2)]), "UInt8 but is not produced by"),
    )),
    Refusal("TensorRT has uint8 only for the inputs and outputs", (
        Says(_fill("uint8"), "`output` type is UInt8"),
        Says(lambda n: n.add_slice(n.input("uint8", 4), (0,), (2,), (1,)), "first input has type UInt8 but must"),
    )),
    Refusal("TensorRT has no select on uint8", (Says(_select("bool", "uint8"), "UInt8 but is not produced by"),)),
    Refusal("{} is no bool tensor", (Says(_select("int32", "float32"), "has type Int32 but must have type Bool"),)),
    Refusal("integers to a power that is negative, or varies", (Differs("POW of integers with a negative exponent"), *_UNBUILDABLE)),
    Refusal("^made for {}$", (Elsewhere("pow.Tensor_Tensor"),)),
    Refusal("an engine has one device", (Lacks("IFillLayer", "device"),)),
    Refusal("the model uses the op's reserve, which is uint8", (Says(_fill("uint8"), "`output` type is UInt8"),)),
    # ranks and shapes
    Refusal("tensors of at most 8 dims, and comparing", (_NO_DIMS_BEYOND_8,)),
    Refusal("tensors of at most {} dims, and this has {}", (_NO_DIMS_BEYOND_8,)),
    Refusal("TopK gives at most {} elements", (
        Says(lambda n: n.add_topk(n.input("float32", 1, 8000), n.member("TopKOperation.MAX"), 3841, 2), "Valid range of TopK K"),
    )),
    Refusal("the kernel's shape varies", (
        Says(_convolution("float32", (1, 1, -1, 1)), "dynamic shape is not supported for weights"),
    )),
    Refusal("TensorRT has no pooling with dilation", (Lacks("IPoolingLayer", "dilation"),)),
    Refusal("the model uses the op's {}, which", (Lacks("IPoolingLayer", "indices"), Lacks("INormalizationLayer", "mean"))),
    Refusal("^ceil_mode over a dynamic size", (Differs("average pooling that counts padding, with round-up"),)),
    Refusal("divisor_override with ceil_mode", (Differs("average pooling that counts padding, with round-up"),)),
    Refusal("a scale factor for some dims only", (
        Says(_resize("float32", (1, 1, 2)), "factors must equal to the number of input dimensions"),
    )),
    Refusal("scale factor {} of a dynamic size", (Documents("IResizeLayer", "floor(input dimension * scale)"),)),
    Refusal(r"{} \* {} is {} in torch but not in float32", (Documents("IResizeLayer", "floor(input dimension * scale)"),)),
    Refusal("negative counts with wrapping", (Differs("Slice WRAP of a cropped dim"),)),
    Refusal("it looks at place {} of memory in which the tensor", (Lacks("ITensor", "stride"),)),
    # scatter
    Refusal("scatter replaces elements; it does not accumulate", (_REPLACES,)),
    Refusal("scatter replaces elements and does not accumulate", (_REPLACES, Bounded())),
    Refusal("it replaces elements", (Elsewhere("index_put.default"),)),
    # quantisation
    Refusal("quantised to {}, and TensorRT has int8 and fp8", (
        Says(_quantize("float32", "int32"), "output has type Int32 but must have type FP8"),
            Documents("IQuantizeLayer", "must be constrained to tensorrt.int8 or tensorrt.fp8"),
    )),
    Refusal("a zero point that is not 0", (
        Says(_quantize("float32", "int8", zero_point=3), "whose coefficients aren't all zeros"), _SYMMETRIC,
    )),
    Refusal("the zero point is computed when the model runs", (_SYMMETRIC,)),
    Refusal("the scale is computed when the model runs", (_BUILD_TIME,)),
    Refusal("several scales for a tensor", (Says(_quantize("float32", "int8", [1.0, 2.0]), "ScaleMode is illegal"),)),
    Refusal("quantises a tensor that is not floating point", (
        Says(_quantize("int32", "int8"), "input has type Int32 but must have type Float"),
    )),
    Refusal("a range of {} to {} does not fit into int8", (Documents("IQuantizeLayer", "Clamping is in the range [-128, 127]"),)),
    Refusal("a scale that is not a positive number", (Differs("quantize by a scale that is not a positive number"),)),
    # fake quantisation
    Refusal("{} activations, and {} has none for {}", (Documents("IDynamicQuantizeLayer", "must be either DataType::kFP4"),)),
    Refusal("^quantises to {}, and TensorRT has {}$", (Documents("IQuantizeLayer", "supports tensorrt.int8, tensorrt.float8, tensorrt.int4"),)),
    Refusal("scales of shape {} do not fit", (Documents("IQuantizeLayer", "size of the 1-D scale tensor must match"),)),
    Refusal("blocks of a size that varies", (Documents("IDynamicQuantizeLayer", "must be divisible by the block size"), *_UNBUILDABLE)),
    Refusal("blocks whose scales are computed when the model runs", (_BUILD_TIME,)),
    Refusal("an amax that is negative or not finite", (Differs("quantize by a scale that is not a positive number"),)),
    Refusal("quantises to blocks of {}", (Documents("IDynamicQuantizeLayer", "block sizes of 16 with NVFP4 quantization and 32"),)),
    Refusal("{} is in blocks of {}, and the last dim", (Documents("IDynamicQuantizeLayer", "must be divisible by the block size"),)),
    Refusal("{} activations of {} dims", (Documents("IDynamicQuantizeLayer", "only 2D and 3D inputs are supported"),)),
    Refusal("NVFP4 with an amax that is computed", (_BUILD_TIME,)),
    Refusal("ModelOpt's format of {} bits", (_SYMMETRIC, Documents("IQuantizeLayer", "supports tensorrt.int8, tensorrt.float8, tensorrt.int4"))),
    Refusal("a product of {}, and TensorRT has int8", (_NO_UINT8, Documents("IQuantizeLayer", "8-bit signed integer"))),
    Refusal("dequantises numbers, or by scales, that are computed", (_BUILD_TIME,)),
    Refusal("ModelOpt's blocks of {}", (Documents("IDynamicQuantizeLayer", "block sizes of 16 with NVFP4 quantization and 32"),)),
    Refusal("of this kernel an engine gives the attention alone", (Lacks("IAttention", "logsumexp"), Lacks("IAttention", "random"))),
    # attention: the layer, behind which the composed converter stands
    Refusal("settings.decompose_attention is set", (_SDPA,)),
    Refusal("the shapes of query, key and value are unknown", (_SDPA, *_UNBUILDABLE)),
    Refusal("the attention layer takes tensors of four dims", (
        _SDPA, Says(_attention(*[(2, 4, 8)] * 3), "Query tensor must be 4D"),
    )),
    Refusal("values of the same size as keys", (
        _SDPA, Says(_attention(_HEADS, _HEADS, (2, 2, 4, 4)), "Key and Value must have the same shape"),
    )),
    Refusal("does not broadcast batches", (_SDPA, Says(_attention(_HEADS, *[(1, 2, 4, 8)] * 2), "Myelin"))),
    Refusal("takes a known number of heads", (
        _SDPA, Says(_attention(*[(2, -1, 4, 8)] * 3), "could not determine whether this is MHA"),
    )),
    Refusal("takes a known head size above 1", (_SDPA,)),
    Refusal("does not broadcast heads", (
        _SDPA, Says(_attention((2, 3, 4, 8), *[_HEADS] * 2), "must be divisible by key/value number of heads"),
    )),
    Refusal("no float32 that was widened", (_SDPA, Says(_attention(*[_HEADS] * 3, widened=True), "def_tactic_desc"))),
    Refusal("takes masks of at most four dims", (_SDPA, Says(_attention(*[_HEADS] * 3, mask=(1, 1, 1, 4, 4)), "mask must be a 4D tensor"))),
    Refusal("the mask is neither bool nor", (
        _SDPA, Says(_attention(*[_HEADS] * 3, dtype="float16", mask=(1, 1, 4, 4)), "differs from input 1's element type"),
    )),
    # rotary embedding
    Refusal("the rotary layer takes x of shape", (Says(_rotary("float32", "float32", (2, 3, 4)), "nbDims == 4"),)),
    Refusal("x, cosines and sines of one floating-point dtype", (
        Says(_rotary("float16", "float32", (1, 2, 3, 4)), "must have identical types"),
        Says(_rotary("int32", "int32", (1, 2, 3, 4)), _FLOATS),
    )),
    # random numbers
    Refusal("its numbers come from torch's generator", (Lacks("IFillLayer", "seed"),)),
    Refusal("has no layer that sees the bits", (Lacks("ElementWiseOperation", "NEXT"), Lacks("ElementWiseOperation", "SHIFT"))),
    Refusal("for which the program would have to stop", (Unbuildable("Python number"),)),
    # the model in training mode
    *(
        Refusal(reason, (Training(),))
        for reason in (
            "its slopes are random in training mode", "attention with dropout is random",
            "training mode updates the running statistics", "dropout in training mode is random",
        )
    ),
    Refusal("what embedding_bag keeps for its gradient", (Unbuildable("gradient"),)),
    # what the engine would have to know before it runs
    *(
        Refusal(reason, _UNBUILDABLE)
        for reason in (
            "{} varies from call to call, and TensorRT wants it fixed", "the size of a head varies", "how many elements come together",
            "the length of the range is unknown", "a range of varying length", "{} varies from call to call, and the numbers are made",
            "the shapes of weight, indices and offsets are unknown", "a table whose length varies", "the diagonal of a matrix whose size",
            "its sizes or strides vary", "the memory of a tensor that is part of a larger one", "the dim to unfold, or the windows, vary",
            "how many pairs there are varies", "the shape of the result depends on data", "the normalised shape varies",
            "adaptive pooling from a dynamic size", "antialiased resizing of a dynamic size", "the rotated part of a head varies",
            "how many elements are written depends on data", "where each goes depends on data", "where to write varies",
            "the size of the dim that is written to varies", "how often to repeat varies", "how many parts there are is unknown",
            "a roll along a dim whose size varies", "the size varies from call to call, and the windows", "the output size varies",
            "the size of its result depends on the data",
        )
    ),
    # bounds of the pack's own
    *(
        Refusal(reason, (Bounded(),))
        for reason in ("the windows have more than {} elements", "adaptive max pooling from {} to {}")
    ),
    Refusal("there are no windows", (Unbuildable("no windows"),)),
    # recurrence and loops
    Refusal("dropout between the layers is random", (Training(),)),
    Refusal("the loop of a GRU of hidden size {}", (Bounded(),)),
    Refusal("{} steps of all layers and directions are written out", (Bounded(),)),
    Refusal("the loop writes to its arguments", (Lacks("ILoop", "write"),)),
    Refusal("an int that the loop carries is used behind it", _UNBUILDABLE),
    # mixtures of experts
    Refusal("the number of rows has no upper bound", _UNBUILDABLE),
    Refusal("every expert on every row \\({} rows", (Bounded(), Lacks("INetworkDefinition", "grouped"))),
    Refusal("a product by groups without offsets", (Lacks("INetworkDefinition", "grouped"),)),
    Refusal("rows of several experts are", (Lacks("INetworkDefinition", "grouped"),)),
    Refusal("a product by groups with a bias", (Lacks("INetworkDefinition", "grouped"),)),
    Refusal("rows of {} and weights of {}", (Lacks("DataType", "DOUBLE"),)),
)  # fmt: skip

WORKED_AROUND: tuple[tuple[str, Says], ...] = (
    ("bitwise_and and its like are arithmetic", Says(_binary("AND", "int32"), "AND requires boolean inputs")),
    (
        "nonzero stays in torch",
        Says(lambda n: n.add_non_zero(n.input("bool", 4), n.trt.int64), "has no runners"),
    ),
)
"""What else the pack relies on TensorRT to refuse: (what for, the network)."""


# ---- asking TensorRT ---------------------------------------------------------------------------------------


def said(make: Callable[[Net], Any], backend: Any) -> str | None:
    """What TensorRT says on refusing the network; None when it builds it."""
    trt, logger = backend.trt, backend.make_logger()
    builder = backend.make_builder(logger)
    network = backend.create_network(builder)
    raised = ""
    try:
        layer = make(Net(network, trt))
        output = layer.get_output(0)
        _ = output.shape  # which is when TensorRT looks at types and shapes
        network.mark_output(output)
        if builder.build_serialized_network(network, _config(builder, network)) is not None:
            return None
    except (
        AttributeError,
        RuntimeError,
        TypeError,
    ) as error:  # no layer; its shape; arguments that do not fit
        raised = str(error)
    return "\n".join([*logger.errors(), raised])


def _config(builder: Any, network: Any) -> Any:
    """A config with a profile for the dims that are -1."""
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for i in range(network.num_inputs):
        x = network.get_input(i)
        if -1 in tuple(x.shape):
            profile.set_shape(x.name, *(tuple(size if d == -1 else d for d in x.shape) for size in (1, 2, 4)))
            config.add_optimization_profile(profile)
    return config


# ---- what the validators say -------------------------------------------------------------------------------


def reasons() -> Iterator[tuple[str, str]]:
    """(file:line, text) of every `Reject` in the pack's code, {} for what is filled in."""
    for path in sorted(PACK.rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Reject":
                yield f"{path.name}:{node.lineno}", _text(node.args[0], constants)


def _text(node: ast.expr, constants: dict[str, ast.expr]) -> str:
    """The text of an expression; {} for a variable, which `refusals.REFUSED` has the values of."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, constants) for part in node.values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        assert isinstance(node.func.value, ast.Name)
        return _text(constants[node.func.value.id], constants)
    return "{}"


def matching(text: str) -> list[Refusal]:
    """The rows for a reason."""
    return [row for row in REFUSALS if re.search(row.reason.replace("{}", r"\{\}"), text)]
