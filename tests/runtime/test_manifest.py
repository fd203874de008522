"""EngineManifest: JSON round trip, strict reading, symbol solving."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtcore.artifact.manifest import EngineManifest, SizeBinding, TensorBinding
from trtcore.errors import ArtifactError


def manifest(**changes):
    values = {
        "id": "0123456789abcdef",
        "name": "engine_0",
        "inputs": (
            TensorBinding("x", torch.float32, ("s0", 4), ((1, 4), (2, 4), (8, 4))),
            TensorBinding("y", torch.int64, ("2*s1 + 1",), ((3,), (5,), (9,))),
        ),
        "sizes": (SizeBinding("size_s2", "s2", 0, 3, 10),),
        "outputs": (
            TensorBinding("out", torch.float16, ("s0 * s1", "s2", 4)),
            TensorBinding("fixed", torch.bool, (2, 3)),
        ),
        "symbols": {"s0": ("input", 0, 0, 1, 0), "s1": ("input", 1, 0, 2, 1), "s2": ("size", 0)},
        "backend": "tensorrt_rtx",
        "backend_version": "1.7.1",
        "target": {"compute_capability": None, "platform": "linux_x86_64"},
        "runtime": "reference",
        "packs": ({"distribution": "trtcore", "version": "0.1.0", "name": "aten", "role": "converter"},),
        "trtcore_version": "0.1.0",
        "torch_version": "2.13.0",
    }
    return EngineManifest(**{**values, **changes})


def test_round_trip_and_identity():
    m = manifest()
    again = EngineManifest.from_json(m.to_json())
    assert again == m
    assert again.to_json() == m.to_json()
    assert EngineManifest.from_json(m.to_json()) is again
    assert "\n" not in m.to_json()
    assert copy.deepcopy(m) == m
    assert pickle.loads(pickle.dumps(m)) == m


def test_solve_and_output_shapes():
    m = manifest()
    values = m.solve([(3, 4), (7,)], [5])
    assert values == {"s0": 3, "s1": 3, "s2": 5}
    assert m.output_shapes(values) == [(9, 5, 4), (2, 3)]


def test_symbols_of_an_output_are_not_solved_from_inputs():
    m = manifest(
        outputs=(
            TensorBinding("nz", torch.int64, (2, "u0")),
            TensorBinding("fixed", torch.bool, ("u0 + 1",)),
        ),
        symbols={**manifest().symbols, "u0": ("output", 0, 1)},
    )
    assert "u0" not in m.solve([(3, 4), (7,)], [5])
    assert m.output_symbols == (("u0", 0, 1),)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": "../../etc/passwd"},
        {"name": 3},
        {"runtime": "python"},
        {"inputs": (TensorBinding("x", torch.complex64, (1,)),)},
        {"inputs": (TensorBinding("x", torch.float32, (-1, 2)),)},
        {"inputs": (TensorBinding("x", torch.float32, (True,)),)},
        {"inputs": (TensorBinding("x", torch.float32, (1,) * 9),)},
        {"inputs": (TensorBinding("", torch.float32, (1,)),)},
        {"inputs": (TensorBinding("x", torch.float32, ("s0.__class__",)),)},
        {"outputs": (TensorBinding("o", torch.float32, ("s9",)),)},
        {"outputs": (TensorBinding("o", torch.float32, (1,), ((1,), (1,), (1,))),)},
        {"sizes": (SizeBinding("size_s2", "s2", 4, 3, 10),)},
        {"sizes": (SizeBinding("x", "s2", 1, 3, 10),)},
        {"sizes": ()},
        {"symbols": {"s0": ("input", 7, 0, 1, 0)}},
        {"symbols": {"s1": ("input", 1, 0, 2, 1), "s2": ("size", 0), "s0": ("input", 0, 5, 1, 0)}},
        {"symbols": {"s1": ("input", 1, 0, 2, 1), "s2": ("size", 0), "s0": ("input", 0, 0, 0, 0)}},
        {"symbols": {"s1": ("input", 1, 0, 2, 1), "s2": ("size", 0), "s0": ()}},
        {"target": {"a": object()}},
        {"packs": ({"distribution": "x"},)},
        {"format": 3},
    ],
)
def test_nonsense_is_refused(changes):
    with pytest.raises(ArtifactError):
        manifest(**changes)


def test_profiles_must_fit_their_shape():
    for profile in [((1, 4), (2, 4)), ((1,), (2,), (8,)), ((3, 4), (2, 4), (8, 4)), ((1, 3), (2, 4), (8, 5))]:
        with pytest.raises(ArtifactError):
            manifest(inputs=(TensorBinding("x", torch.float32, ("s0", 4), profile),), outputs=(), symbols={
                "s0": ("input", 0, 0, 1, 0), "s2": ("size", 0)})  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "NaN",
        '{"format":1}',
        "[" * 100_000,
        '{"format":true}',
        '{"format":99,"id":"later"}',
    ],
)
def test_what_is_no_manifest(text):
    with pytest.raises(ArtifactError):
        EngineManifest.from_json(text)


def test_a_later_format_says_so():
    with pytest.raises(ArtifactError, match="format 3"):
        EngineManifest.from_json(json.dumps({**json.loads(manifest().to_json()), "format": 3}))


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda children: st.one_of(
        st.lists(children, max_size=4), st.dictionaries(st.text(max_size=3), children, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_replaced_by_junk_is_an_artifact_error_or_a_manifest(data):
    document = json.loads(manifest().to_json())
    key = data.draw(st.sampled_from(sorted(document)))
    target, index = document, key
    while isinstance(target[index], (list, dict)) and target[index] and data.draw(st.booleans()):
        target = target[index]
        index = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
    target[index] = data.draw(JUNK)
    try:
        again = EngineManifest.from_json(json.dumps(document))
    except ArtifactError:
        return
    assert EngineManifest.from_json(again.to_json()) == again


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2000))
def test_truncated_text(length):
    text = manifest().to_json()
    if length < len(text):
        with pytest.raises(ArtifactError):
            EngineManifest.from_json(text[:length])
