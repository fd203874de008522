"""Which operator of `op_db` belongs to which family, and which are left out, with the reason.

Every operator must be in exactly one place (a test says so), so that a new one in a later torch is noticed.
"""

from __future__ import annotations

import functools

FAMILIES: dict[str, str] = {
    "elementwise": """add sub mul div true_divide rsub floor_divide remainder fmod pow float_power __radd__ __rsub__ __rmul__
        __rdiv__ __rmod__ __rpow__ addcmul addcdiv lerp maximum minimum fmax fmin atan2 hypot copysign heaviside logaddexp
        logaddexp2 xlogy special.xlog1py ldexp gcd lcm nextafter clamp clamp_max clamp_min dist cross linalg.cross
        masked.logaddexp""",
    "comparison": """eq ne lt le gt ge isclose isin isfinite isinf isnan isneginf isposinf isreal signbit
        where""",
    "bitwise and logical": """bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift __rand__
        __ror__ __rxor__ logical_and logical_or logical_xor logical_not""",
    "unary": """abs neg positive sign sgn ceil floor round trunc frac exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square
        reciprocal sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc erfinv sinc deg2rad rad2deg
        nan_to_num logit digamma lgamma mvlgamma special.entr special.erfcx special.ndtr
        special.log_ndtr special.ndtri i0 special.i0e special.i1 special.i1e
        special.modified_bessel_i0 special.modified_bessel_i1 special.modified_bessel_k0 special.modified_bessel_k1
        special.scaled_modified_bessel_k0 special.scaled_modified_bessel_k1 special.spherical_bessel_j0
        frexp angle conj conj_physical real resolve_conj resolve_neg""",
    "activation": """sigmoid nn.functional.celu nn.functional.elu nn.functional.gelu nn.functional.glu
        nn.functional.hardshrink nn.functional.hardsigmoid nn.functional.hardswish nn.functional.hardtanh
        nn.functional.leaky_relu nn.functional.logsigmoid nn.functional.mish nn.functional.prelu nn.functional.relu
        nn.functional.relu6 nn.functional.rrelu nn.functional.selu nn.functional.silu nn.functional.softplus
        nn.functional.softshrink nn.functional.softsign nn.functional.tanhshrink nn.functional.threshold""",
    "cast and copy": """bool byte char short int long half bfloat16 float double to clone contiguous fill zero_""",
    "creation": """arange empty empty_like empty_permuted empty_strided eye full full_like linspace logspace new_empty
        new_empty_strided new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like tril_indices triu_indices
        signal.windows.bartlett signal.windows.blackman signal.windows.cosine signal.windows.exponential
        signal.windows.gaussian signal.windows.general_cosine signal.windows.general_hamming signal.windows.hamming
        signal.windows.hann signal.windows.kaiser signal.windows.nuttall linalg.vander""",
    "reduction": """sum mean prod amax amin max min all any std std_mean var var_mean nansum nanmean count_nonzero logsumexp
        norm linalg.vector_norm aminmax masked.amax masked.amin masked.logsumexp masked.mean masked.norm masked.prod
        masked.std masked.sum masked.var trace sum_to_size linalg.norm linalg.matrix_norm
        masked.normalize nn.functional.normalize median nanmedian mode kthvalue quantile nanquantile masked.median
        histc renorm""",
    "cumulative": """cumsum cumprod cummax cummin logcumsumexp cumulative_trapezoid trapezoid trapz diff gradient masked.cumsum
        masked.cumprod""",
    "sorting": """sort argsort msort topk argmax argmin masked.argmax masked.argmin searchsorted
        bucketize""",
    "softmax": """softmax log_softmax nn.functional.softmin masked.softmax masked.log_softmax masked.softmin
        torch.ops.aten._safe_softmax.default""",
    "loss": """nn.functional.binary_cross_entropy nn.functional.binary_cross_entropy_with_logits
        nn.functional.cosine_embedding_loss nn.functional.cross_entropy
        nn.functional.hinge_embedding_loss nn.functional.huber_loss nn.functional.kl_div nn.functional.l1_loss
        nn.functional.margin_ranking_loss nn.functional.mse_loss nn.functional.multi_margin_loss
        nn.functional.multilabel_margin_loss nn.functional.multilabel_soft_margin_loss nn.functional.nll_loss
        nn.functional.poisson_nll_loss nn.functional.smooth_l1_loss nn.functional.soft_margin_loss
        nn.functional.triplet_margin_loss nn.functional.triplet_margin_with_distance_loss nn.functional.linear_cross_entropy
        nn.functional.cosine_similarity nn.functional.pairwise_distance""",
    "view and shape": """H T mH mT alias_copy as_strided as_strided_copy atleast_1d atleast_2d atleast_3d broadcast_tensors
        broadcast_to chunk column_stack dsplit dstack expand expand_as expand_copy flatten flip fliplr flipud hsplit hstack
        movedim narrow narrow_copy permute permute_copy ravel repeat reshape reshape_as roll rot90 split split_with_sizes
        split_with_sizes_copy squeeze squeeze_copy stack t t_copy tensor_split tile transpose transpose_copy unbind
        unbind_copy unflatten unfold unfold_copy unsafe_chunk unsafe_split unsqueeze unsqueeze_copy view view_as view_copy
        vsplit vstack cat block_diag cartesian_prod combinations meshgrid diag diag_embed diagflat diagonal diagonal_copy
        linalg.diagonal tril triu repeat_interleave _chunk_cat broadcast_shapes resize_ resize_as_
        fft.fftshift fft.ifftshift""",
    "gather, scatter and index": """__getitem__ _unsafe_masked_index _unsafe_masked_index_put_accumulate gather index_add
        index_copy index_fill index_put index_reduce index_select masked_fill masked_scatter masked_select put scatter
        scatter_add scatter_reduce select select_scatter slice slice_scatter as_strided_scatter diagonal_scatter take
        take_along_dim nonzero nonzero_static argwhere unravel_index nn.functional.one_hot""",
    "linear": """__rmatmul__ addbmm addmm addmv addr baddbmm bmm dot einsum inner kron linalg.matrix_power linalg.multi_dot
        linalg.vecdot matmul mm mv nn.functional.bilinear nn.functional.linear outer tensordot vdot cdist
        nn.functional.pdist torch._scaled_mm torch._scaled_mm_v2""",
    "embedding": "nn.functional.embedding nn.functional.embedding_bag",
    "attention": """nn.functional.scaled_dot_product_attention nn.functional.multi_head_attention_forward
        torch.ops.aten._efficient_attention_forward torch.ops.aten._flash_attention_forward""",
    "normalisation": """_batch_norm_with_update _native_batch_norm_legit native_batch_norm native_group_norm native_layer_norm
        nn.functional.batch_norm nn.functional.group_norm nn.functional.instance_norm nn.functional.layer_norm
        nn.functional.local_response_norm nn.functional.rms_norm""",
    "convolution": """nn.functional.conv1d nn.functional.conv2d nn.functional.conv3d nn.functional.conv_transpose1d
        nn.functional.conv_transpose2d nn.functional.conv_transpose3d nn.functional.unfold""",
    "pooling": """nn.functional.adaptive_avg_pool1d nn.functional.adaptive_avg_pool2d nn.functional.adaptive_avg_pool3d
        nn.functional.adaptive_max_pool1d nn.functional.adaptive_max_pool2d nn.functional.adaptive_max_pool3d
        nn.functional.avg_pool1d nn.functional.avg_pool2d nn.functional.avg_pool3d nn.functional.max_pool1d
        nn.functional.max_pool2d nn.functional.max_pool3d nn.functional.max_unpool1d nn.functional.max_unpool2d
        nn.functional.max_unpool3d""",
    "padding": "constant_pad_nd nn.functional.pad",
    "resize and grid": """_upsample_bilinear2d_aa grid_sampler_2d grid_sampler_3d nn.functional.grid_sample
        nn.functional.interpolate nn.functional.upsample_bilinear nn.functional.upsample_nearest nn.functional.pixel_shuffle
        nn.functional.pixel_unshuffle nn.functional.channel_shuffle""",
}

