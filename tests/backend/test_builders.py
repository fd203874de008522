"""Builders are not destroyed while another is created."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import weakref

import pytest

from trtcore.backend import builders

SCRIPT = """
    import gc, sys, threading
    from trtcore.testing.conformance import usable_backend

    backend = usable_backend()
    base = type(backend.make_logger())

    class Logger(base):
        def log(self, severity, text):
            collect()

    def collect():
        if sys.argv[1] == "collector":
            gc.collect()
        else:  # in another thread, which has the interpreter's lock while this one waits
            other = threading.Thread(target=unused.clear)
            other.start()
            other.join(5)
            assert not other.is_alive()

    class Owner:
        pass

    unused = []
    for _ in range(3):
        network = backend.create_network(backend.make_builder(backend.make_logger()))
        if sys.argv[1] == "thread":
            unused.append(network)
        else:
            owner = Owner()
            owner.network, owner.itself = network, owner  # garbage that only the collector takes away
            del owner
        del network
    backend.make_builder(Logger(3))
    print("went on")
"""


@pytest.mark.parametrize("who", ["collector", pytest.param("thread", marks=pytest.mark.slow)])
def test_garbage_that_is_collected_while_tensorrt_logs(trt_backend, who):
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), who],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "went on" in ran.stdout, ran.stderr


def test_builders_that_nobody_uses_go_with_the_next_one(trt_backend):
    first = trt_backend.make_builder(trt_backend.make_logger())
    network = trt_backend.create_network(first)
    alive = weakref.ref(first)
    del first
    trt_backend.make_builder(trt_backend.make_logger())
    assert alive() is not None  # the network's
    del network
    trt_backend.make_builder(trt_backend.make_logger())
    assert alive() is None
    assert len(builders._builders) < 1000
