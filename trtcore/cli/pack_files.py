"""The files of the projects that `trtcore new-pack` makes, as `string.Template`s.

Of `name`, `module`, `versions`, `url`, `year`; and of what a kind says: `what`, `extras`, `table`, `next`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """A kind of project.

    Attributes:
        what: the pack's description, after "A pack for trtcore: ".
        about: one line for `--help`.
        table: rows of README's table.
        next: what to do next, in README.
        extras: of trtcore, for the project's tests.
        files: path -> text, beside `COMMON`.
    """

    what: str
    about: str
    table: str
    next: str
    extras: str = "rtx"
    files: dict[str, str] = field(default_factory=dict)


COMMON: dict[str, str] = {}
"""Path -> text of what every project has."""

COMMON["pyproject.toml"] = """
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$name"
version = "0.1.0"
description = "A pack for trtcore: $what"
readme = "README.md"
license = "MIT"
license-files = ["LICENSE"]
requires-python = ">=3.10"
# The versions of trtcore that the pack fits. trtcore reads this before it imports the pack; outside of the
# range the pack is skipped, with a warning that shows both versions.
dependencies = ["trtcore$versions"]

[project.optional-dependencies]
test = ["trtcore[$extras]", "pytest>=8.0"]

[project.urls]
Repository = "$url"
Issues = "$url/issues"
Changelog = "$url/blob/main/CHANGELOG.md"

# The whole registration: trtcore finds the pack when it is installed.
[project.entry-points.trtcore]
$name = "$module.pack"

[tool.hatch.build.targets.wheel]
packages = ["$module"]
"""

COMMON["$module/__init__.py"] = '''
"""A pack for trtcore."""
'''

COMMON[".github/workflows/ci.yml"] = """
name: ci
on: [push, pull_request]

jobs:
  test:
    runs-on: ubuntu-latest
    strategy:
      matrix:
        python: ["3.10", "3.12"]
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: $${{ matrix.python }}
      # TensorRT for RTX builds engines without a GPU, and torch's CPU build is enough.
      - run: pip install torch --index-url https://download.pytorch.org/whl/cpu
      - run: pip install -e '.[test]'
      - run: pytest --trtcore-require-backend
        env:
          TRTCORE_STRICT_PACKS: "1"
"""

COMMON["README.md"] = """
# $name

