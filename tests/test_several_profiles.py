"""Several optimisation profiles, from Input to a loaded file."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import trtcore
from trtcore.artifact.manifest import EngineManifest
from trtcore.engine import build
from trtcore.errors import ArtifactError, ExportError, InputError
from trtcore.runtime import optimization_profile
from trtcore.runtime.engine import resolve
from trtcore.runtime.op import execute_engine
from trtcore.runtime.plans import plans_of

ONE = ((1, 4), (1, 4), (1, 4))
MANY = ((8, 4), (16, 4), (32, 4))
BATCHES = trtcore.Input(profiles=[ONE, MANY], name="x")


class Layers(nn.Module):
    """Two segments: `erf` stays in torch in the tests that ask for it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.second(torch.erf(torch.relu(self.first(x))))


class Masked(nn.Module):
    def forward(self, x, mask):
        return (x * mask.unsqueeze(-1)).sum(1) + x[:, 0]


@pytest.fixture
def profiles_built(monkeypatch):
    """The number of optimisation profiles in the builder config of every build."""
    found = []
    original = build.stream_plan

    def stream_plan(backend, builder, network, config, logger, write, **rest):
        found.append(config.num_optimization_profiles)
        return original(backend, builder, network, config, logger, write, **rest)

    monkeypatch.setattr(build, "stream_plan", stream_plan)
    return found


@pytest.fixture(scope="module")
def compiled():
    return trtcore.compile(Layers().eval(), [BATCHES], min_block_size=1)


@pytest.fixture(scope="module")
def overlapping():
    both = trtcore.Input(profiles=[((1, 4), (1, 4), (8, 4)), ((4, 4), (16, 4), (32, 4))])
    return trtcore.compile(Layers().eval(), [both], min_block_size=1)


def manifests(compiled):
    calls = [node for node in compiled.graph.nodes if node.target is execute_engine]
    return [EngineManifest.from_json(node.args[3]) for node in calls]


def test_every_engine_is_built_for_every_profile(profiles_built):
    model = Layers().eval()
    compiled = trtcore.compile(model, [BATCHES], min_block_size=1, torch_executed_ops={"aten.erf"})
    assert profiles_built == [2, 2]
    assert [m.inputs[0].profiles for m in manifests(compiled)] == [
        (ONE, MANY),
        tuple(tuple((rows, 6) for rows, _ in profile) for profile in (ONE, MANY)),
    ]
    for rows in (1, 8, 16, 32):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [2, 7, 33, 0])
def test_a_size_between_the_profiles_is_refused_and_they_are_listed(compiled, rows):
    with pytest.raises(InputError) as caught:
        compiled(torch.randn(rows, 4))
    if 1 <= rows <= 32:
        assert f"no optimisation profile takes x ({rows}, 4)" in str(caught.value)
        assert "profile 0: x (1, 4)" in str(caught.value)
        assert "profile 1: x (8..32, 4)" in str(caught.value)


def test_profiles_of_several_inputs_belong_together():
    x = trtcore.Input(profiles=[(1, 8, 4), ((4, 2, 4), (4, 4, 4), (4, 8, 4))])
    mask = trtcore.Input(profiles=[(1, 8), ((4, 2), (4, 4), (4, 8))])
    model = Masked()
    compiled = trtcore.compile(model, [x, mask], min_block_size=1)
    for shape in [(1, 8), (4, 2), (4, 8)]:
        given = torch.randn(*shape, 4), torch.rand(shape)
        torch.testing.assert_close(compiled(*given), model(*given), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=re.escape("takes x (1, 4, 4), mask (1, 4); there are")):
        compiled(torch.randn(1, 4, 4), torch.rand(1, 4))  # batch of one profile, length of the other


def test_an_input_without_profiles_is_the_same_in_all():
    x = trtcore.Input(profiles=[(1, 8, 4), (4, 8, 4)])
    scale = trtcore.Input(min_shape=(1,), opt_shape=(4,), max_shape=(4,))

    class Scaled(nn.Module):
        def forward(self, x, scale):
            return x * 2, scale + 1

    compiled = trtcore.compile(Scaled(), [x, scale], min_block_size=1)
    assert [b.all_profiles for m in manifests(compiled) for b in m.inputs] == [
        (((1, 8, 4),) * 3, ((4, 8, 4),) * 3),
        (((1,), (4,), (4,)), ((1,), (4,), (4,))),
    ]
    assert compiled(torch.ones(4, 8, 4), torch.ones(1))[1].item() == 2


