"""The collecting logger: marks, severities, noise, threads."""

from __future__ import annotations

import threading

import pytest

from trtcore.backend.builders import make_builder
from trtcore.backend.logger import CollectingLogger, is_noise, make_logger
from trtcore_backends.tensorrt_rtx import load

CUDA_35 = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA "
    "runtime version))"
)


@pytest.fixture(scope="module")
def trt():
    return load()


def test_it_is_a_tensorrt_logger_that_keeps_lines(trt):
    logger = make_logger(trt)
    assert isinstance(logger, trt.ILogger)
    assert isinstance(logger, CollectingLogger)
    severity = trt.ILogger.Severity
    logger.log(severity.INFO, "info")
    mark = logger.mark()
    for name in ("VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"):
        logger.log(getattr(severity, name), name.lower())
    assert logger.since(mark) == ("warning", "error", "internal_error")
    assert logger.errors(mark) == ("error", "internal_error")
    assert [text for _, text in logger.lines()] == ["info", "info", "warning", "error", "internal_error"]
    assert logger.since(logger.mark()) == ()


def test_a_builder_reports_to_its_own_logger(trt):
    first, second = make_logger(trt), make_logger(trt)
    builders = [make_builder(trt, logger) for logger in (first, second)]
    marks = first.mark(), second.mark()
    builders[
        1
    ].create_builder_config().hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert first.since(marks[0]) == ()
    assert "unsupported" in second.since(marks[1])[0]


def test_the_noise_of_a_machine_without_driver_is_dropped(trt):
    logger = make_logger(trt)
    logger.log(trt.ILogger.ERROR, CUDA_35)
    logger.log(trt.ILogger.ERROR, "IBuilder::buildSerializedNetwork: Error Code 4: a real one")
    assert logger.since(0) == ("IBuilder::buildSerializedNetwork: Error Code 4: a real one",)


@pytest.mark.parametrize(
    "text",
    [
        CUDA_35.replace("cudaError 35: CUDA driver version is insufficient", "cudaError 2: out of memory"),
        "IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime (In generateForCurrent (cudaError 35: "
        "CUDA driver version is insufficient for CUDA runtime version))",
        "IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled (Build canceled by user)",
    ],
)
def test_real_messages_stay(text):
    assert not is_noise(text)


def test_a_real_refusal_without_its_noise(trt):
    """What TensorRT itself logs here: the refusal, then cudaError 35."""
    logger = make_logger(trt)
    config = make_builder(trt, logger).create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.NONE, 0)
    assert len(logger.errors()) == 1
    assert "cannot be kNONE" in logger.errors()[0]


def test_verbose_on_request(trt):
    logger = make_logger(trt, "VERBOSE")
    logger.log(trt.ILogger.VERBOSE, "detail")
    assert logger.lines() == (("VERBOSE", "detail"),)


def test_lines_are_bounded_and_marks_stay_true(trt, monkeypatch):
    monkeypatch.setattr("trtcore.backend.logger._KEPT_LINES", 10)
    logger = make_logger(trt)
    for number in range(25):
        logger.log(trt.ILogger.ERROR, str(number))
    mark = logger.mark()
    logger.log(trt.ILogger.ERROR, "last")
    assert len(logger.lines()) == 10
    assert logger.since(mark) == ("last",)


def test_threads(trt):
    logger = make_logger(trt)

    def work():
        for _ in range(200):
            logger.log(trt.ILogger.WARNING, "x")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logger.mark() == 1600
    assert len(logger.since(0)) == 1600
