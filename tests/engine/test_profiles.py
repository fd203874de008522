"""add_profiles: dynamic dims and sizes get their ranges; mistakes are named before TensorRT sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_networks import Made

from trtcore.artifact.manifest import SizeBinding, TensorBinding
from trtcore.engine.build import build_plan
from trtcore.engine.config import add_profiles
from trtcore.errors import EngineBuildError, InputError

EIGHT = np.array([8], dtype=np.int64)


def binding(*shapes, name="x", shape=("s0", 8)):
    return TensorBinding(name, torch.float32, shape, shapes or None)


def test_no_profile_is_needed_for_static_shapes(made):
    config = made.config()
    assert add_profiles(made.builder, config, made.network, [TensorBinding("x", torch.float32, (4, 8))]) == 0
    assert config.num_optimization_profiles == 0


@pytest.mark.parametrize("rows", [(1, 4, 9), (4, 4, 9), (1, 9, 9), (3, 3, 3), (0, 1, 2)])
def test_a_dynamic_input_builds(backend, rows):
    made = Made(backend, dynamic=True)
    config = made.config()
    shapes = [(n, 8) for n in rows]
    assert add_profiles(made.builder, config, made.network, [binding(*shapes)]) == 1
    assert config.num_optimization_profiles == 1
    assert build_plan(backend, made.builder, made.network, config, made.logger).numel() > 100


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 8), (9, 8), (4, 8)), "input 'x', dim 0: min 1 <= opt 9 <= max 4"),
        (((5, 8), (4, 8), (9, 8)), "min 5 <= opt 4"),
        (((-1, 8), (4, 8), (9, 8)), "min -1"),
        (((1, 7), (4, 7), (9, 7)), "dim 1 is 8; its profile says 7..7"),
        (((1, 8), (4, 8), (9, 16)), "dim 1 is 8; its profile says 8..16"),
        (((1,), (4,), (9,)), "does not fit"),
        (((1, 8), (4, 8)), "does not fit"),
        ((), r"has dynamic dims \(-1, 8\), but no range"),
    ],
)
def test_ranges_that_do_not_fit_name_the_input(backend, shapes, message):
    from types import SimpleNamespace

    made = Made(backend, dynamic=True)
    with pytest.raises(InputError, match=message):
        add_profiles(
            made.builder,
            made.config(),
            made.network,
            [SimpleNamespace(name="x", all_profiles=(shapes,) if shapes else ())],
        )


def test_an_input_that_no_binding_names(backend):
    made = Made(backend, dynamic=True)
    with pytest.raises(InputError, match="'x' has dynamic dims"):
        add_profiles(made.builder, made.config(), made.network, [])


def sized(trt, network):
    """x of (rows, 8), of which a shape tensor says how many rows to take."""
    x = network.add_input("x", trt.float32, (-1, 8))
    size = network.add_input("n", trt.int64, (1,))
    eight = trt.Weights(EIGHT)
    dims = network.add_concatenation([size, network.add_constant((1,), eight).get_output(0)])
    layer = network.add_slice(x, (0, 0), (1, 8), (1, 1))
    layer.set_input(2, dims.get_output(0))
    network.mark_output(layer.get_output(0))


def test_a_size_is_a_shape_input(backend):
    made = Made(backend, build=sized)
    config = made.config()
    bindings = [binding((4, 8), (8, 8), (16, 8)), SizeBinding("n", "s1", 1, 2, 4)]
    assert add_profiles(made.builder, config, made.network, bindings) == 1
    assert build_plan(backend, made.builder, made.network, config, made.logger).numel() > 100


def test_a_size_out_of_order_is_refused(backend):
    made = Made(backend, build=sized)
    bindings = [binding((4, 8), (8, 8), (16, 8)), SizeBinding("n", "s1", 4, 2, 1)]
    with pytest.raises(InputError, match="size 's1': min 4 <= opt 2"):
        add_profiles(made.builder, made.config(), made.network, bindings)


def test_a_size_that_is_no_input(backend):
    made = Made(backend, dynamic=True)
    bindings = [binding((4, 8), (8, 8), (16, 8)), SizeBinding("n", "s1", 1, 2, 4)]
    with pytest.raises(InputError, match="no input 'n'"):
        add_profiles(made.builder, made.config(), made.network, bindings)


def test_a_profile_that_tensorrt_refuses_is_an_error(backend, monkeypatch):
    made = Made(backend, dynamic=True)

    class Config:
        def add_optimization_profile(self, profile):
            return -1

    with pytest.raises(EngineBuildError, match="refused the optimisation profile"):
        add_profiles(made.builder, Config(), made.network, [binding((1, 8), (2, 8), (3, 8))])


SEVERAL = [((1, 8), (1, 8), (1, 8)), ((4, 8), (16, 8), (32, 8)), ((64, 8), (64, 8), (64, 8))]


def test_several_profiles_build(backend):
    made = Made(backend, dynamic=True)
    config = made.config()
    bindings = [TensorBinding.of_profiles("x", torch.float32, ("s0", 8), SEVERAL)]
    assert add_profiles(made.builder, config, made.network, bindings) == 3
    assert config.num_optimization_profiles == 3
    assert build_plan(backend, made.builder, made.network, config, made.logger).numel() > 100


def test_several_profiles_of_a_size_build(backend):
    made = Made(backend, build=sized)
    config = made.config()
    rows = [((4, 8), (8, 8), (16, 8)), ((16, 8), (16, 8), (32, 8))]
    x = TensorBinding.of_profiles("x", torch.float32, ("s0", 8), rows)
    size = SizeBinding("n", "s1", 1, 2, 16, ((1, 2, 4), (8, 8, 16)))
    assert add_profiles(made.builder, config, made.network, [x, size]) == 2
    assert build_plan(backend, made.builder, made.network, config, made.logger).numel() > 100


def test_inputs_with_different_numbers_of_profiles_are_refused(backend):
    made = Made(backend, build=sized)
    x = TensorBinding.of_profiles("x", torch.float32, ("s0", 8), SEVERAL)
    with pytest.raises(InputError, match="different numbers of optimisation profiles"):
        add_profiles(made.builder, made.config(), made.network, [x, SizeBinding("n", "s1", 1, 2, 4)])


def test_a_mistake_in_a_later_profile_names_the_input(backend):
    made = Made(backend, dynamic=True)
    x = TensorBinding.of_profiles("x", torch.float32, ("s0", 8), [SEVERAL[0], ((9, 8), (4, 8), (16, 8))])
    with pytest.raises(InputError, match="min 9 <= opt 4"):
        add_profiles(made.builder, made.config(), made.network, [x])
