"""`trtcore new-pack`: a project for a pack of one's own, with a converter, its tests and CI, that works as it is."""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
import sys
import tempfile
from pathlib import Path
from string import Template

import click

from trtcore._version import __version__
from trtcore.errors import InputError, PackError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_RESERVED = ("trtcore", "trtcore-converters", "trtcore-plugins", "torch", "tests")


@click.command("new-pack")
@click.argument("name")
@click.option(
    "--in",
    "parent",
    type=click.Path(path_type=Path),
    default=Path("."),
    help="The folder to make the project's folder in; the current one by default.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: the folder, and the commands to go on with."
)
def new_pack(name: str, parent: Path, as_json: bool) -> None:
    """Make a project for a pack named NAME: an op, its converter, tests, CI and README, ready to install."""
    project = create(name, parent)
    commands = (f"pip install -e '{project}[test]'", f"pytest {project}", "trtcore packs")
    if as_json:
        click.echo(json.dumps({"schema": 1, "project": str(project), "next": commands}, indent=2))
        return
    click.echo(f"made {project}; next:")
    for line in commands:
        click.echo(f"  {line}")


def create(name: str, parent: Path) -> Path:
    """Write the project; its folder comes back.

    Args:
        name: of the distribution and the pack: lower case, words joined by hyphens.
        parent: an existing folder.

    Raises:
        PackError: a name that no distribution, module or pack can have, or that is taken.
        InputError: the folder exists, or cannot be written.
    """
    if not parent.is_dir():
        raise InputError(f"there is no folder {str(parent)!r}", advice="make it, or give another with --in")
    _check_name(name)
    project = parent / name
    if project.exists() or project.is_symlink():
        raise InputError(
            f"{str(project)!r} exists; nothing was written",
            advice="choose another name, or another folder with --in",
        )
    values = {"name": name, "module": _module(name), "versions": _versions()}
    try:
        # Whole or not at all: a half-written project would be in the way of the next try.
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}-") as folder:
            draft = Path(folder) / name
            for path, text in FILES.items():
                target = draft / Template(path).substitute(values)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(Template(text.lstrip("\n")).substitute(values), encoding="utf-8")
            draft.rename(project)
    except OSError as error:
        raise InputError(f"{str(project)!r} cannot be written: {error}") from error
    return project


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > 60:
        near = "-".join(re.findall(r"[a-z0-9]+", name.lower())).lstrip("-0123456789")[:60].strip("-")
        raise PackError(
            f"{name!r} is no name for a pack",
            advice="use lower-case letters and digits, words joined by hyphens, a letter first: "
            + (near or "acme-ops"),
        )


def _module(name: str) -> str:
    """The import name of a distribution's name, both checked."""
    module = name.replace("-", "_")
    if name in _RESERVED:
        raise PackError(f"{name!r} is taken", advice="choose a name of your own, such as acme-ops")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names:
        raise PackError(f"{module!r} is a word of Python", advice="choose another name, such as acme-ops")
    if importlib.util.find_spec(module) is not None:
        raise PackError(
            f"a module {module!r} is installed already: yours would hide it, or be hidden",
            advice="choose another name",
        )
    return module


def _versions() -> str:
    """The range of trtcore versions that a pack written today fits: those of this minor version."""
    major, minor = __version__.split(".")[:2]
    after = f"{major}.{int(minor) + 1}" if major == "0" else f"{int(major) + 1}"
    return f">={major}.{minor},<{after}"


FILES: dict[str, str] = {}
"""Path -> text of every file, as `string.Template`s of name, module and versions."""

FILES["pyproject.toml"] = """
[build-system]
requires = ["hatchling>=1.24"]
build-backend = "hatchling.build"

[project]
name = "$name"
version = "0.1.0"
description = "A pack for trtcore: $module.signed_power in TensorRT"
readme = "README.md"
requires-python = ">=3.10"
# The versions of trtcore that the pack fits. trtcore reads this before it imports the pack; outside of the
# range the pack is skipped, with a warning that shows both versions.
dependencies = ["trtcore$versions"]

[project.optional-dependencies]
test = ["trtcore[rtx]", "pytest>=8.0"]

# The whole registration: trtcore finds the pack when it is installed.
[project.entry-points.trtcore]
$name = "$module.pack"

[tool.hatch.build.targets.wheel]
packages = ["$module"]
"""

FILES["$module/__init__.py"] = '''
"""A pack for trtcore."""
'''

FILES["$module/ops.py"] = '''
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

FILES["$module/converters.py"] = '''
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

FILES["$module/pack.py"] = '''
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

FILES["tests/test_$module.py"] = '''
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

FILES[".github/workflows/ci.yml"] = """
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

FILES["README.md"] = """
# $name

A pack for [trtcore](https://pypi.org/project/trtcore): `$module::signed_power` in TensorRT.

| file | what it is |
|---|---|
| `pyproject.toml` | the entry point that registers the pack, and the range of trtcore versions it fits |
| `$module/ops.py` | the op for torch: implementation and fake implementation |
| `$module/converters.py` | the converter, with a capability validator |
| `$module/pack.py` | the hook that hands the converters over |
| `tests/` | its tests, which need no GPU |

```sh
pip install -e '.[test]'
pytest
trtcore packs
```

Write a converter for your own op in `converters.py`, and an example that uses it in the tests. Publish with
`python -m build` and `twine upload dist/*`; users need `pip install $name` and nothing else.
"""

FILES[".gitignore"] = """
__pycache__/
*.egg-info/
.pytest_cache/
.venv/
build/
dist/
"""
