"""Which ops a graph from a file may call: a reviewed rule, as data.

Of torch's own ops those may that compute something from their arguments, and change nothing but them. By kinds:

- A public op of plain arguments that takes a tensor may be there, unless `REFUSED` names it.
- An op that takes no tensor (`FACTORIES`), that takes a text (`TEXTS`), or that is private to torch (`PRIVATE`, names
  that start with an underscore) must be named here. One that a later torch brings is so refused until it is reviewed.
- An op whose arguments or results are of a type beyond `PLAIN_TYPES` (streams, storages, generators that must be given,
  objects, anything at all) may not.

Of ops that others have registered, those may that make or change a value, and are given no text, since a text can be
the name of a file. Whoever registered them answers for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

OURS = frozenset(
    {
        "trtcore.execute_engine.default", "trtcore.functional_write.default", "trtcore.require.default",
        "trtcore.restride.default",
    }
)  # fmt: skip

TORCH = frozenset({"aten", "prims", "quantized_decomposed"})
"""Torch's own namespaces that a saved graph may call by the rule."""

REFUSED_NAMESPACES = frozenset(
    {
        "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "_inductor_test", "_native",
        "_quantized", "_test", "c10d", "c10d_functional", "coor", "cuda", "debug_mode_ops", "debugprims", "export",
        "flex_lib", "fsdp", "inductor", "inductor_prims", "mempool", "metal", "metal_prepacked", "mkl", "mkldnn",
        "mkldnn_prepacked", "onednn", "onnx", "onnx_symbolic", "prepacked", "prim", "profiler",
        "quantization", "quantized", "rngprims", "rpc", "sparse", "static_runtime", "streams", "symm_mem",
        "vulkan", "vulkan_prepacked", "vulkan_quantized", "xnnpack",
    }
)  # fmt: skip
"""Torch's own namespaces that one may not: files, processes, devices, raw memory, packed objects, tests."""

COLLECTIVES = frozenset(
    f"_c10d_functional.{name}.default"
    for name in (
        "all_gather_into_tensor",
        "all_reduce",
        "all_to_all_single",
        "reduce_scatter_tensor",
        "wait_tensor",
    )
)
"""What tensor parallel graphs call: allowed in a program that has made a process group, and refused in all others. They
reach the ranks of such a group by its name, and make none; the texts are that name and the word for a reduction
(`COLLECTIVE_TEXT`)."""

COLLECTIVE_TEXT = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")

PLAIN_TYPES = re.compile(
    r"(Tensor|int|bool|float|complex|number|str|Device|NoneType|QScheme)\Z"
    r"|(Optional|List)\[(Optional\[)?(Tensor|int|bool|float|complex|number|str|Device|List\[(int|float|Optional\[Tensor\])\])"
    r"\]{1,2}\Z|Optional\[Generator\]\Z"
)

REFUSED = frozenset(
    {
        # other memory, or what a tensor is for everybody who holds it
        "set", "set_", "set_data", "data", "resize", "resize_", "resize_as", "resize_as_", "resize_as_sparse",
        "resize_as_sparse_", "sparse_resize", "sparse_resize_", "sparse_resize_and_clear", "sparse_resize_and_clear_",
        "requires_grad_", "retain_grad", "as_strided_", "pin_memory", "is_pinned", "record_stream", "from_file", "save",
        "shallow_copy_data_",
        # packed memory, which these kernels take at its word
        "fbgemm_linear_fp16_weight", "fbgemm_linear_fp16_weight_fp32_activation", "fbgemm_linear_int8_weight",
        "fbgemm_linear_int8_weight_fp32_activation", "fbgemm_linear_quantize_weight", "fbgemm_pack_gemm_matrix_fp16",
        "fbgemm_pack_quantized_matrix", "quantized_gru", "quantized_gru_cell", "quantized_lstm", "quantized_lstm_cell",
        "quantized_rnn_relu_cell", "quantized_rnn_tanh_cell", "mkldnn_rnn_layer", "mkldnn_rnn_layer_backward",
        "mkldnn_convolution", "mkldnn_linear", "mkldnn_linear_backward", "mkldnn_linear_backward_input",
        "mkldnn_linear_backward_weights", "mkldnn_reorder_conv2d_weight", "mkldnn_reorder_conv3d_weight",
        "mkldnn_adaptive_avg_pool2d", "mkldnn_adaptive_avg_pool2d_backward", "mkldnn_max_pool2d",
        "mkldnn_max_pool2d_backward", "mkldnn_max_pool3d", "mkldnn_max_pool3d_backward", "to_mkldnn",
        "to_mkldnn_backward", "miopen_rnn", "miopen_rnn_backward",
        # places in memory, which these kernels do not all look at
        "adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward", "fractional_max_pool2d_backward",
        "fractional_max_pool3d_backward", "max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward",
        "embedding_dense_backward", "embedding_sparse_backward", "embedding_backward",
        # tokens of effects
        "_make_token", "_sink_tokens",
    }
)  # fmt: skip
"""Of public ops: by what they reach for."""

