"""The backend that every test here builds with, and a small network."""

from __future__ import annotations

import pytest
from engine_networks import Made

from trtcore_backends.tensorrt_rtx import RtxBackend


@pytest.fixture(scope="session")
def backend():
    return RtxBackend()


@pytest.fixture
def made(backend):
    return Made(backend)
