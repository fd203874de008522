"""Complex numbers as pairs of real ones: which stay in one engine, with torch's numbers; which stay complex, and why."""

from __future__ import annotations

import pytest
import torch
from pass_helpers import after, module_of, snapshots, types
from torch import nn

import trtcore
from trtcore.ir.output_views import views_are_computed

OPTIONS = {"min_block_size": 1, "runtime": "reference"}
BORDER = {"aten.resolve_conj.default", "aten.view_as_real.default", "aten.view_as_complex.default"}


def numbers(*shape: int, dtype: torch.dtype = torch.complex64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


Z, W = numbers(3, 4), numbers(3, 4, seed=1)
R, S = numbers(3, 4, dtype=torch.float32), numbers(3, 4, dtype=torch.float32, seed=1)


def checked(run, *inputs, given=None, rtol=1e-4, atol=1e-5, engines=1, **settings):
    """A compiled function in one engine, with nothing but the border in torch; its numbers are eager's."""
    module = module_of(run).eval().requires_grad_(False)
    with views_are_computed():
        compiled = trtcore.compile(
            module,
            inputs=list(given or inputs),
            require_full_compilation=engines == 1,
            **{**OPTIONS, **settings},
        )
    same(compiled, module, *inputs, rtol=rtol, atol=atol)
    left = {node.op for node in compiled.report.nodes if not node.in_engine}
    if engines == 1:
        assert left <= BORDER | {"aten.permute.default", "aten._to_copy.default"}
        assert len(list(snapshots(compiled))) == 1
    return compiled


def same(compiled, module, *inputs, rtol=1e-4, atol=1e-5):
    wants, gots = module(*inputs), compiled(*inputs)
    pairs = zip(wants, gots) if isinstance(wants, tuple) else [(wants, gots)]
    for want, got in pairs:
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


# ---- a rotary embedding ------------------------------------------------------------------------------------


def rotations(size: int, length: int) -> torch.Tensor:
    steps = 1.0 / (10000.0 ** (torch.arange(0, size, 2).float() / size))
    angles = torch.outer(torch.arange(length).float(), steps)
    return torch.polar(torch.ones_like(angles), angles)


class Rotary(nn.Module):
    """Attention whose queries and keys are turned as complex numbers."""

    def __init__(self, made_inside: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.made_inside = made_inside
        self.register_buffer("freqs_cis", rotations(8, 32), persistent=False)

    def turned(self, x, freqs):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * freqs.view(1, x.shape[1], 1, 4)).flatten(3).type_as(x)

    def forward(self, x):
        batch, length, _ = x.shape
        freqs = (rotations(8, 32) if self.made_inside else self.freqs_cis)[:length]
        q, k, v = (one(x).view(batch, length, 2, 8) for one in (self.q, self.k, self.v))
        q, k = self.turned(q, freqs), self.turned(k, freqs)
        y = nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        return self.o(y.transpose(1, 2).reshape(batch, length, 16))


@pytest.mark.parametrize("made_inside", [False, True])
def test_a_rotary_embedding_of_complex_numbers_is_no_cut(made_inside):
    lengths = trtcore.Input(min_shape=(1, 2, 16), opt_shape=(2, 8, 16), max_shape=(3, 32, 16))
    model = Rotary(made_inside).eval().requires_grad_(False)
    compiled = checked(model, numbers(2, 8, 16, dtype=torch.float32), given=[lengths])
    for shape in ((1, 2, 16), (3, 32, 16)):
        same(compiled, model, numbers(*shape, dtype=torch.float32))
    assert not [node for node in compiled.report.nodes if not node.in_engine]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_rotary_embedding_in_half_precision(dtype):
    x = numbers(2, 8, 16, dtype=torch.float32).to(dtype)
    model = Rotary()
    for one in (model.q, model.k, model.v, model.o):
        one.to(dtype)
    checked(model, x, rtol=5e-2, atol=2e-2)


def test_a_rotary_embedding_under_torch_compile():
    model = Rotary().eval().requires_grad_(False)
    compiled = torch.compile(model, backend="trtcore", options={**OPTIONS, "require_full_compilation": True})
    same(compiled, model, numbers(2, 8, 16, dtype=torch.float32))


# ---- ops ---------------------------------------------------------------------------------------------------

OPS = {
    "parts": lambda z, w: (z.real, z.imag, z.abs(), z.angle(), z.conj()),
    "products": lambda z, w: (z * w, z * w.conj(), z * 2, z * 2j, z * (1 + 2j), z * w.real, w.imag * z),
    "sums": lambda z, w: (z + w, z + 1, 1 - z, z - 2j, z + w.real, torch.add(z, w, alpha=2), z.real + 1j),
    "quotients": lambda z, w: (z / w, z / 2, 1 / z, z / w.abs(), z.reciprocal(), z.sgn()),
    "functions": lambda z, w: (z.exp(), z.log(), z.sqrt(), (z * 1j).exp(), z.log10()),
    "waves": lambda z, w: (z.sin(), z.cos(), z.sinh(), z.cosh()),
    "powers": lambda z, w: (z**2, z**3, z**-1, z**0.5, z**1.5, z.square()),
    "comparisons": lambda z, w: (z == w, z != w, z == 1, torch.isnan(z)),
    "statistics": lambda z, w: (z.sum(), z.mean(0), z.std(1), z.var(), torch.linalg.norm(z), z.cumsum(1)),
    "products of matrices": lambda z, w: (z @ w.mT, z.mH @ w, torch.einsum("ij,kj->ik", z, w)),
    "norms": lambda z, w: (nn.functional.normalize(z, dim=1), z.abs().expand_as(w), torch.linalg.vector_norm(z, 1, 0)),
    "layers": lambda z, w: (nn.functional.linear(z, w, z[:, 0]), torch.addmm(z @ z.mT, z, w.mT, beta=2)),
    "views": lambda z, w: (z.reshape(2, 6), z.mT, z[:, 1:3], z[0], z.flatten(), z.unsqueeze(1).expand(3, 2, 4)),
    "parts of tensors": lambda z, w: (*z.split(2, 1), *w.unbind(0), torch.cat([z, w.real], 1), z.roll(1, 0)),
    "choices": lambda z, w: (torch.where(z.real > 0, z, w), z.masked_fill(w.real > 0, 1j), z.index_select(0, I)),
    "made": lambda z, w: (torch.zeros(3, 4, dtype=z.dtype) + z, torch.full_like(z, 1 + 2j), torch.ones_like(z) * w),
    "casts": lambda z, w: (z.real.to(torch.complex64) * w, torch.polar(z.abs(), w.real), torch.complex(z.real, w.imag)),
    "written": lambda z, w: (z.clone().mul_(w), torch.zeros(3, 4, dtype=z.dtype).index_put((I,), z[:2])),
    "views as real": lambda z, w: (torch.view_as_real(z * w), (z * w).view(torch.float32)),
    "pads": lambda z, w: (nn.functional.pad(z, (1, 2)), nn.functional.pad(z * 2, (1, 0), value=3)),
}  # fmt: skip
I = torch.tensor([2, 0])  # noqa: E741


@pytest.mark.parametrize("name", OPS)
def test_ops(name):
    checked(OPS[name], Z, W)


@pytest.mark.parametrize("name", ["products", "quotients", "views", "views as real"])
def test_ops_of_dynamic_sizes(name):
    run = (lambda z, w: (z.mT, z[:, 1:3], z.flatten())) if name == "views" else OPS[name]
    given = [trtcore.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(8, 4), dtype=torch.complex64)] * 2
    module = module_of(run)
    compiled = checked(run, Z, W, given=given)
    same(compiled, module, numbers(8, 4), numbers(8, 4, seed=1))


