"""The pytest plugin that comes with trtcore (entry point ``pytest11``): fixtures for pack authors.

Importing it imports neither torch nor TensorRT: pytest loads it in every project of an environment.
Turn it off with ``-p no:trtcore``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtcore.backend.base import Backend
    from trtcore.testing import ConversionProof


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("trtcore").addoption(
        "--trtcore-require-backend",
        action="store_true",
        help="fail, instead of skipping, tests that need a TensorRT backend where there is none (for CI)",
    )


@pytest.fixture(scope="session")
def trt_backend(request: pytest.FixtureRequest) -> Backend:
    """The backend that ``backend="auto"`` takes here; skips, with the reason, where there is none."""
    from trtcore.errors import BackendUnavailableError
    from trtcore.testing import usable_backend

    try:
        return usable_backend()
    except BackendUnavailableError as error:
        if request.config.getoption("--trtcore-require-backend"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture
def assert_converts(trt_backend: Backend) -> Callable[..., ConversionProof]:
    """`trtcore.testing.assert_converts`; the test is skipped where no TensorRT can be used."""
    from trtcore.testing import assert_converts as check

    def on_this_backend(*args: Any, **kwargs: Any) -> ConversionProof:
        kwargs["settings"] = {"backend": trt_backend.name, **(kwargs.get("settings") or {})}
        return check(*args, **kwargs)

    return on_this_backend


@pytest.fixture
def assert_refuses(trt_backend: Backend) -> Callable[..., Any]:
    """`trtcore.testing.assert_refuses`; the test is skipped where no TensorRT can be used."""
    from trtcore.testing import assert_refuses as check

    return check
