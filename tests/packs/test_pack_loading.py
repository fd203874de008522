"""Packs from real distributions on sys.path: found, blocked, checked, loaded apart, listed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trtcore.context import CompileContext, Event
from trtcore.errors import PackError, SettingsError
from trtcore.packs import loading as packs
from trtcore.packs.declare import converter, converters_in, scoped_registry
from trtcore.packs.hookspecs import hookimpl
from trtcore.packs.listing import describe_packs
from trtcore.packs.loading import (
    PackWarning,
    build_registry,
    load_packs,
    process_converters,
    register_pack,
)
from trtcore.packs.model import Converter, Scope
from trtcore.settings import CompilationSettings

RELU = torch.ops.aten.relu.default

GOOD = """
    import torch
    from trtcore.pack import LoweringPass, converter, converters_in, hookimpl

    @converter(torch.ops.aten.relu.default, priority={priority})
    def relu(ctx, x):
        return x

    @hookimpl
    def converters():
        import sys
        return converters_in(sys.modules[__name__])
"""


class Site:
    """A folder like site-packages, with distributions written into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        distribution: str,
        source: str = GOOD,
        *,
        name: str | None = None,
        module: str | None = None,
        requires: tuple[str, ...] = (),
        version: str = "1.2",
        priority: int = 0,
    ) -> str:
        """Install `distribution` with one pack; the name of its module, which is unique, comes back."""
        module = module or distribution.replace("-", "_").lower() + "_module"
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        lines += [f"Requires-Dist: {line}" for line in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(f"[trtcore]\n{name or distribution} = {module}\n")
        text = textwrap.dedent(source).replace("{priority}", str(priority))
        (self.folder / f"{module.partition(':')[0]}.py").write_text(text)
        return module

    def run(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `code` in a fresh interpreter that has the folder on its path."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TRTCORE_")}
        return subprocess.run(
            [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
            env={**clean, "PYTHONPATH": str(self.folder), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            check=False,
        )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site folder on the path; trtcore's own packs are off, so that tests see only what they install."""
    for name in [name for name in os.environ if name.startswith("TRTCORE_") and "PACK" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRTCORE_DISABLE_PACKS", "trtcore")
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = set(sys.modules)
    packs.forget_packs()
    with scoped_registry():
        yield Site(tmp_path)
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    packs.forget_packs()


def load(*disabled: str) -> dict[str, packs.LoadedPack]:
    """Loaded packs by id, without trtcore's own; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {p.info.id: p for p in load_packs(disabled=disabled) if p.info.scope is not Scope.BUILT_IN}


def load_and_warn() -> tuple[dict[str, packs.LoadedPack], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = {p.info.id: p for p in load_packs() if p.info.scope is not Scope.BUILT_IN}
    assert all(issubclass(w.category, PackWarning) for w in caught)
    return found, [str(w.message) for w in caught]


# Loading ------------------------------------------------------------------------------------------------


def test_a_pack_loads_and_its_converters_carry_its_name(site: Site) -> None:
    site.add("Acme.Fast", name="fast", module="acme_fast")
    (pack,) = load().values()
    info = pack.info
    assert (info.distribution, info.name, info.version, info.status, info.error) == (
        "acme-fast",
        "fast",
        "1.2",
        "loaded",
        None,
    )
    assert str(info) == "acme-fast:fast 1.2"
    (found,) = pack.converters
    assert (found.target, found.pack, found.scope, found.name) == (RELU, info, Scope.THIRD_PARTY, "relu")


def test_every_kind_of_contribution(site: Site) -> None:
    site.add(
        "acme",
        """
        import torch
        from trtcore.pack import Converter, LoweringPass, hookimpl

        class Plugin:
            name, deployable = "acme::op", True
            converter = Converter(torch.ops.aten.erf.default, lambda ctx, x: x)

        class Pack:
            seen = []
            @hookimpl
            def decompositions(self): return {torch.ops.aten.relu.default: lambda x: x.clamp(min=0)}
            @hookimpl
            def lowering_passes(self): yield LoweringPass("acme_pass", lambda module, ctx: None)
            @hookimpl
            def kernel_plugins(self): return [Plugin()]
            @hookimpl
            def partitioners(self): return {"acme_cut": lambda supported, ctx: []}
            @hookimpl
            def observe(self, event): self.seen.append(event)
            @hookimpl
            def converters(self): return []
            @hookimpl
            def backends(self): return ()

        pack = Pack()
        """,
        module="acme_module:pack",
    )
    (pack,) = load().values()
    assert [one.name for one in pack.lowering_passes] == ["acme_pass"]
    assert pack.lowering_passes[0].pack == pack.info
    assert list(pack.decompositions) == [RELU]
    assert [one.name for one in pack.kernel_plugins] == ["acme::op"]
    assert list(pack.partitioners) == ["acme_cut"]
    assert pack.backends == ()
    (placed,) = pack.converters  # a plugin's converter comes with it
    assert (placed.target, placed.plugin) == (torch.ops.aten.erf.default, pack.kernel_plugins[0])
    assert placed.pack == pack.info
    registry = build_registry(CompilationSettings())
    event = Event("lowering", "start")
    for observer in registry.observers:
        observer(event)
    assert sys.modules["acme_module"].pack.seen == [event]


def test_loading_is_idempotent(site: Site) -> None:
    module = site.add(
        "acme",
        GOOD
        + "\n    import builtins\n    builtins.acme_imports = getattr(builtins, 'acme_imports', 0) + 1\n",
    )
    try:
        first, second = load(), load()
        assert first["acme:acme"] is second["acme:acme"]
        assert module in sys.modules
        assert __builtins__["acme_imports"] == 1
    finally:
        __builtins__.pop("acme_imports", None)


def test_threads_share_one_load(site: Site) -> None:
    site.add(
        "acme",
        """
        import time
        from trtcore.pack import hookimpl
        calls = []

        @hookimpl
        def converters():
            calls.append(1)
            time.sleep(0.05)
            return []
        """,
    )
    gate = threading.Barrier(8)
    results: list[Any] = []

    def work() -> None:
        gate.wait()
        results.append(next(p for p in load_packs() if p.info.distribution == "acme"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len({id(result) for result in results}) == 1
    assert sys.modules["acme_module"].calls == [1]


def test_a_pack_that_loads_packs_while_it_is_imported(site: Site) -> None:
    site.add("acme", "import trtcore.packs.loading\ntrtcore.packs.load_packs()\n" + textwrap.dedent(GOOD))
    site.add("zeta")
    assert {key: p.info.status for key, p in load().items()} == {"acme:acme": "loaded", "zeta:zeta": "loaded"}


def test_two_distributions_with_one_pack_name_both_load(site: Site) -> None:
    site.add("acme", name="fast")
    site.add("beta", name="fast")
    assert [p.info.status for p in load().values()] == ["loaded", "loaded"]
    registry = build_registry(CompilationSettings())
    assert [str(c) for c in registry.candidates(RELU)] == ["acme:fast:relu", "beta:fast:relu"]
    assert {tie.kind for tie in registry.ties} == {"converter", "pack name"}


def test_the_first_of_two_versions_on_the_path_counts(site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    site.add("acme", version="1.0", module="acme_old")
    newer = tmp_path / "newer"
    newer.mkdir()
    Site(newer).add("acme", version="2.0", module="acme_new")
    monkeypatch.syspath_prepend(str(newer))
    (pack,) = load().values()
    assert (pack.info.version, pack.info.value) == ("2.0", "acme_new")
    assert "acme_old" not in sys.modules


def test_somebodys_broken_metadata_hides_nobodys_pack(site: Site) -> None:
    site.add("acme")
    broken = site.folder / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\n")
    (broken / "entry_points.txt").write_text("[trtcore]\nx = y\n")
    found, messages = load_and_warn()
    assert found["acme:acme"].info.status == "loaded"
    assert len(messages) == 1
    assert "cannot read the metadata of the distribution at" in messages[0]


# Blocking -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fast", "acme-tools", "Acme_Tools", "acme-tools:fast", "other, fast"])
@pytest.mark.parametrize("how", ["environment", "settings"])
def test_a_blocked_pack_is_not_imported(site: Site, monkeypatch: Any, name: str, how: str) -> None:
    blocked = site.add("acme-tools", name="fast")
    free = site.add("beta", name="slow")
    if how == "environment":
        monkeypatch.setenv("TRTCORE_DISABLE_PACKS", f"trtcore, {name}")
        found, messages = load_and_warn()
        assert ["'other'" in message for message in messages] == [True] * name.startswith("other")
        source = "TRTCORE_DISABLE_PACKS"
    else:
        found = load(name.rpartition(", ")[2])
        source = "settings.disabled_packs"
    assert blocked not in sys.modules
    assert free in sys.modules
    info = found["acme-tools:fast"].info
    assert (info.status, info.error) == ("disabled", f"switched off by {source}")
    assert found["acme-tools:fast"].converters == ()
    assert found["beta:slow"].info.status == "loaded"


@pytest.mark.parametrize("name", ["fas", "acme", "acme-tools:slow", "beta:fast", ""])
def test_other_names_block_nothing(site: Site, monkeypatch: Any, name: str) -> None:
    site.add("acme-tools", name="fast")
    monkeypatch.setenv("TRTCORE_DISABLE_PACKS", f"trtcore,{name}")
    found, messages = load_and_warn()
    assert found["acme-tools:fast"].info.status == "loaded"
    assert [f"TRTCORE_DISABLE_PACKS names {name!r}" in message for message in messages] == [True] * bool(name)
    if name in ("fas", "acme-tools:slow"):
        assert "did you mean fast" in messages[0] or "acme-tools:fast" in messages[0]


def test_a_stranger_in_the_environment_is_told_once(site: Site, monkeypatch: Any) -> None:
    site.add("acme")
    monkeypatch.setenv("TRTCORE_DISABLE_PACKS", "trtcore,acmee")
    assert len(load_and_warn()[1]) == 1
    assert load_and_warn()[1] == []


@pytest.mark.parametrize("value", ["yes", "none", "built-in", "2"])
def test_a_value_for_autoload_that_means_nothing_is_refused(site: Site, monkeypatch: Any, value: str) -> None:
    module = site.add("acme")
    monkeypatch.setenv("TRTCORE_PACK_AUTOLOAD", value)
    with pytest.raises(SettingsError, match=f"TRTCORE_PACK_AUTOLOAD='{value}'") as caught:
        load_packs()
    assert "builtin" in str(caught.value.advice)
    assert module not in sys.modules


def test_a_compile_that_disables_a_loaded_pack_leaves_other_compiles_alone(site: Site) -> None:
    site.add("acme")
    assert len(build_registry(CompilationSettings()).candidates(RELU)) == 1
    without = build_registry(CompilationSettings(disabled_packs=("acme",)))
    assert without.candidates(RELU) == ()
    assert [p.status for p in without.packs if p.distribution == "acme"] == ["disabled"]
    assert len(build_registry(CompilationSettings()).candidates(RELU)) == 1


def test_only_built_in_packs_where_the_environment_says_so(site: Site, monkeypatch: Any) -> None:
    site.add("acme")
    monkeypatch.delenv("TRTCORE_DISABLE_PACKS")
    monkeypatch.setenv("TRTCORE_PACK_AUTOLOAD", "builtin")
    found = {pack.info.id: pack.info for pack in load_packs()}
    assert "TRTCORE_PACK_AUTOLOAD=builtin" in found["acme:acme"].error
    assert (found["acme:acme"].status, found["trtcore:backends"].status) == ("disabled", "loaded")
    assert "acme_module" not in sys.modules


def test_disabling_what_is_not_installed_warns_with_the_nearest_name(site: Site) -> None:
    site.add("acme-tools", name="fast")
    with pytest.warns(PackWarning, match="disabled_packs names 'acme-tool'.*did you mean acme-tools"):
        load_packs(disabled=["acme-tool"])


@pytest.mark.parametrize(
    ("setting", "acme", "trtcore", "imported"),
    [
        ({"TRTCORE_PACK_AUTOLOAD": "0"}, "disabled", "disabled", set()),
        ({"TRTCORE_DISABLE_PACKS": "trtcore"}, "loaded", "disabled", {"acme_module"}),
        pytest.param(
            {"TRTCORE_PACK_AUTOLOAD": "builtin"}, "disabled", "loaded", {"trtcore_converters", "trtcore_backends"},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_blocking_in_a_fresh_process(
    site: Site, setting: dict[str, str], acme: str, trtcore: str, imported: set[str]
) -> None:
    site.add("acme")
    code = """
        import json, sys
        import trtcore.packs.loading as packs
        found = {p.info.id: p.info.status for p in packs.load_packs()}
        print(json.dumps([found, list(sys.modules)]))
    """
    run = site.run(code, **setting)
    assert run.returncode == 0, run.stderr
    found, modules = json.loads(run.stdout)
    assert (found["acme:acme"], found["trtcore:aten"], found["trtcore:backends"]) == (acme, trtcore, trtcore)
    assert imported == {"acme_module", "trtcore_converters", "trtcore_backends"} & set(modules)


# Versions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "requires",
    [
        (),
        ("torch",),
        ("trtcore",),
        ("TRTcore>=0.0.1",),
        ('trtcore>=99; python_version < "3"',),
        ('trtcore>=99; extra == "gpu"',),
        ("this is no requirement",),
        ("trtcore-something>=99",),
    ],
)
def test_version_ranges_that_fit(site: Site, requires: tuple[str, ...]) -> None:
    site.add("acme", requires=requires)
    assert load()["acme:acme"].info.status == "loaded"


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        (("torch", "trtcore>=99"), "it requires trtcore>=99, and this is trtcore "),
        (("trtcore<0.0.1",), "it requires trtcore<0.0.1, and this is trtcore "),
        (("trtcore ???",), "its requirement 'trtcore ???' cannot be read"),
    ],
)
def test_version_ranges_that_do_not_fit_are_seen_before_import(
    site: Site, requires: tuple[str, ...], said: str
) -> None:
    module = site.add("acme", requires=requires)
    site.add("beta")
    found, messages = load_and_warn()
    info = found["acme:acme"].info
    assert info.status == "incompatible"
    assert info.error is not None
    assert info.error.startswith(said)
    assert module not in sys.modules
    assert found["beta:beta"].info.status == "loaded"
    (message,) = messages
    assert message.startswith(f"trtcore skips pack acme:acme 1.2: {said}")
    assert "pip install --upgrade acme" in message
    assert "TRTCORE_DISABLE_PACKS=acme:acme" in message


# Failing ------------------------------------------------------------------------------------------------

HEAD = "from trtcore.pack import hookimpl, converters_in, converter\nimport torch\n"
FAILURES = {
    "raises": ("raise RuntimeError('boom')", "loading acme_module raised RuntimeError('boom')"),
    "missing module": ("import nobody_has_this", "No module named 'nobody_has_this'"),
    "syntax": ("def (", "SyntaxError"),
    "exits": ("import sys; sys.exit(3)", "raised SystemExit(3)"),
    "no hooks": ("x = 1", "has no hook implementation"),
    "unknown hook": (
        "@hookimpl\ndef convertors(): return []",
        "it has a hook 'convertors', and trtcore calls none",
    ),
    "unmarked": (
        "@hookimpl\ndef decompositions(): return {}\ndef converters(): return []",
        "its function converters is called like a hook and is not marked",
    ),
    "signature": ("@hookimpl\ndef converters(registry): return []", "registry"),
    "wrapper": ("@hookimpl(wrapper=True)\ndef converters():\n    return (yield)", "is a wrapper"),
    "hook raises": (
        "@hookimpl\ndef converters(): raise KeyError('k')",
        "its hook converters raised KeyError('k')",
    ),
    "generator raises": (
        "@hookimpl\ndef converters():\n    yield from ()\n    raise KeyError('k')",
        "its hook converters raised KeyError('k')",
    ),
    "returns a number": ("@hookimpl\ndef converters(): return 3", "returned 3 (int), which is no iterable"),
    "returns a string": ("@hookimpl\ndef converters(): return 'relu'", "which is no iterable"),
    "returns None": ("@hookimpl\ndef converters(): pass", "its hook converters returned None"),
    "returns functions": ("@hookimpl\ndef converters(): return [len]", "no Converter"),
    "wrong pass": ("@hookimpl\ndef lowering_passes(): return [len]", "no LoweringPass"),
    "wrong plugin": ("@hookimpl\ndef kernel_plugins(): return [3]", "no KernelPlugin"),
    "wrong backend": ("@hookimpl\ndef backends(): return ['tensorrt']", "no Backend"),
    "wrong table": ("@hookimpl\ndef decompositions(): return [1]", "which is no mapping"),
    "wrong op": ("@hookimpl\ndef decompositions(): return {'relu': len}", "which is not an OpOverload"),
    "wrong function": (
        "@hookimpl\ndef decompositions(): return {torch.ops.aten.relu.default: 3}",
        "which is not callable",
    ),
    "wrong name": ("@hookimpl\ndef partitioners(): return {3: len}", "which is not a name"),
    "bad converter": ("@converter(torch.ops.aten.add)\ndef f(ctx, x): pass", "family of ops"),
    "nothing declared": (
        "import math\n@hookimpl\ndef converters(): return converters_in(math)",
        "'math' declares no converter",
    ),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failing_pack_is_skipped_with_one_warning_and_the_others_go_on(site: Site, kind: str) -> None:
    code, said = FAILURES[kind]
    site.add("acme", HEAD + code)
    site.add("beta")
    found, messages = load_and_warn()
    info = found["acme:acme"].info
    assert info.status == "failed"
    assert info.error is not None
    assert said in info.error
    assert found["acme:acme"].converters == ()
    assert found["beta:beta"].info.status == "loaded"
    (message,) = messages
    assert message.startswith("trtcore skips pack acme:acme 1.2: ")
    assert said in message
    assert "To fix it: " in message
    assert "None" not in message.partition("To fix it: ")[2]
    assert message.endswith("To switch it off: TRTCORE_DISABLE_PACKS=acme:acme")
    assert load_and_warn()[1] == []


def test_an_entry_point_that_names_no_module(site: Site) -> None:
    module = site.add("acme")
    (site.folder / f"{module}.py").unlink()
    _, (message,) = load_and_warn()
    assert "To fix it: the module is not there; pip install --force-reinstall acme" in message


@pytest.mark.parametrize("kind", ["raises", "returns a number", "exits"])
def test_strict_packs_raise(site: Site, monkeypatch: Any, kind: str) -> None:
    code, said = FAILURES[kind]
    site.add("acme", HEAD + code)
    monkeypatch.setenv("TRTCORE_STRICT_PACKS", "1")
    for _ in range(2):
        with pytest.raises(PackError) as caught:
            load_packs()
        assert said in caught.value.message
        assert caught.value.pack == "acme:acme 1.2"
        assert caught.value.advice
    monkeypatch.setenv("TRTCORE_STRICT_PACKS", "0")
    assert len(load_and_warn()[1]) == 1


def test_an_unknown_optional_hook_is_for_other_versions(site: Site) -> None:
    site.add("acme", GOOD + "\n    @hookimpl(optionalhook=True)\n    def a_hook_of_tomorrow(): return 1\n")
    assert load()["acme:acme"].info.status == "loaded"


def test_ctrl_c_while_a_pack_is_imported_is_ctrl_c(site: Site) -> None:
    site.add("acme", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_packs()


def test_a_failing_observer_names_its_pack(site: Site) -> None:
    site.add("acme", HEAD + "@hookimpl\ndef observe(event): raise ValueError('no')")
    registry = build_registry(CompilationSettings())
    ctx = CompileContext(CompilationSettings(), registry, observers=registry.observers)
    with pytest.warns(RuntimeWarning, match=r"the observer of pack acme:acme 1\.2 raised ValueError\('no'\)"):
        ctx.emit("build", "start")


# Process registry and packs by hand ---------------------------------------------------------------------


def test_a_converter_outside_packs_is_in_the_next_registry(site: Site) -> None:
    with scoped_registry():

        @converter(RELU)
        def mine(ctx: Any, x: Any) -> None: ...

        (found,) = build_registry(CompilationSettings()).candidates(RELU)
        assert (found.implementation, found.scope, found.source) == (mine, Scope.PROCESS, "process")
    assert build_registry(CompilationSettings()).candidates(RELU) == ()


def test_converters_of_a_pack_imported_by_hand_stay_the_packs(site: Site) -> None:
    module = site.add("acme")
    __import__(module)
    assert [str(c) for c in build_registry(CompilationSettings()).candidates(RELU)] == ["acme:acme:relu"]
    assert build_registry(CompilationSettings(disabled_packs=("acme",))).candidates(RELU) == ()
    assert process_converters() == ()


def test_converters_of_a_failed_pack_do_not_act(site: Site) -> None:
    site.add("acme", textwrap.dedent(GOOD).replace("{priority}", "0") + "\nraise RuntimeError")
    load_and_warn()
    assert build_registry(CompilationSettings()).candidates(RELU) == ()


def test_a_pack_registered_by_hand(site: Site) -> None:
    with scoped_registry():

        @converter(RELU)
        def relu(ctx: Any, x: Any) -> None: ...

        class Mine:
            @hookimpl
            def converters(self) -> tuple[Converter, ...]:
                return converters_in(relu)

        pack = register_pack(Mine, name="mine")
        assert pack.info.id == "in-process:mine"
        assert [str(c) for c in build_registry(CompilationSettings()).candidates(RELU)] == [
            "in-process:mine:relu"
        ]
        assert build_registry(CompilationSettings(disabled_packs=("mine",))).candidates(RELU) == ()
        register_pack(Mine(), name="mine")
        assert len(build_registry(CompilationSettings()).candidates(RELU)) == 1
    assert build_registry(CompilationSettings()).candidates(RELU) == ()


def test_a_pack_registered_by_hand_that_fails_raises() -> None:
    with pytest.raises(PackError, match="it has no hook implementation"):
        register_pack(object(), name="empty")


def test_settings_reach_the_registry(site: Site) -> None:
    site.add("acme", priority=100)
    site.add("beta")

    def at_call_site(ctx: Any, x: Any) -> None: ...

    options = CompilationSettings(pins={"aten.relu.default": "beta"}, converters={RELU: at_call_site})
    names = [str(c) for c in build_registry(options).candidates(RELU)]
    assert names == ["call site:at_call_site", "beta:beta:relu", "acme:acme:relu"]
    with pytest.raises(SettingsError, match="its converters are acme:acme:relu, beta:beta:relu"):
        build_registry(CompilationSettings(pins={"aten.relu.default": "gamma"}))


# Listing ------------------------------------------------------------------------------------------------


def test_describe_packs(site: Site) -> None:
    site.add("acme", priority=100)
    site.add("beta")
    site.add("gone", "raise RuntimeError('boom')")
    site.add("late", requires=("trtcore>=99",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        described = {p["distribution"]: p for p in describe_packs()}
    json.dumps(list(described.values()))
    assert described["acme"] == {
        "name": "acme",
        "distribution": "acme",
        "version": "1.2",
        "scope": "third_party",
        "value": "acme_module",
        "status": "loaded",
        "error": None,
        "gives": {"converters": ["aten.relu.default"]},
        "shadowed": [],
        "waiting": [],
    }
    assert described["beta"]["shadowed"] == [
        {"kind": "converters", "subject": "aten.relu.default", "converter": "relu", "by": "acme:acme:relu"}
    ]
    assert (described["gone"]["status"], described["gone"]["gives"]) == ("failed", {})
    assert "boom" in described["gone"]["error"]
    assert described["late"]["status"] == "incompatible"
    assert described["trtcore"]["status"] == "disabled"


def test_describe_packs_without_import(site: Site) -> None:
    module = site.add("acme")
    site.add("late", requires=("trtcore>=99",))
    described = {p["distribution"]: p for p in describe_packs(no_import=True)}
    assert (described["acme"]["status"], described["acme"]["gives"]) == ("not imported", {})
    assert described["late"]["status"] == "incompatible"
    assert module not in sys.modules


# The built-in packs -------------------------------------------------------------------------------------


def test_the_built_in_packs_load(site: Site, monkeypatch: Any) -> None:
    monkeypatch.delenv("TRTCORE_DISABLE_PACKS")
    monkeypatch.setenv("TRTCORE_STRICT_PACKS", "1")
    loaded = {p.info.id: p for p in load_packs()}
    for name in ("backends", "aten"):
        assert loaded[f"trtcore:{name}"].info.status == "loaded"
        assert loaded[f"trtcore:{name}"].info.scope is Scope.BUILT_IN
    assert {b.name for b in loaded["trtcore:backends"].backends} == {"tensorrt", "tensorrt_rtx"}
    assert loaded["trtcore:aten"].converters


def test_where_a_pack_raised_and_what_its_converters_wait_for(site: Site) -> None:
    site.add("acme", HEAD + "import a_module_that_nobody_has")
    site.add(
        "beta",
        HEAD
        + """
@converter("nobody::registers_it")
def waits(ctx, x): ...

@hookimpl
def converters(): return [*converters_in(waits)]
""",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        described = {p["distribution"]: p for p in describe_packs()}
    assert re.search(r"nobody_has.* at .*acme_module\.py:\d+$", described["acme"]["error"])
    (waiting,) = described["beta"]["waiting"]
    assert waiting["converter"] == "waits"
    assert "nothing in this process has registered the op nobody::registers_it" in waiting["reason"]


# What hooks may return ----------------------------------------------------------------------------------


def test_a_decorated_function_or_a_module_stands_for_its_converters(site: Site) -> None:
    source = GOOD.replace("return converters_in(sys.modules[__name__])", "return {what}")
    site.add("acme", source.replace("{what}", "[relu]"))
    site.add("beta", source.replace("{what}", "[sys.modules[__name__]]"))
    found = load()
    assert [str(one) for one in found["acme:acme"].converters] == ["acme:acme:relu"]
    assert [str(one) for one in found["beta:beta"].converters] == ["beta:beta:relu"]


def test_refusals_are_loaded_and_listed(site: Site) -> None:
    site.add(
        "acme",
        GOOD
        + "\n    @hookimpl\n    def refusals(): return {'aten::neg.default': 'never', 'no::op': 'not there'}\n",
    )
    (pack,) = load().values()
    assert [(str(one.target), one.reason, str(one.pack)) for one in pack.refusals] == [
        ("aten::neg.default", "never", "acme:acme 1.2"),
        ("no::op", "not there", "acme:acme 1.2"),
    ]
    (described,) = (one for one in describe_packs() if one["name"] == "acme")
    assert described["gives"]["refusals"] == ["aten.neg.default", "no.op"]
    registry = build_registry(CompilationSettings())
    assert [str(one) for one in registry.refusals] == ["never (refused by acme:acme)"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{'aten::neg': ''}", "is not a reason in words"),
        ("{'aten::neg': None}", "is not a reason in words"),
        ("{3: 'never'}", "which is not an OpOverload, or the name of one"),
        ("['aten::neg']", "which is no mapping"),
    ],
)
def test_refusals_that_are_none(site: Site, given: str, said: str) -> None:
    site.add("acme", GOOD + f"\n    @hookimpl\n    def refusals(): return {given}\n")
    found, (message,) = load_and_warn()
    assert found["acme:acme"].info.status == "failed"
    assert said in message


MUTE = """
    class Mute(Exception):
        def __str__(self): raise ValueError("no words")
        __repr__ = __str__
"""


@pytest.mark.parametrize(
    "ending",
    [
        "raise Mute",
        "@hookimpl\n    def decompositions(): raise Mute",
        "@hookimpl\n    def backends():\n        yield from ()\n        raise Mute",
        "@hookimpl\n    def backends(): return [Mute()]",
        "@hookimpl\n    def refusals(): return {'aten::neg': Mute()}",
        "@hookimpl\n    def partitioners(): return {Mute(): print}",
    ],
)
def test_what_cannot_be_shown_is_named_by_its_type(site: Site, ending: str) -> None:
    site.add("acme", GOOD + MUTE + f"\n    {ending}\n")
    found, (message,) = load_and_warn()
    assert found["acme:acme"].info.status == "failed"
    assert "<Mute, whose text cannot be made>" in message


# The doors of the packs that ship ---------------------------------------------------------------------------


def test_a_family_is_found_by_itself() -> None:
    from trtcore_converters import pack as aten_pack

    families = aten_pack.families()
    assert {"elementwise", "activations", "pooling_indices"} <= set(families)
    assert not {one for one in families if one.startswith("_")} | ({*families} & {*aten_pack.NO_FAMILIES})
    assert {aten_pack.family_of(one) for one in aten_pack.converters()} <= set(families)


def test_a_name_that_is_no_module_of_the_pack_is_an_error(monkeypatch: Any) -> None:
    from trtcore_converters import pack as aten_pack

    monkeypatch.setattr(aten_pack, "NO_FAMILIES", (*aten_pack.NO_FAMILIES, "elementwize"))
    with pytest.raises(ImportError, match="NO_FAMILIES names elementwize"):
        aten_pack.families()


def test_a_family_without_converters_is_an_error(monkeypatch: Any, tmp_path: Path) -> None:
    import trtcore_converters
    from trtcore_converters import pack as aten_pack

    (tmp_path / "forgotten.py").write_text('"""No converter."""\n')
    monkeypatch.setattr(trtcore_converters, "__path__", [*trtcore_converters.__path__, str(tmp_path)])
    assert "forgotten" in aten_pack.families()
    with pytest.raises(PackError, match=r"forgotten' declares no converter"):
        aten_pack.converters()


def test_the_kernel_packs_sources_are_found_by_themselves() -> None:
    from trtcore_plugins.pack import sources

    assert [one.__name__ for one in sources()] == [
        "trtcore_plugins.codegen.contributions",
        "trtcore_plugins.kernels.contributions",
    ]


# --- the registry of one compile after another ----------------------------------------------------------------


def test_the_latest_registry_serves_until_something_comes_or_goes():
    from trtcore.packs.loading import build_registry
    from trtcore.settings import CompilationSettings

    plain = CompilationSettings.from_kwargs()
    first = build_registry(plain)
    assert build_registry(CompilationSettings.from_kwargs(optimization_level=1)) is first
    pinned = CompilationSettings.from_kwargs(pins={"aten.relu.default": "trtcore:aten"})
    assert build_registry(pinned) is not first
    without = build_registry(CompilationSettings.from_kwargs(disabled_packs=["trtcore:aten"]))
    assert not without.candidates(torch.ops.aten.relu.default)
    assert build_registry(plain).candidates(torch.ops.aten.relu.default)
    with scoped_registry():

        @converter(torch.ops.aten.relu.default)
        def mine(ctx, x):
            return x

        assert mine.__name__ in str(build_registry(plain).candidates(torch.ops.aten.relu.default)[0].name)
    assert build_registry(plain).candidates(torch.ops.aten.relu.default) == first.candidates(
        torch.ops.aten.relu.default
    )


def test_an_op_that_is_registered_later_finds_its_converter():
    """A converter waits for the op that it names, across compiles."""
    from trtcore.packs.loading import build_registry
    from trtcore.settings import CompilationSettings

    plain = CompilationSettings.from_kwargs()
    with scoped_registry():

        @converter("later_op::twice")
        def twice(ctx, x):
            return x

        assert "later_op::twice" in [one.target for one, _ in build_registry(plain).unknown]
        library = torch.library.Library("later_op", "DEF")
        library.define("twice(Tensor x) -> Tensor")
        assert build_registry(plain).candidates(torch.ops.later_op.twice.default)
        library._destroy()