def test_convolutions_of_complex_numbers():
    convolution = nn.Conv1d(2, 3, 3, padding=1, dtype=torch.complex64)
    checked(convolution, numbers(2, 2, 8))


def test_the_square_root_and_the_quotient_at_the_edges():
    z = torch.complex(
        torch.tensor([4.0, -4, 0, -4, 0, 1e30, 1e-30]), torch.tensor([0.0, 0, 0, -1e-3, 2, 1e30, 1e-30])
    )
    checked(lambda z: (z.sqrt(), z.abs()), z, rtol=1e-5, atol=1e-6)
    checked(lambda z: (1 / z, z / (z * 2)), z[[0, 1, 3, 4]], rtol=1e-5, atol=0)


# ---- the border --------------------------------------------------------------------------------------------


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
        self.register_buffer("seen", torch.zeros(3, 4, dtype=torch.complex64))

    def forward(self, z):
        self.seen.copy_(self.seen + z)
        return z @ self.weight, self.seen.abs()


def test_weights_buffers_that_are_written_and_lazily_conjugated_inputs(tmp_path):
    model = Weighted().eval().requires_grad_(False)
    compiled = trtcore.compile(model, inputs=[Z], **OPTIONS)
    turned = numbers(4, 3).mH
    assert turned.is_conj()
    for call in (Z, turned):
        want = (call @ model.weight, (model.seen + call).abs())
        for got, expected in zip(compiled(call), want):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert bool(model.seen.abs().sum() > 0), "the buffer is the model's"
    path = tmp_path / "complex.pt2"
    trtcore.save(compiled, path)
    loaded, before = trtcore.load(path), model.seen.clone()
    torch.testing.assert_close(loaded(Z)[1], (before + Z).abs(), rtol=1e-4, atol=1e-5)
    engines = [
        node for node in compiled.graph.nodes if node.target is torch.ops.trtcore.execute_engine.default
    ]
    assert len(engines) == 1


