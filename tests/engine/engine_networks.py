"""Small networks to build."""

from __future__ import annotations

import numpy as np

from trtcore.backend.base import Target
from trtcore.engine.config import make_config
from trtcore.settings import CompilationSettings

WEIGHTS = np.arange(64, dtype=np.float32).reshape(8, 8)


class Made:
    """Builder, network, logger, and the config for settings."""

    def __init__(self, backend, *, dynamic=False, build=None):
        trt = backend.trt
        self.backend = backend
        self.logger = backend.make_logger()
        self.builder = backend.make_builder(self.logger)
        self.network = backend.create_network(self.builder)
        if build is not None:
            build(trt, self.network)
            return
        x = self.network.add_input("x", trt.float32, (-1 if dynamic else 4, 8))
        weight = self.network.add_constant((8, 8), trt.Weights(WEIGHTS)).get_output(0)
        none = trt.MatrixOperation.NONE
        self.network.mark_output(self.network.add_matrix_multiply(x, none, weight, none).get_output(0))

    def config(self, target=None, **kwargs):
        return make_config(
            self.backend, self.builder, CompilationSettings(**kwargs), target or Target(), self.logger
        )


def chain(length):
    """`length` pointwise layers, one after the other."""

    def make(trt, network):
        x = network.add_input("x", trt.float32, (4, 8))
        for i in range(length):
            op = trt.UnaryOperation.SIN if i % 2 else trt.UnaryOperation.COS
            x = network.add_unary(x, op).get_output(0)
        network.mark_output(x)

    return make