STATISTICS = {"batch_norm": "training", "instance_norm": "use_input_stats"}
"""Composite ops that write to the arguments `running_mean` and `running_var` where the argument of this name is true,
of which their schemas say nothing."""

COMPUTING = frozenset(
    {
        "batch_norm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
        "cosine_similarity", "cross_entropy_loss", "embedding", "group_norm", "gru", "instance_norm", "layer_norm",
        "linear", "lstm", "matmul", "max_pool1d", "max_pool2d", "max_pool3d", "rms_norm", "rnn_relu", "rnn_tanh",
        "scaled_dot_product_attention", "silu", "softmax", "log_softmax", "logsumexp",
    }
)  # fmt: skip
"""Composite ops whose result is memory of its own, whatever they are given: to run them again would cost the most."""

FACTORIES = frozenset(
    {
        "_assert_scalar", "_functional_assert_scalar", "_efficientzerotensor", "arange", "bartlett_window",
        "blackman_window", "can_cast", "empty", "empty_permuted", "empty_strided", "eye", "fft_fftfreq",
        "fft_rfftfreq", "full", "hamming_window", "hann_window", "iota", "kaiser_window", "linspace", "logspace",
        "maximum_value", "minimum_value", "normal", "ones", "promote_types", "rand", "randint", "randn", "randperm",
        "range", "result_type", "scalar_tensor", "sym_constrain_range", "sym_constrain_range_for_size", "tril_indices",
        "triu_indices", "zeros",
    }
)  # fmt: skip
"""Ops that take no tensor."""

TEXTS = frozenset(
    {
        "_assert_async", "_assert_scalar", "_convolution_mode", "_functional_assert_async",
        "_functional_assert_scalar", "_linalg_eigh", "_linalg_svd", "_sparse_mm_reduce_impl", "conv1d", "conv2d",
        "conv3d", "div", "div_", "divide", "divide_", "einsum", "fft_fft", "fft_fft2", "fft_fftn", "fft_hfft",
        "fft_hfft2", "fft_hfftn", "fft_ifft", "fft_ifft2", "fft_ifftn", "fft_ihfft", "fft_ihfft2", "fft_ihfftn",
        "fft_irfft", "fft_irfft2", "fft_irfftn", "fft_rfft", "fft_rfft2", "fft_rfftn", "gelu", "gelu_",
        "gelu_backward", "index_reduce", "index_reduce_", "linalg_cond", "linalg_eigh", "linalg_eigvalsh",
        "linalg_lstsq", "linalg_matrix_norm", "linalg_norm", "linalg_qr", "linalg_svd", "linalg_svdvals", "meshgrid",
        "nanquantile", "pad", "pad_sequence", "quantile", "scatter", "scatter_", "scatter_reduce", "scatter_reduce_",
        "searchsorted", "stft",
    }
)  # fmt: skip
"""Ops that take a text: the word for a mode, an equation, the message of an assertion. No path."""