def test_replaceable_weights_stay_inputs():
    model = Weighted().eval().requires_grad_(False)
    compiled = trtcore.compile(model, inputs=[Z], immutable_weights=False, **OPTIONS)
    torch.testing.assert_close(compiled(Z)[0], Z @ model.weight, rtol=1e-4, atol=1e-5)


def test_results_have_the_strides_that_torch_compile_expects():
    compiled = torch.compile(
        lambda z: ((z * 2).mT, (z * z).real.mT), backend="trtcore", dynamic=True, options=OPTIONS
    )
    for z in (Z, numbers(5, 3).mH):
        want = ((z * 2).mT, (z * z).real.mT)
        for got, expected in zip(compiled(z), want):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
            assert got.stride() == expected.stride()


def test_truncate_double_makes_complex128_complex64():
    z = numbers(3, 4, dtype=torch.complex128)

    def run(z):
        return z * z, (z * torch.ones(4, dtype=torch.complex128)).abs()

    checked(run, z, truncate_double=True)
    report = trtcore.explain(module_of(run), inputs=[z], min_block_size=1)
    assert {node.in_engine for node in report.nodes} == {False}
    assert all("truncate_double=True" in node.reason for node in report.nodes)


# ---- Fourier transforms ------------------------------------------------------------------------------------

FOURIER = {
    "fft": (lambda z: torch.fft.fft(z, dim=0), numbers(12, 3)),
    "long": (lambda z: torch.fft.fft(z), numbers(2, 1536)),
    "rfft": (lambda x: torch.fft.rfft(x, norm="ortho"), R),
    "there and back": (lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2), numbers(2, 2048, dtype=torch.float32)),
    "odd": (lambda x: torch.fft.irfft(torch.fft.rfft(x), n=1001), numbers(2, 1001, dtype=torch.float32)),
    "odd and short": (lambda x: torch.fft.irfft(torch.fft.rfft(x), n=15), numbers(2, 15, dtype=torch.float32)),
    "padded and cut": (lambda x: torch.fft.irfft(torch.fft.rfft(x, n=20), n=12), numbers(2, 15, dtype=torch.float32)),
    "several dims": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * 2j, norm="ortho"),
                     numbers(2, 12, 14, dtype=torch.float32)),
    "fnet": (lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real, numbers(2, 16, 24, dtype=torch.float32)),
    "real to real": (lambda x: (torch.fft.irfft(x), torch.fft.irfft2(x, s=(3, 5)), torch.fft.hfft(x)), R),
    "hermitian": (lambda z: (torch.fft.hfft(z), torch.fft.fftshift(torch.fft.ifft(z))), Z),
}  # fmt: skip


@pytest.mark.parametrize("name", FOURIER)
def test_fourier_transforms_as_products(name):
    run, x = FOURIER[name]
    checked(run, x, rtol=1e-4, atol=1e-4)


