"""Engines for Windows: the error of a backend that builds none here, and the files."""

import pytest
import torch

import trtcore
from trtcore.backend import base
from trtcore.backend.base import WINDOWS
from trtcore.errors import ArtifactError, BackendUnavailableError, SettingsError
from trtcore.packs.loading import build_registry
from trtcore.settings import CompilationSettings

X = torch.randn(3, 8)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return torch.export.export(torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()).eval(), (X,))


@pytest.fixture
def on_windows(monkeypatch):
    """This machine as one that says it is Windows: what is built is for Windows, as far as the files know."""
    from trtcore.archive import windows

    for module in (base, windows):
        monkeypatch.setattr(module, "host_platform", lambda: WINDOWS)


def test_enable_cross_compile_for_windows_is_tensorrts_own_error(program):
    with pytest.raises(SettingsError, match="enable_cross_compile_for_windows=True cannot be done") as caught:
        trtcore.dynamo.cross_compile_for_windows(program, min_block_size=1)
    assert "does not support building engines" in str(caught.value)
    assert "windows_x86_64" in str(caught.value)
    assert "torch.export.save" in caught.value.advice


def test_the_advice_works(program, tmp_path):
    torch.export.save(program, tmp_path / "a.pt2")
    compiled = trtcore.dynamo.compile(torch.export.load(tmp_path / "a.pt2"), min_block_size=1)
    torch.testing.assert_close(compiled(X), program.module()(X))


@pytest.mark.parametrize(
    "entry",
    [
        lambda program, **kwargs: trtcore.dynamo.compile(program, **kwargs),
        lambda program, **kwargs: trtcore.explain(program, **kwargs),
        lambda program, **kwargs: trtcore.compile(program, **kwargs),
        lambda program, **kwargs: trtcore.compile(torch.nn.ReLU(), inputs=[X], ir="torch_compile", **kwargs),
    ],
)
def test_only_through_its_own_entry_point(program, entry):
    with pytest.raises(SettingsError, match="enable_cross_compile_for_windows") as caught:
        entry(program, enable_cross_compile_for_windows=True)
    assert "trtcore.dynamo.cross_compile_for_windows" in caught.value.advice
    entry(program, enable_cross_compile_for_windows=False)


def test_nor_may_it_be_turned_off_there(program):
    with pytest.raises(SettingsError, match="cross_compile_for_windows builds for Windows"):
        trtcore.dynamo.cross_compile_for_windows(program, enable_cross_compile_for_windows=False)


def test_the_setting_is_another_target():
    backend = base.resolve_backend("auto", build_registry(CompilationSettings()).backends)
    target = backend.default_target(CompilationSettings(enable_cross_compile_for_windows=True))
    assert target.platform == WINDOWS
    assert backend.default_target(CompilationSettings()).platform == base.host_platform()


def test_nothing_to_cross_on_windows(program, on_windows):
    with pytest.raises(SettingsError, match="this is Windows") as caught:
        trtcore.dynamo.cross_compile_for_windows(program)
    assert caught.value.advice == "use trtcore.dynamo.compile"


def test_files(program, on_windows, monkeypatch, tmp_path):
    path = tmp_path / "for_windows.pt2"
    module = trtcore.dynamo.compile(program, min_block_size=1, runtime="reference")
    trtcore.dynamo.save_cross_compiled_exported_program(module, path)
    loaded = trtcore.dynamo.load_cross_compiled_exported_program(path)
    torch.testing.assert_close(loaded(X), program.module()(X))
    monkeypatch.undo()
    with pytest.raises(BackendUnavailableError, match="and this is linux") as caught:
        trtcore.dynamo.load_cross_compiled_exported_program(path)
    assert "load it on Windows" in caught.value.advice
    elsewhere = trtcore.load(path, runtime="reference")  # what the advice says
    torch.testing.assert_close(elsewhere(X), program.module()(X))


def test_engines_for_another_platform_are_told(program, monkeypatch, tmp_path):
    module = trtcore.dynamo.compile(program, min_block_size=1)
    path = tmp_path / "here.pt2"
    with pytest.raises(ArtifactError, match="engine_0, which is built for linux"):
        trtcore.dynamo.save_cross_compiled_exported_program(module, path)
    assert not path.exists()
    trtcore.save(module, path)
    monkeypatch.setattr("trtcore.archive.windows.host_platform", lambda: WINDOWS)
    with pytest.raises(ArtifactError, match=r"here\.pt2 has engine_0") as caught:
        trtcore.dynamo.load_cross_compiled_exported_program(path)
    assert caught.value.advice == "use trtcore.load"