A pack for [trtcore](https://pypi.org/project/trtcore): $what.

| file | what it is |
|---|---|
| `pyproject.toml` | the entry point that registers the pack, and the range of trtcore versions it fits |
$table| `$module/pack.py` | the hook that hands over what the pack has |
| `tests/` | its tests, which need no GPU |

```sh
pip install -e '.[test]'
pytest
trtcore packs
```

$next

Before you publish: your address in `pyproject.toml`, your name in `LICENSE`. Then `python -m build` and
`twine upload dist/*`; users need `pip install $name` and nothing else.

Licence: MIT.
"""

COMMON["LICENSE"] = """
MIT License

Copyright (c) $year The $name authors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

COMMON["CHANGELOG.md"] = """
# Changelog

## 0.1.0

- First version.
"""

COMMON[".gitignore"] = """
__pycache__/
*.egg-info/
.pytest_cache/
.venv/
build/
dist/
"""

_CONVERTER: dict[str, str] = {}

_CONVERTER["$module/ops.py"] = '''
"""The op for torch. Models use it without trtcore."""

from __future__ import annotations

import torch


@torch.library.custom_op("$module::signed_power", mutates_args=())
def signed_power(x: torch.Tensor, power: float) -> torch.Tensor:
    """Return ``sign(x) * |x| ** power``, of the shape of `x`."""
    return torch.sign(x) * x.abs() ** power


@signed_power.register_fake
def _(x: torch.Tensor, power: float) -> torch.Tensor:
    return torch.sign(x) * x.abs() ** power
'''

_CONVERTER["$module/converters.py"] = '''
"""The pack's converters: one function for an op, called as the op is."""

from __future__ import annotations

from typing import Any

import torch

from trtcore.pack import CompileContext, ConversionContext, Reject, converter, node_arguments


def floating(node: torch.fx.Node, ctx: CompileContext) -> bool | Reject:
    """Say no, with the reason that users read, where TensorRT would compute something else than torch."""
    dtype = node_arguments(node)["x"].meta["val"].dtype
    if not dtype.is_floating_point:
        return Reject(f"signed_power of {dtype}: TensorRT's powers are of floating point only")
    return True


@converter("$module::signed_power", capability_validator=floating, supports_dynamic_shapes=True)
def signed_power(ctx: ConversionContext, x: Any, power: float) -> Any:
    """Four layers and a constant: every call of a method of ``ctx`` adds one."""
    size = ctx.elementwise(ctx.unary(x, "ABS"), power, "POW")
    return ctx.elementwise(ctx.unary(x, "SIGN"), size, "PROD")
'''

_CONVERTER["$module/pack.py"] = '''
"""What the entry point names."""

from __future__ import annotations

from collections.abc import Iterable

from trtcore.pack import Converter, converters_in, hookimpl


@hookimpl
def converters() -> Iterable[Converter]:
    """The pack's converters."""
    from $module import converters as module

    return converters_in(module)
'''

_CONVERTER["tests/test_$module.py"] = '''
"""The op, its converter's numbers, what it refuses, and what trtcore asks of every pack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from $module.ops import signed_power

from trtcore.testing import Example, PackConformance


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return signed_power(x, 1.5)


def test_the_op() -> None:
    torch.library.opcheck(signed_power, (torch.randn(2, 3), 2.0))
    assert signed_power(torch.tensor([-2.0, 0.0, 3.0]), 2.0).tolist() == [-4.0, 0.0, 9.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_converter(assert_converts, dtype) -> None:
    assert_converts(Model(), (torch.randn(4, 8),), dynamic={0: {0: (1, 4, 8)}}, dtypes=[dtype])


def test_integers_stay_in_torch(assert_refuses) -> None:
    assert_refuses(Model(), (torch.arange(-3, 4),), "of floating point only")


class TestPack(PackConformance):
    pack = "$name"

    def examples(self) -> Iterator[Example]:
        yield Example(Model(), (torch.randn(4, 8),), dynamic={0: {0: (1, 4, 8)}})
        yield Example(Model(), (torch.arange(-3, 4),), converts=False)
'''

_KERNEL: dict[str, str] = {}

_KERNEL["$module/kernels.py"] = '''
"""The pack's kernel: a torch op, a TensorRT plugin and the converter that places it, from one declaration."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtcore_plugins import triton_plugin


@triton.jit
def signed_power_kernel(x_ptr, out_ptr, power, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n).to(tl.float32)
    size = tl.exp(power * tl.log(tl.maximum(tl.abs(x), 1e-30)))
    tl.store(out_ptr + at, tl.where(x < 0, -size, tl.where(x > 0, size, 0.0)), mask=at < n)


signed_power = triton_plugin(
    "$module::signed_power",
    signed_power_kernel,
    schema="(Tensor x, float power) -> Tensor",
    shapes=lambda x: x.shape,
    grid=lambda x: triton.cdiv(x.numel(), 1024),
    arguments={"n": lambda x: x.numel(), "BLOCK": 1024},
    reference=lambda x, power: torch.sign(x) * x.abs() ** power,
)
'''

_KERNEL["$module/pack.py"] = '''
"""What the entry point names."""

from __future__ import annotations

from collections.abc import Iterable

from trtcore.pack import KernelPlugin, hookimpl


@hookimpl
def kernel_plugins() -> Iterable[KernelPlugin]:
    """The pack's kernels. Triton is imported here, when trtcore asks, and not with this module."""
    from $module.kernels import signed_power

    return [signed_power]
'''

_KERNEL["tests/test_$module.py"] = '''
"""The op, its kernel, what a compile makes of it, and what trtcore asks of every pack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from $module.kernels import signed_power

import trtcore
from trtcore.testing import Example, PackConformance
from trtcore_plugins import assert_plugin


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return signed_power(x + 1, 1.5).relu()


def test_the_op() -> None:
    result = signed_power(torch.tensor([-2.0, 0.0, 3.0]), 2.0)
    assert torch.allclose(result, torch.tensor([-4.0, 0.0, 9.0]))


@pytest.mark.filterwarnings("ignore:.*no value of the kernel was proved")  # without a GPU or Triton's interpreter
def test_the_kernel() -> None:
    """Its values where a GPU is, or under TRITON_INTERPRET=1; elsewhere that it compiles for the GPUs named here."""
    given = (torch.randn(4, 8), 1.5)
    proof = assert_plugin(signed_power, given, dynamic={"x": [0]}, compute_capabilities=[(8, 9)])
    assert "values" in proof.proved or "compiled" in proof.proved


def test_a_compile_computes_what_the_model_does(trt_backend) -> None:
    x = torch.randn(4, 8)
    compiled = trtcore.compile(Model(), inputs=[x], min_block_size=1)
    assert torch.allclose(compiled(x), Model()(x), atol=1e-5)
    (plugin,) = compiled.report.plugins
    assert plugin.name == "$module::signed_power"


class TestPack(PackConformance):
    pack = "$name"

    def examples(self) -> Iterator[Example]:
        yield Example(Model(), (torch.randn(4, 8),))
'''

_PASS: dict[str, str] = {}

_PASS["$module/passes.py"] = '''
"""The pack's lowering pass: a table of small rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore.pack import RuleMatch, rewrite, rules_pass

TENSOR = torch.empty(2, 3)  # an example for an argument: sizes do not matter, and a float stands for any number


def log_of_exp(x: torch.Tensor) -> torch.Tensor:
    return x.exp().log()


def itself(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


def scaled_twice(x: torch.Tensor, a: float, b: float) -> torch.Tensor:
    return (x * a) * b


def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
    return x * factor


def one_factor(match: RuleMatch) -> bool | Sequence[Any]:
    """The check of a rule: False leaves the place as it is, other arguments go to the replacement."""
    x, a, b = match.arguments
    return (x, a * b) if isinstance(a, float) and isinstance(b, float) else False


simplify = rules_pass(
    "$module",
    [
        rewrite(log_of_exp, itself, (TENSOR,)),  # exp overflows where its argument does not
        rewrite(scaled_twice, scaled, (TENSOR, 2.5, 3.5), check=one_factor),
    ],
)
'''

_PASS["$module/pack.py"] = '''
"""What the entry point names."""

from __future__ import annotations

from collections.abc import Iterable

from trtcore.pack import LoweringPass, hookimpl


@hookimpl
def lowering_passes() -> Iterable[LoweringPass]:
    """The pack's passes."""
    from $module.passes import simplify

    return [simplify]
'''

_PASS["tests/test_$module.py"] = '''
"""What the rules rewrite and what they leave, and what trtcore asks of every pack."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

import trtcore
from trtcore.testing import Example, PackConformance


class Model(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x).relu()


def ops(function: Callable[[torch.Tensor], torch.Tensor], **settings: object) -> list[str]:
    """The ops of a model as the passes leave them."""
    report = trtcore.explain(Model(function), inputs=[torch.randn(4, 8)], min_block_size=1, **settings)
    return [node.op.split(".")[1] for node in report.nodes]


def exp_that_others_read(x: torch.Tensor) -> torch.Tensor:
    y = x.exp()
    return y.log() + y


CASES = {
    "log of exp": (lambda x: x.exp().log(), ["relu"]),
    "two factors": (lambda x: x * 1.5 * 2.5, ["mul", "relu"]),
    "exp that others read": (exp_that_others_read, ["exp", "log", "add", "relu"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule(case: str, trt_backend) -> None:
    function, expected = CASES[case]
    assert [op for op in ops(function) if op != "clone"] == expected


def test_the_pass_can_be_turned_off(trt_backend) -> None:
    assert "exp" in ops(lambda x: x.exp().log(), disabled_passes={"$module"})


def test_numbers_that_eager_cannot_compute(trt_backend) -> None:
    x = torch.full((2, 3), 200.0)
    compiled = trtcore.compile(Model(lambda x: x.exp().log()), inputs=[x], min_block_size=1)
    assert torch.equal(compiled(x), x)


class TestPack(PackConformance):
    pack = "$name"

    def examples(self) -> Iterator[Example]:
        for function, _ in CASES.values():
            yield Example(Model(function), (torch.rand(4, 8),), dynamic={0: {0: (1, 4, 8)}})
'''

_PATTERN: dict[str, str] = {}

_PATTERN["$module/patterns.py"] = '''
"""The pack's pattern: a function of torch ops that is looked for in models, and the layers that it becomes."""

from __future__ import annotations

from typing import Any

import torch

from trtcore.pack import ConversionContext, pattern_converter


def soft_threshold(x: torch.Tensor, limit: float) -> torch.Tensor:
    """What models write; found in any of their lines that compute it."""
    return torch.sign(x) * torch.relu(x.abs() - limit)


@pattern_converter(soft_threshold, (torch.empty(2, 3), 0.5), supports_dynamic_shapes=True)
def convert_soft_threshold(ctx: ConversionContext, x: Any, limit: float) -> Any:
    """``x - clamp(x, -limit, limit)``: two layers in place of five."""
    layer = ctx.net.add_activation(x, ctx.trt.ActivationType.CLIP)
    layer.alpha, layer.beta = -limit, limit
    return ctx.elementwise(x, ctx.output(layer), "SUB")
'''

_PATTERN["$module/pack.py"] = '''
"""What the entry point names."""

from __future__ import annotations

from collections.abc import Iterable

from trtcore.pack import Converter, converters_in, hookimpl


@hookimpl
def converters() -> Iterable[Converter]:
    """The pack's converters; that of a pattern is one."""
    from $module import patterns

    return converters_in(patterns)
'''

_PATTERN["tests/test_$module.py"] = '''
"""Where the pattern is found, its numbers, and what trtcore asks of every pack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from $module.patterns import soft_threshold

import trtcore
from trtcore.testing import Example, PackConformance


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return soft_threshold(x, 0.25) + 1


def ops(model: torch.nn.Module) -> list[str]:
    report = trtcore.explain(model, inputs=[torch.randn(4, 8)], min_block_size=1)
    return [node.op for node in report.nodes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_converter(assert_converts, dtype) -> None:
    assert_converts(Model(), (torch.randn(4, 8),), dynamic={0: {0: (1, 4, 8)}}, dtypes=[dtype])


def test_it_is_found(trt_backend) -> None:
    assert ops(Model()) == ["pattern.soft_threshold", "aten.add.Tensor"]


def test_what_others_read_in_the_middle_is_left(trt_backend) -> None:
    class Reads(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            size = x.abs()
            return torch.sign(x) * torch.relu(size - 0.25) + size

    assert "pattern.soft_threshold" not in ops(Reads())


class TestPack(PackConformance):
    pack = "$name"

    def examples(self) -> Iterator[Example]:
        yield Example(Model(), (torch.randn(4, 8),), dynamic={0: {0: (1, 4, 8)}})
'''

KINDS: Mapping[str, Kind] = {
    "converter": Kind(
        "$module.signed_power in TensorRT",
        "an op of your own and its converter",
        "| `$module/ops.py` | the op for torch: implementation and fake implementation |\n"
        "| `$module/converters.py` | the converter, with a capability validator |\n",
        "Write a converter for your own op in `converters.py`, and an example that uses it in the tests.",
        files=_CONVERTER,
    ),
    "kernel": Kind(
        "$module.signed_power as a Triton kernel",
        "a Triton kernel as torch op, TensorRT plugin and converter",
        "| `$module/kernels.py` | the kernel, and the declaration that makes op, plugin and converter of it |\n",
        "Put your own kernel into `kernels.py`. `TRITON_INTERPRET=1 pytest` computes it in Triton's interpreter.",
        extras="rtx,triton",
        files=_KERNEL,
    ),
    "pass": Kind(
        "rewrites of the graph before it is partitioned",
        "a lowering pass of small rewrite rules",
        "| `$module/passes.py` | the rules, and the pass that applies them |\n",
        "Add your own rules to `passes.py`, each with a model in the tests that it rewrites and one that it leaves.",
        files=_PASS,
    ),
    "pattern": Kind(
        "a converter for several ops that occur together",
        "a converter for several ops that occur together",
        "| `$module/patterns.py` | what is looked for, and the layers that it becomes |\n",
        "Write your own function of torch ops in `patterns.py`, and the layers that compute all of it.",
        files=_PATTERN,
    ),
}
