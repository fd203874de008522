"""A small network to build, and a capability cache of the session's own."""

from __future__ import annotations

import os

import numpy as np
import pytest

from trtcore.backends.base import Target
from trtcore.backends.rtx import RtxBackend
from trtcore.engine.config import make_config
from trtcore.settings import CompilationSettings

WEIGHTS = np.arange(64, dtype=np.float32).reshape(8, 8)


class Made:
    """Builder, network, logger, and the config for settings."""

    def __init__(self, backend, *, dynamic=False, build=None):
        trt = backend.trt
        self.backend = backend
        self.logger = backend.make_logger()
        self.builder = trt.Builder(self.logger)
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


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    before = os.environ.get("TRTCORE_CACHE_DIR")
    os.environ["TRTCORE_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("TRTCORE_CACHE_DIR")
    if before is not None:
        os.environ["TRTCORE_CACHE_DIR"] = before


@pytest.fixture(scope="session")
def backend():
    return RtxBackend()


@pytest.fixture
def made(backend):
    return Made(backend)