PRIVATE = frozenset(
    {
        "__and__", "__iand__", "__ilshift__", "__ior__", "__irshift__", "__ixor__", "__lshift__", "__or__",
        "__rshift__", "__xor__", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_add_batch_dim", "_add_relu",
        "_addmm_activation", "_aminmax", "_assert_async", "_assert_scalar", "_assert_tensor_metadata",
        "_batch_norm_no_update", "_batch_norm_with_update", "_batch_norm_with_update_functional", "_cdist_forward",
        "_conj", "_conj_physical", "_convolution", "_convolution_mode", "_dim_arange", "_efficient_attention_forward",
        "_efficientzerotensor", "_embedding_bag", "_embedding_bag_forward_only", "_euclidean_dist", "_fft_c2c",
        "_fft_c2r", "_fft_r2c", "_flash_attention_forward", "_functional_assert_async", "_functional_assert_scalar",
        "_functional_sym_constrain_range", "_functional_sym_constrain_range_for_size", "_fused_rms_norm", "_grouped_mm",
        "_int_mm", "_is_all_true", "_is_any_true", "_linalg_det", "_linalg_eigh", "_linalg_eigvals", "_linalg_slogdet",
        "_linalg_solve_ex", "_linalg_svd", "_local_scalar_dense", "_log_softmax", "_logcumsumexp", "_masked_softmax",
        "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training",
        "_native_multi_head_attention", "_neg_view", "_pack_padded_sequence", "_pad_circular", "_pad_enum",
        "_pad_packed_sequence", "_pdist_forward", "_prelu_kernel", "_remove_batch_dim", "_reshape_from_tensor",
        "_safe_softmax", "_sample_dirichlet", "_scaled_dot_product_attention_math",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_fused_attention_overrideable", "_scaled_grouped_mm", "_scaled_mm", "_shape_as_tensor",
        "_softmax", "_stack", "_standard_gamma", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "_to_copy",
        "_transform_bias_rescale_qkv", "_transformer_encoder_layer_fwd", "_trilinear", "_unique", "_unique2",
        "_unsafe_index", "_unsafe_index_put", "_unsafe_masked_index", "_unsafe_masked_index_put_accumulate",
        "_unsafe_view", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "_upsample_lanczos2d_aa",
        "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "_weight_int8pack_mm",
        "_weight_norm", "_weight_norm_interface",
    }
)  # fmt: skip
"""Private ops that torch.export or a decomposition leaves in graphs."""

# The ops on lists of tensors that an optimiser's step is made of.
_PRIVATE_FAMILIES = re.compile(r"_foreach_\w+\Z")

MAX_TEXT = 4096


def texts_are_data(op: torch._ops.OpOverload) -> None:
    """Say of an op of your own that it reads the texts that it is given as data, and checks them: no path, no code.

    A saved module may hold calls of it that are given texts; without this such a module is refused.
    """
    _texts_are_data.add(str(op))


_texts_are_data: set[str] = set()


def refuse_op(op: torch._ops.OpOverload, texts: Sequence[str] = ()) -> str:
    """Why an op that is given these texts may not be in a saved graph; "" if it may."""
    if str(op) in COLLECTIVES and _has_process_group():
        odd = [text for text in texts if not COLLECTIVE_TEXT.match(text)]
        return f"{op} is given the text {_short(odd[0])}" if odd else ""
    problem = _refused(op)
    if not problem and texts and str(op) not in OURS | _texts_are_data:
        if op.namespace not in TORCH:
            return f"{op} is not torch's own and is given the text {_short(texts[0])}"
        if _packet(op) not in TEXTS or max(map(len, texts)) > MAX_TEXT:
            return f"{op} is given the text {_short(texts[0])}"
    return problem


def _has_process_group() -> bool:
    """Whether this program has made a process group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@lru_cache(maxsize=4096)
def _refused(op: torch._ops.OpOverload) -> str:
    """Why, whatever it is given."""
    if str(op) in OURS:
        return ""
    if op.namespace in REFUSED_NAMESPACES or op.namespace == "trtcore":
        return f"{op} is of a namespace that no saved graph calls"
    if op.namespace in TORCH:
        return _refused_of_torch(op)
    if not op._schema.returns and not any(_is_written(argument) for argument in op._schema.arguments):
        return f"{op} makes nothing and changes none of its arguments"
    return ""


def _refused_of_torch(op: torch._ops.OpOverload) -> str:
    packet, schema = _packet(op), op._schema
    odd = [str(value.type) for value in (*schema.arguments, *schema.returns) if not is_plain(value.type)]
    if packet in REFUSED:
        return f"{op} reaches beyond its arguments"
    if odd:
        return f"{op} takes or makes a {odd[0]}"
    if op.namespace == "quantized_decomposed":
        return ""
    types = [str(argument.type) for argument in schema.arguments]
    if not any("Tensor" in one for one in types) and packet not in FACTORIES:
        return f"{op} takes no tensor, and is not among the reviewed ops that do not"
    if packet.startswith("_") and packet not in PRIVATE and not _PRIVATE_FAMILIES.match(packet):
        return f"{op} is private to torch, and is not among the reviewed ones"
    return ""


def is_plain(kind: Any) -> bool:
    """Whether a type in a schema is one of values: tensors, numbers, texts, lists of these."""
    return bool(PLAIN_TYPES.match(str(kind)))


def _packet(op: torch._ops.OpOverload) -> str:
    return op._schema.name.partition("::")[2]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
