"""The way out of a name or an argument of the packs' door: it works, it warns, and it does not outlive its version."""

from __future__ import annotations

import warnings
from typing import Any

import pluggy
import pytest
from packaging.version import Version

import trtcore
import trtcore.pack
from trtcore.pack import Core, hookimpl, register_pack, scoped_registry
from trtcore.packs import deprecation, hookspecs
from trtcore.packs.deprecation import Deprecation
from trtcore.packs.hooks import hook_names

OLD = Deprecation("trtcore.pack.old_name", "99.0", "use hookimpl")


def overdue(version: str) -> list[str]:
    return [one.what for one in deprecation.every() if Version(version) >= Version(one.removed_in)]


def test_nothing_outlives_its_version() -> None:
    assert overdue(trtcore.__version__) == []


def test_the_test_above_can_fail() -> None:
    assert "ctx.registry in a capability validator" in overdue("0.3.0")


def test_every_deprecation_says_what_to_write_instead() -> None:
    assert all(
        one.instead and one.what in str(one) and one.removed_in in str(one) for one in deprecation.every()
    )


def test_a_deprecated_name_of_the_door_works_and_warns_its_user_each_time(monkeypatch: Any) -> None:
    monkeypatch.setitem(deprecation.NAMES, "old_name", ("trtcore.packs.hookspecs", OLD, "hookimpl"))
    for _ in range(2):
        with pytest.warns(DeprecationWarning, match="goes away in trtcore 99.0: use hookimpl") as caught:
            assert trtcore.pack.old_name is hookimpl  # type: ignore[attr-defined]
        assert caught[0].filename == __file__


def test_the_names_that_are_not_deprecated_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in trtcore.pack.__all__:
            getattr(trtcore.pack, name)


def test_a_deprecated_hook_and_argument_warn_at_the_packs_implementation(monkeypatch: Any) -> None:
    argument = Deprecation("the argument old of the hook paint", "99.0", "use core")
    whole = Deprecation("the hook draw", "99.0", "implement paint")
    monkeypatch.setitem(deprecation.HOOK_ARGUMENTS, "paint", {"old": argument})
    monkeypatch.setitem(deprecation.HOOKS, "draw", whole)

    class Specs:
        @hookspecs.hookspec
        def paint(self, core: Any, old: Any) -> None: ...

        @hookspecs.hookspec
        def draw(self) -> None: ...

    class New:
        @hookimpl
        def paint(self, core: Any) -> str:
            return f"new {core}"

    class Old:
        @hookimpl
        def paint(self, old: Any) -> str:
            return f"old {old}"

        @hookimpl
        def draw(self) -> None: ...

    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(Specs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager.register(New())
    with pytest.warns(DeprecationWarning, match="goes away in trtcore 99.0") as caught:
        manager.register(Old())
    assert sorted(str(one.message) for one in caught) == sorted(map(str, (argument, whole)))
    assert {one.filename for one in caught} == {__file__}
    assert manager.hook.paint(core=1, old=2) == ["old 2", "new 1"]


def test_a_hook_takes_core_or_goes_without() -> None:
    seen: list[Core] = []

    class Without:
        @hookimpl
        def decompositions(self) -> dict[Any, Any]:
            return {}

    class With:
        @hookimpl
        def decompositions(self, core: Core) -> dict[Any, Any]:
            seen.append(core)
            return {}

    with scoped_registry():
        register_pack(Without(), name="without")
        register_pack(With(), name="with")
    (core,) = seen
    assert core.version == trtcore.__version__
    assert core.hooks == hook_names() > {"converters", "refusals", "observe"}


def test_a_hook_of_today_may_get_another_argument(monkeypatch: Any) -> None:
    """What a later trtcore may do: packs that do not know the argument load as before."""

    @hookspecs.hookspec
    def decompositions(core: Any, later: Any = None) -> Any: ...

    monkeypatch.setattr(hookspecs, "decompositions", decompositions)

    class Today:
        @hookimpl
        def decompositions(self, core: Core) -> dict[Any, Any]:
            return {}

    with scoped_registry(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trtcore of today does not give the argument
        assert register_pack(Today(), name="today").info.status == "loaded"
