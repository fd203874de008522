"""The example servers in docs/examples: batches of the engine's profile, each request its own rows."""

from __future__ import annotations

import importlib.util
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import trtcore

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def imported(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def serving():
    return imported(EXAMPLES / "serving.py", "serving_example")


@pytest.fixture(scope="module")
def made():
    model = nn.Linear(16, 4).eval()
    rows = trtcore.Input(min_shape=(1, 16), opt_shape=(8, 16), max_shape=(16, 16))
    return model, trtcore.compile(model, [rows], runtime="reference", min_block_size=1)


def test_requests_are_batched_into_the_profile(serving, made):
    model, module = made
    sizes = []

    def seen(x):
        sizes.append(len(x))
        return module(x)

    results = {}
    with serving.Batcher(seen, largest=16, wait=0.2, device="cpu") as batcher:

        def client(number):
            x = torch.randn(number % 5 + 1, 16)
            results[number] = x, batcher.submit(x).result(60)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pytest.raises(ValueError, match="1 to 16 rows, not 17"):
            batcher.submit(torch.randn(17, 16))
    assert len(results) == 20
    for x, y in results.values():
        torch.testing.assert_close(y, model(x), rtol=1e-5, atol=1e-5)
    assert sum(sizes) == sum(number % 5 + 1 for number in range(20))
    assert max(sizes) <= 16
    assert batcher.calls == len(sizes) < 20


def test_a_wrong_request_is_told_and_the_next_one_served(serving, made):
    model, module = made
    with serving.Batcher(module, largest=16, wait=0, device="cpu") as batcher:
        with pytest.raises(trtcore.TrtcoreError):
            batcher.submit(torch.randn(2, 15)).result(60)
        x = torch.randn(2, 16)
        torch.testing.assert_close(batcher.submit(x).result(60), model(x), rtol=1e-5, atol=1e-5)


def test_the_fastapi_app(serving, made):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    model, module = made
    with serving.Batcher(module, largest=16, wait=0, device="cpu") as batcher:
        client = TestClient(serving.make_app(batcher))
        x = torch.randn(3, 16)
        answer = client.post("/predict", json={"rows": x.tolist()})
        assert answer.status_code == 200
        torch.testing.assert_close(torch.tensor(answer.json()["rows"]), model(x), rtol=1e-4, atol=1e-4)
        assert client.post("/predict", json={"rows": [[1.0]]}).status_code == 422


class Tensor:
    """Stands for Triton's tensors."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def to_dlpack(self):
        return torch.utils.dlpack.to_dlpack(self.values)

    @staticmethod
    def from_dlpack(name, capsule):
        return Tensor(name, torch.utils.dlpack.from_dlpack(capsule))


def test_the_model_of_tritons_python_backend(made, tmp_path, monkeypatch):
    model, module = made
    (tmp_path / "1").mkdir()
    trtcore.save(module, tmp_path / "1" / "model.pt2")
    utils = types.ModuleType("triton_python_backend_utils")
    utils.Tensor = Tensor
    utils.InferenceResponse = lambda tensors: tensors
    utils.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    served = imported(
        EXAMPLES / "triton" / "encoder" / "1" / "model.py", "triton_example"
    ).TritonPythonModel()
    served.initialize(
        {"model_instance_kind": "CPU", "model_instance_device_id": "0", "model_repository": str(tmp_path),
         "model_version": "1"}
    )  # fmt: skip
    given = [torch.randn(count, 16) for count in (1, 3, 2)]
    responses = served.execute([{"x": x} for x in given])
    assert [response[0].name for response in responses] == ["y"] * 3
    for x, response in zip(given, responses):
        np.testing.assert_allclose(response[0].values, model(x).detach(), rtol=1e-5, atol=1e-5)
    config = (EXAMPLES / "triton" / "encoder" / "config.pbtxt").read_text()
    assert 'backend: "python"' in config