def test_different_numbers_of_profiles_are_refused():
    x, mask = trtcore.Input(profiles=[(1, 8, 4), (2, 8, 4)]), trtcore.Input(profiles=[(1, 8), (2, 8), (3, 8)])
    with pytest.raises(InputError, match="input x has 2 profiles, input mask has 3"):
        trtcore.compile(Masked(), [x, mask])


def test_profiles_narrow_a_dynamic_exported_program(profiles_built):
    model = Layers().eval()
    exported = torch.export.export(
        model, (torch.randn(4, 4),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    )
    compiled = trtcore.dynamo.compile(exported, arg_inputs=[BATCHES], min_block_size=1)
    assert profiles_built == [2]
    x = torch.randn(8, 4)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="no optimisation profile takes"):
        compiled(torch.randn(4, 4))
    wide = trtcore.Input(profiles=[ONE, ((8, 4), (16, 4), (65, 4))])
    with pytest.raises(InputError, match=r"8\.\.65, but the program was exported for 1\.\.64"):
        trtcore.dynamo.compile(exported, arg_inputs=[wide])


def test_a_profile_that_the_model_cannot_take_is_refused():
    class Even(nn.Module):
        def forward(self, x):
            return x.view(2, -1) * 2

    profiles = trtcore.Input(profiles=[(2, 3), (5, 3)])
    with pytest.raises(ExportError):
        trtcore.compile(Even(), [profiles])


def test_the_report_lists_the_profiles(compiled):
    report = compiled.report
    assert [list(profile.values()) for profile in report.profiles] == [[(1, 1, 1)], [(8, 16, 32)]]
    assert list(report.symbols.values()) == [(1, 1, 32)]
    assert type(report).from_json(report.to_json()) == report
    lines = [line for line in str(report).splitlines() if "profile " in line]
    assert len(lines) == 2
    assert "8..32 (opt 16)" in lines[1]


def test_a_saved_module_keeps_its_profiles(compiled, tmp_path):
    trtcore.save(compiled, tmp_path / "layers.pt2")
    loaded = trtcore.load(tmp_path / "layers.pt2")
    assert [m.inputs[0].profiles for m in manifests(loaded)] == [(ONE, MANY)]
    for rows in (1, 8, 32):
        x = torch.randn(rows, 4)
        assert torch.equal(loaded(x), compiled(x))
    with pytest.raises(InputError, match="no optimisation profile takes"):
        loaded(torch.randn(7, 4))


def test_an_engine_checks_its_profiles_itself(compiled):
    (node,) = (node for node in compiled.graph.nodes if node.target is execute_engine)
    (plan,) = plans_of(compiled).values()
    engine = resolve(node.args[3], plan)
    assert engine.run([torch.randn(32, 4)], [])[0].shape == (32, 2)
    with pytest.raises(InputError, match=r"no optimisation profile takes x \(7, 4\)"):
        engine.run([torch.randn(7, 4)], [])


class TestChoosing:
    def test_a_profile_that_takes_the_shape(self, overlapping):
        x = torch.randn(6, 4)
        expected = overlapping(x)
        for index in range(2):
            with optimization_profile(index):
                assert torch.equal(overlapping(x), expected)

    def test_a_profile_that_does_not(self, overlapping):
        with optimization_profile(1):
            overlapping(torch.randn(32, 4))
            with pytest.raises(InputError, match=r"profile 1 does not take x \(2, 4\)"):
                overlapping(torch.randn(2, 4))
        overlapping(torch.randn(2, 4))

    def test_a_profile_that_is_not_there(self, overlapping):
        with (
            optimization_profile(2),
            pytest.raises(InputError, match="has 2 optimisation profiles, not number 2"),
        ):
            overlapping(torch.randn(6, 4))

    def test_engines_without_profiles_do_not_mind(self):
        compiled = trtcore.compile(Layers().eval(), [torch.randn(2, 4)], min_block_size=1)
        with optimization_profile(3):
            assert compiled(torch.randn(2, 4)).shape == (2, 2)

    @pytest.mark.parametrize("index", [-1, 1.0, None, True])
    def test_what_is_no_number(self, index):
        with pytest.raises(InputError, match="a number from 0"), optimization_profile(index):
            pass


def test_a_tampered_profile_is_refused(compiled):
    text = manifests(compiled)[0].to_json()
    assert "[[[1,4],[1,4],[1,4]],[[8,4],[16,4],[32,4]]]" in text
    for wrong in ("[[[1,4],[1,4],[1,4]],[[8,4],[16,4],[99,4]]]", "[[[1,4],[1,4],[1,4]]]", "[]", "7"):
        with pytest.raises(ArtifactError):
            EngineManifest.from_json(text.replace("[[[1,4],[1,4],[1,4]],[[8,4],[16,4],[32,4]]]", wrong))