LEFT_OUT: dict[str, str] = {
    "gives a Python value, or asks for one on the way (are these equal? is one negative?), where every traced program ends": """equal allclose item cov corrcoef
        nn.functional.gaussian_nll_loss""",
    "the size of the result depends on the data, and RTX has no kernel for NonZero": """bincount unique
        unique_consecutive""",
    "draws random numbers, which come from torch's generator": """rand_like randint randint_like randn randn_like bernoulli
        cauchy exponential geometric log_normal normal uniform multinomial nn.functional.alpha_dropout nn.functional.dropout
        nn.functional.dropout2d nn.functional.dropout3d nn.functional.feature_alpha_dropout
        nn.functional.fractional_max_pool2d nn.functional.fractional_max_pool3d pca_lowrank svd_lowrank""",
    "complex numbers, which are pairs of real ones in engines (tests/converters/test_complex.py)": """cdouble cfloat chalf complex polar imag view_as_complex view_as_real stft istft
        fft.fft fft.fft2 fft.fftn fft.hfft fft.hfft2 fft.hfftn fft.ifft fft.ifft2 fft.ifftn
        fft.ihfft fft.ihfft2 fft.ihfftn fft.irfft fft.irfft2 fft.irfftn fft.rfft fft.rfft2 fft.rfftn""",
    "matrix decompositions and solvers, some of which are written out for few rows (tests/converters/test_decompositions_linalg.py)": """cholesky cholesky_inverse cholesky_solve geqrf
        linalg.cholesky linalg.cholesky_ex linalg.cond linalg.det linalg.eig linalg.eigh linalg.eigvals linalg.eigvalsh
        linalg.householder_product linalg.inv linalg.inv_ex linalg.ldl_factor linalg.ldl_factor_ex linalg.ldl_solve
        linalg.lstsq linalg.lu linalg.lu_factor linalg.lu_factor_ex linalg.lu_solve linalg.matrix_rank
        linalg.matrix_sqrth linalg.pinv linalg.polar linalg.qr
        linalg.slogdet linalg.solve linalg.solve_ex linalg.solve_triangular linalg.svd linalg.svdvals linalg.tensorinv
        linalg.tensorsolve logdet lu lu_solve lu_unpack matrix_exp ormqr pinverse qr svd triangular_solve""",
    "new in torch 2.14, and not run": "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
    "recurrences of as many steps as their order, which is a tensor": """special.chebyshev_polynomial_t
        special.chebyshev_polynomial_u special.chebyshev_polynomial_v special.chebyshev_polynomial_w
        special.hermite_polynomial_h special.hermite_polynomial_he special.laguerre_polynomial_l
        special.legendre_polynomial_p special.shifted_chebyshev_polynomial_t special.shifted_chebyshev_polynomial_u
        special.shifted_chebyshev_polynomial_v special.shifted_chebyshev_polynomial_w""",
    "special functions without a layer, which oscillate, or have two arguments: no polynomial of one variable does": """
        special.airy_ai special.bessel_j0 special.bessel_j1 special.bessel_y0 special.bessel_y1
        special.polygamma polygamma special.zeta igamma igammac""",
    "part of a backward pass, which engines have not": "_softmax_backward_data max_pool2d_with_indices_backward native_dropout_backward",
    "sparse and segmented tensors": "sparse.mm sparse.sampled_addmm to_sparse _segment_reduce",
    "kernels written for CUDA at run time": """jiterator_2inputs_2outputs jiterator_4inputs_with_extra_args jiterator_binary
        jiterator_binary_return_by_ref jiterator_unary""",
    "statistics and dynamic programmes of no layer": "histogram histogramdd hash_tensor nn.functional.ctc_loss",
}
"""Why -> operators that no converter is meant for. They are on no family's account."""


@functools.lru_cache(maxsize=1)
def family_of() -> dict[str, str]:
    """Operator -> family."""
    return {op: family for family, names in FAMILIES.items() for op in names.split()}


@functools.lru_cache(maxsize=1)
def left_out() -> dict[str, str]:
    """Operator -> why it is left out."""
    return {op: why for why, names in LEFT_OUT.items() for op in names.split()}