class Spectral(nn.Module):
    """A layer of a Fourier neural operator."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, 2, 3, 3, dtype=torch.complex64))

    def forward(self, x):
        z = torch.fft.rfft2(x)
        made = torch.zeros(x.shape[0], 2, x.shape[-2], x.shape[-1] // 2 + 1, dtype=z.dtype)
        made[:, :, :3, :3] = torch.einsum("bixy,ioxy->boxy", z[:, :, :3, :3], self.weight)
        made[:, :, -3:, :3] = torch.einsum("bixy,ioxy->boxy", z[:, :, -3:, :3], self.weight)
        return torch.fft.irfft2(made, s=x.shape[-2:])


def test_a_fourier_neural_operator_of_a_batch_that_varies():
    batches = trtcore.Input(min_shape=(1, 2, 8, 8), opt_shape=(2, 2, 8, 8), max_shape=(4, 2, 8, 8))
    model = Spectral().eval().requires_grad_(False)
    compiled = checked(model, numbers(2, 2, 8, 8, dtype=torch.float32), given=[batches], rtol=1e-3, atol=1e-4)
    same(compiled, model, numbers(4, 2, 8, 8, dtype=torch.float32), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("length", [400, 1024, 4096])
def test_the_rounding_of_a_transform_is_near_torchs_own(length):
    x = numbers(4, length)
    got = checked(torch.fft.fft, x, rtol=1e-3, atol=1e-3)(x)
    exact = torch.fft.fft(x.to(torch.complex128))
    error = float((got - exact).abs().max() / exact.abs().max())
    assert error < 2e-6, "float32 has 6e-8, and a sum of hundreds of numbers loses a digit"


def test_short_time_transforms_are_convolutions():
    def spectrogram(x):
        window = torch.hann_window(16)
        z = torch.stft(x, 16, 4, 16, window, return_complex=True)
        return z.abs().pow(2), torch.istft(z * 0.5, 16, 4, 16, window, length=60)

    x = numbers(2, 64, dtype=torch.float32)
    compiled = checked(spectrogram, x)
    (snapshot,) = snapshots(compiled)
    assert types(snapshot.layers)["DECONVOLUTION"] == 1


def test_short_time_transforms_of_lengths_that_vary():
    window = torch.hann_window(16)

    def vocoder(x):
        z = torch.stft(x, 16, 4, 16, window, return_complex=True)
        return torch.istft(torch.polar(z.abs() * 2, z.angle()), 16, 4, 16, window)

    model = module_of(vocoder)
    given = trtcore.Input(min_shape=(1, 32), opt_shape=(2, 64), max_shape=(2, 128))
    compiled = checked(vocoder, numbers(2, 64, dtype=torch.float32), given=[given], rtol=1e-3, atol=1e-4)
    for shape in ((1, 32), (2, 101)):
        same(compiled, model, numbers(*shape, dtype=torch.float32), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("run", "x", "reason"),
    [
        (lambda x: torch.fft.rfft(x).abs(), numbers(2, 1031, dtype=torch.float32), "the prime factor 1031"),
        (lambda z: z.prod(), Z, "has no form as real numbers here"),
        (lambda z: torch.linalg.eigvals(z[:, :3]).abs(), Z, "linalg_eig"),
    ],
)
def test_what_stays_complex_says_why(run, x, reason):
    module = module_of(run)
    compiled = trtcore.compile(module, inputs=[x], **OPTIONS)
    same(compiled, module, x)
    reasons = [node.reason for node in compiled.report.nodes if not node.in_engine]
    assert reasons
    assert any(reason in one for one in reasons)


def test_values_that_cannot_be_pairs_keep_those_that_they_are_linked_with():
    def run(z, w):
        return torch.linalg.eigvals((z * 2)[:, :3]).abs(), (w * w).abs()

    module = module_of(run)
    compiled = trtcore.compile(module, inputs=[Z, W], **OPTIONS)
    place = {node.name: node.in_engine for node in compiled.report.nodes}
    assert place["mul"] is False
    assert "aten.hypot" not in str([node.op for node in compiled.report.nodes if not node.in_engine])
    same(compiled, module, Z, W)


def test_a_length_that_varies_is_told():
    given = trtcore.Input(min_shape=(1, 8), opt_shape=(2, 16), max_shape=(2, 32))
    report = trtcore.explain(module_of(lambda x: torch.fft.rfft(x).abs()), inputs=[given], min_block_size=1)
    assert any("varies from call to call" in node.reason for node in report.nodes)


# ---- settings ----------------------------------------------------------------------------------------------


def test_the_setting_leaves_them_complex():
    report = trtcore.explain(
        module_of(OPS["products"]), inputs=[Z, W], min_block_size=1, use_complex_decomposition=False
    )
    reasons = {node.reason for node in report.nodes if "mul" in node.op}
    assert reasons == {"complex numbers, and use_complex_decomposition is False"}


def test_strict_numerics_takes_what_only_moves_numbers():
    z = torch.complex(torch.tensor([1.0, float("inf")]), torch.tensor([float("nan"), -0.0]))
    run = module_of(lambda z: torch.view_as_real(z.conj().flip(0)))
    compiled = trtcore.compile(run, inputs=[z], strict_numerics=True, **OPTIONS)
    assert torch.equal(compiled(z).isnan(), run(z).isnan())
    assert len(list(snapshots(compiled))) == 1
    product = module_of(lambda z: z * (2 + 1j))
    compiled = trtcore.compile(product, inputs=[z], strict_numerics=True, **OPTIONS)
    torch.testing.assert_close(compiled(z), product(z), equal_nan=True)
    assert any("with strict_numerics" in node.reason for node in compiled.report.nodes)


def test_an_op_that_the_user_keeps_in_torch_stays_complex():
    module = module_of(lambda z, w: (z * w).abs())
    compiled = trtcore.compile(module, inputs=[Z, W], torch_executed_ops={"aten.mul"}, **OPTIONS)
    assert not any(node.in_engine for node in compiled.report.nodes)
    same(compiled, module, Z, W)


def test_the_pass_alone():
    left = after("complex_pairs", lambda z, w: ((z * w).abs(),), Z, W)
    assert left["mul"] == 4
    assert left["hypot"] == 1
    assert after("complex_pairs", lambda x: (x * 2,), R) == {"mul": 1}, (
        "without complex numbers nothing happens"
    )
