"""What may depend on what, held by reading the sources; and what an import must not load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "trtcore"
PACKS = (ROOT / "converters", ROOT / "plugins", ROOT / "contrib")
OPEN_TO_PACKS = {"trtcore", "trtcore.pack", "trtcore.testing"}
# What projects that put another interface before trtcore's stand on: the modules for users, and the kernels' pack.
OPEN_TO_INTERFACES = {
    "trtcore.errors",
    "trtcore.runtime",
    "trtcore.dynamo",
    "trtcore.events",
    "trtcore_plugins",
}
INTERFACES = ("trtcore-contrib-diffusers", "trtcore-contrib-torch-tensorrt")
# How exported graphs spell "the size of that dim" and "write this back": plumbing, not operators to convert.
PLUMBING = {
    # What flex_attention means, which torch has no other words for.
    "trtcore/lowering/flex.py": {"scaled_dot_product_attention"},
    "trtcore/lowering/regions.py": {"index"},
    # Ops that traces of torch.compile keep whole below autocast, and views in place, which become views.
    "trtcore/jit/capture.py": {
        *("linear", "layer_norm", "scaled_dot_product_attention"),
        *("squeeze_", "squeeze", "unsqueeze_", "unsqueeze", "transpose_", "transpose", "t_", "t"),
        *("swapaxes_", "swapaxes", "swapdims_", "swapdims", "as_strided_", "as_strided"),
    },
    "trtcore/assembly.py": {"clone"},  # weights that are returned
    "trtcore/archive/aot_inductor.py": {"_assert_async"},  # Inductor keeps it, and what it looks at
    "trtcore/runtime/requirement.py": {"_assert_async"},  # no trace leaves it out
    "trtcore/ir/symbols.py": {"sym_size"},
    "trtcore/lowering/decompose.py": {"clone"},  # a result in the layout of the op's own
    "trtcore/lowering/functionalize.py": {"copy_", "as_strided"},  # what it leaves; parts of a memory
    "trtcore/lowering/results.py": {"clone"},  # a result of its own
    "trtcore/lowering/match.py": {"add", "mul"},  # whose operands change places
    "trtcore/lowering/rewrite.py": {"view", "reshape"},  # a view of another layout is a copy
    "trtcore/ir/exported.py": {"copy_"},
    "trtcore/ir/autocast.py": {"to"},  # the casts of autocast
    "trtcore/ir/layouts.py": {"contiguous"},  # which torch leaves out where it does nothing
    "trtcore/frontend/layout_questions.py": {"contiguous", "clone"},
}
REFERENCE = "plugins/trtcore_reference/"  # torch code, and free to use torch
SHIPPED = ("trtcore_backends", "trtcore_converters", "trtcore_plugins", "trtcore_reference")
LAZY = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "triton")


def sources(*folders: Path) -> list[Path]:
    found = sorted(path for folder in folders for path in folder.rglob("*.py"))
    assert found
    return found


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[int, str, str | None]]:
    """(line, module, name) of every import in a file; name is None for ``import module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = path.relative_to(ROOT).parts
                package = parts[1:-1] if parts[0] in ("converters", "plugins") else parts[:-1]
                kept = package[: len(package) - node.level + 1]
                module = ".".join((*kept, module) if module else kept)
            yield from ((node.lineno, module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and _is_import_call(node):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value, None


def _is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("import_module", "__import__")


def top(module: str) -> str:
    return module.partition(".")[0]


def core_breaches(tree: ast.AST, path: Path) -> list[str]:
    """Imports of packs by the core."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for line, module, _ in imports(tree, path)
        if top(module) in SHIPPED
    ]


def pack_breaches(tree: ast.AST, path: Path) -> list[str]:
    """What a pack imports of the core behind its doors, and of other packs that ship with it."""
    own = set(
        path.relative_to(ROOT).parts[1:2]
    )  # converters/trtcore_converters/..., plugins/trtcore_backends/...
    interface = bool(own & set(INTERFACES))
    found = []
    for line, module, name in imports(tree, path):
        if top(module) == "trtcore":
            whole = f"{module}.{name}" if name and module == "trtcore" else module
            if interface and whole in OPEN_TO_INTERFACES:
                continue
            allowed = module in OPEN_TO_PACKS and not (module == "trtcore" and _is_submodule(whole))
            if not (allowed or whole in OPEN_TO_PACKS):
                found.append(f"{path.relative_to(ROOT)}:{line} imports {whole}")
        elif top(module) in set(SHIPPED) - own - (OPEN_TO_INTERFACES if interface else set()):
            found.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    return found


def _is_submodule(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def aten_breaches(tree: ast.AST, path: Path) -> list[str]:
    """Uses of ``ops.aten`` and ``ops.prims`` in the core, but for the plumbing of that file."""
    relative = path.relative_to(ROOT).as_posix()
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and node.attr in ("aten", "prims")):
            continue
        if getattr(node.value, "attr", getattr(node.value, "id", "")) != "ops":
            continue
        op = parents.get(node)
        if not (isinstance(op, ast.Attribute) and op.attr in PLUMBING.get(relative, ())):
            found.append(
                f"{relative}:{node.lineno} names {ast.unparse(op if isinstance(op, ast.Attribute) else node)}"
            )
    return found


def test_the_core_imports_no_pack() -> None:
    breaches = [found for path in sources(CORE) for found in core_breaches(ast.parse(path.read_text()), path)]
    assert breaches == []


def test_packs_import_only_the_public_modules() -> None:
    breaches = [
        found for path in sources(*PACKS) for found in pack_breaches(ast.parse(path.read_text()), path)
    ]
    assert breaches == []


def test_the_core_names_no_aten_op() -> None:
    breaches = [
        found
        for path in sources(CORE)
        if not path.relative_to(ROOT).as_posix().startswith(REFERENCE)
        for found in aten_breaches(ast.parse(path.read_text()), path)
    ]
    assert breaches == []


@pytest.mark.parametrize(
    ("code", "breaches"),
    [
        ("from trtcore_converters import unary", 1),
        ("def f():\n    import trtcore_plugins.triton", 1),
        ("import importlib\nimportlib.import_module('trtcore_converters.pack')", 1),
        ("from trtcore.packs.loading import load_packs", 0),
        ("'trtcore_converters'", 0),
    ],
)
def test_the_scan_of_the_core_sees(code: str, breaches: int) -> None:
    assert len(core_breaches(ast.parse(code), CORE / "some.py")) == breaches


@pytest.mark.parametrize(
    ("code", "breaches"),
    [
        ("from trtcore.pack import converter", 0),
        ("import trtcore\nfrom trtcore import Input, pack, testing", 0),
        ("from trtcore.testing import assert_converts", 0),
        ("from . import unary\nfrom .unary import relu\nimport trtcore_converters.unary", 0),
        ("from trtcore.packs.registry import Converter", 1),
        ("from trtcore.packs import registry", 1),
        ("import trtcore.conversion.context", 1),
        ("from trtcore.testing.conformance import x", 1),
        ("if TYPE_CHECKING:\n    from trtcore.backend.base import Backend", 1),
        ("import trtcore_plugins", 1),
    ],
)
def test_the_scan_of_packs_sees(code: str, breaches: int) -> None:
    path = ROOT / "converters" / "trtcore_converters" / "some.py"
    assert len(pack_breaches(ast.parse(code), path)) == breaches


@pytest.mark.parametrize(
    ("code", "breaches"),
    [
        ("torch.ops.aten.relu.default", 1),
        ("from torch import ops\nx = ops.aten", 1),
        ("aten = torch.ops.aten", 1),
        ("torch.ops.prims.convert_element_type", 1),
        ("torch.ops.trtcore.execute_engine", 0),
        ("torch.relu", 0),
    ],
)
def test_the_scan_for_ops_sees(code: str, breaches: int) -> None:
    assert len(aten_breaches(ast.parse(code), CORE / "some.py")) == breaches


def test_the_scan_for_ops_lets_only_the_plumbing_through() -> None:
    code = ast.parse("torch.ops.aten.sym_size.int\ntorch.ops.aten.relu.default\naten = torch.ops.aten")
    found = {breach.rpartition(" ")[2] for breach in aten_breaches(code, CORE / "ir" / "symbols.py")}
    assert found == {"torch.ops.aten.relu", "torch.ops.aten"}


# -- circles -----------------------------------------------------------------------------------------------


def import_graph(sources: dict[str, str]) -> networkx.DiGraph[str]:
    """Module -> module for every import in some modules' sources, lazy and type-only ones too."""
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(sources)
    packages = {name.rpartition(".")[0] for name in sources}
    for name, source in sources.items():
        path = ROOT.joinpath(*name.split("."), *(["__init__"] if name in packages else [])).with_suffix(".py")
        for _, module, imported in imports(ast.parse(source), path):
            target = f"{module}.{imported}" if f"{module}.{imported}" in sources else module
            if target in sources and target != name:
                graph.add_edge(name, target)
    return graph


def circles(graph: networkx.DiGraph[str]) -> list[frozenset[str]]:
    """Modules that lead back to themselves, together."""
    return [frozenset(found) for found in networkx.strongly_connected_components(graph) if len(found) > 1]


def rooms(graph: networkx.DiGraph[str]) -> networkx.DiGraph[str]:
    """The same of rooms: the packages of `trtcore`, and its modules. The data of a report is a room of its own, below
    what makes one and above what is in it."""

    def room(module: str) -> str:
        name = module.split(".")[1] if "." in module else module
        return module if module == "trtcore.report.collect" else name

    found: networkx.DiGraph[str] = networkx.DiGraph()
    found.add_edges_from((room(a), room(b)) for a, b in graph.edges if room(a) != room(b))
    return found


def core_graph() -> networkx.DiGraph[str]:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sources(CORE)}
    return import_graph({name.removesuffix(".__init__"): path.read_text() for name, path in names.items()})


def test_no_circle() -> None:
    graph = core_graph()
    assert circles(graph) == []
    assert circles(rooms(graph)) == []


def test_the_scan_for_circles_sees() -> None:
    files = {
        "trtcore.a": "def f():\n    from trtcore.b.c import x",
        "trtcore.b": "",
        "trtcore.b.c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import d",
        "trtcore.b.d": "import trtcore.a",
        "trtcore.e": "from trtcore import a",
    }
    graph = import_graph(files)
    assert circles(graph) == [frozenset({"trtcore.a", "trtcore.b.c", "trtcore.b.d"})]
    assert circles(rooms(graph)) == [frozenset({"a", "b"})]
    assert circles(import_graph({**files, "trtcore.b.d": "import trtcore.e.nothing"})) == []


def loaded_by(code: str, after: str = "") -> set[str]:
    """The modules that `code` loads in a fresh interpreter that has run `after`."""
    lines = (
        f"import sys\n{after}\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-c", lines],
        env={key: value for key, value in os.environ.items() if not key.startswith("TRTCORE_")},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_import_trtcore_loads_nothing_heavy() -> None:
    modules = loaded_by("import trtcore, trtcore.pack")
    assert "trtcore.pack" in modules
    assert "torch" not in loaded_by("import trtcore")
    heavy = {
        *LAZY,
        *SHIPPED,
        "trtcore_contrib_example",
    }
    assert {top(module) for module in modules} & heavy == set()


def test_no_module_of_the_core_loads_a_tensorrt_or_a_pack() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources(CORE)]
    names = [name.removesuffix(".__init__") for name in names]
    aside = ("trtcore.__main__", "trtcore.compat.torch_tensorrt")  # the command; the old name of a package
    names = [name for name in names if name not in aside]
    modules = loaded_by("\n".join(f"import {name}" for name in names), after="import torch")
    assert set(names) <= modules
    assert {top(name) for name in modules} & {*LAZY, *SHIPPED} == set()


def test_every_public_name_exists() -> None:
    import trtcore
    import trtcore.pack
    import trtcore.testing

    for module in (trtcore.pack, trtcore.testing, trtcore):
        missing = []
        for name in module.__all__:
            try:
                getattr(module, name)
            except Exception as error:
                missing.append(f"{module.__name__}.{name}: {error!r}")
        assert missing == []
    assert set(trtcore.pack.__all__) <= set(dir(trtcore.pack))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        trtcore.pack.nonsense  # noqa: B018
