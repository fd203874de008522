"""`trtcore doctor`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from trtcore.backend.base import Backend
from trtcore.cli.app import main
from trtcore.cli.doctor import summarise_features


def test_a_machine_without_a_backend_exits_1_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTCORE_DISABLE_PACKS", "trtcore:backends")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "no TensorRT backend can be used here" in result.stdout
    assert result.stdout.startswith("What is wrong (engines cannot be built here)")


def test_json(trt_backend: Backend) -> None:
    result = CliRunner().invoke(main, ["doctor", "--json", "--quick"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["schema"] == 1
    assert data["healthy"] is True
    assert "torch" in data["versions"]
    backends = {backend["name"]: backend for backend in data["backends"]}
    assert backends[trt_backend.name]["usable"]
    assert backends[trt_backend.name]["chosen"]
    assert backends[trt_backend.name]["version"] == str(trt_backend.version)
    assert any("bindings" in name for name, _ in backends[trt_backend.name]["distributions"])


def test_text_names_backend_runtime_and_cache(trt_backend: Backend) -> None:
    result = CliRunner().invoke(main, ["doctor", "--quick"])
    assert result.exit_code == 0, result.output
    assert f"{trt_backend.name} {trt_backend.version}" in result.stdout
    assert "runtime: " in result.stdout
    assert "cache" in result.stdout
    for backend in ("tensorrt", "tensorrt_rtx"):
        assert backend in result.stdout


def test_the_verdict_is_first_and_tensorrts_words_are_for_verbose(
    trt_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trtcore.backend.base import Capability

    words = "IBuilder::buildSerializedNetwork: Error Code 4: Internal Error (raw words)"
    monkeypatch.setattr(type(trt_backend), "features", lambda self: ("flag:REFIT", "flag:TF32"))
    monkeypatch.setattr(
        type(trt_backend),
        "can",
        lambda self, feature, target: Capability(
            feature == "flag:TF32", "" if feature == "flag:TF32" else words
        ),
    )
    result = CliRunner().invoke(main, ["doctor"])
    assert result.stdout.startswith(("Everything that engines need is here.", "What is wrong"))
    assert "cannot: flag:REFIT" in result.stdout
    assert "raw words" not in result.stdout
    assert "raw words" in CliRunner().invoke(main, ["doctor", "--verbose"]).stdout


def test_unreadable_metadata_hides_no_backend(trt_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(self: Backend) -> None:
        raise OSError("unreadable")

    monkeypatch.setattr(type(trt_backend), "distributions", unreadable)
    data = json.loads(CliRunner().invoke(main, ["doctor", "--json", "--quick"]).stdout)
    (backend,) = [one for one in data["backends"] if one["name"] == trt_backend.name]
    assert backend["usable"]
    assert backend["distributions"] == []


def test_an_unusable_backend_comes_with_its_command(trt_backend: Backend) -> None:
    data = json.loads(CliRunner().invoke(main, ["doctor", "--json", "--quick"]).stdout)
    for backend in data["backends"]:
        assert backend["usable"] or (backend["reason"] and "pip install" in backend["fix"])


def test_a_failed_pack_is_a_problem_and_not_the_end(
    trt_backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("site")
    info = folder / "sadpack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sadpack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trtcore]\nsad = sad_pack_module\n")
    (folder / "sad_pack_module.py").write_text("raise RuntimeError('sad')\n")
    monkeypatch.syspath_prepend(str(folder))
    from trtcore.packs.loading import forget_packs

    forget_packs()
    try:
        result = CliRunner().invoke(main, ["doctor", "--quick"])
    finally:
        forget_packs()
    assert result.exit_code == 0
    assert "the pack sadpack:sad 1.0 could not be loaded" in result.stdout
    assert "TRTCORE_DISABLE_PACKS=sadpack:sad" in result.stdout


def test_features_become_one_name_a_layer() -> None:
    can, cannot = summarise_features(
        {
            "flag:REFIT": (False, "IBuilder::build: Error Code 1: no"),
            "flag:TF32": (True, ""),
            "layer:add_topk": (True, ""),
            "layer:add_topk:bool": (False, "input has type Bool"),
            "layer:add_attention": (False, "not decomposable"),
            "layer:add_attention:float16": (True, ""),
            "layer:add_nms": (False, "no runners\nand more"),
        }
    )
    assert can == ["flag:TF32", "topk", "attention (only float16)"]
    assert cannot == {"flag:REFIT": "no", "nms": "no runners"}
