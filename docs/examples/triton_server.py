"""A model repository for Triton Inference Server: compiled, saved into `docs/examples/triton`'s layout, and tried.

    python triton_server.py models
    tritonserver --model-repository models

Here the backend's class is called as Triton calls it, with a stand-in for Triton's own module.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch

import trtcore

HERE = Path(__file__).parent


def build(repository: Path) -> torch.nn.Module:
    """Write the repository; the model comes back, to compare with."""
    shutil.copytree(HERE / "triton", repository, dirs_exist_ok=True)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4)]
    model = torch.nn.Sequential(*layers).eval().requires_grad_(False)
    rows = trtcore.Input(min_shape=(1, 16), opt_shape=(8, 16), max_shape=(64, 16))  # as in config.pbtxt
    compiled = trtcore.compile(model, inputs=[rows], min_block_size=1)
    trtcore.save(compiled, repository / "encoder" / "1" / "model.pt2")
    return model


class Tensor:
    """What Triton's Python backend hands over and takes back."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def to_dlpack(self) -> Any:
        return torch.utils.dlpack.to_dlpack(self.value)

    @staticmethod
    def from_dlpack(name: str, capsule: Any) -> Tensor:
        return Tensor(torch.utils.dlpack.from_dlpack(capsule))


def served(repository: Path) -> Any:
    """The backend's class, loaded as Triton does it."""
    stand_in: Any = types.ModuleType("triton_python_backend_utils")
    stand_in.Tensor = Tensor
    stand_in.get_input_tensor_by_name = lambda request, name: request[name]
    stand_in.InferenceResponse = lambda tensors: tensors[0].value
    sys.modules["triton_python_backend_utils"] = stand_in
    spec = importlib.util.spec_from_file_location("backend", repository / "encoder" / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    backend = module.TritonPythonModel()
    backend.initialize({
        "model_instance_kind": "CPU", "model_instance_device_id": "0",
        "model_repository": str(repository / "encoder"), "model_version": "1",
    })  # fmt: skip
    return backend


def main(folder: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(folder or temporary)
        model = build(repository)
        files = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())
        print(f"the repository: {', '.join(file for file in files if 'pycache' not in file)}")
        requests = [torch.randn(rows, 16) for rows in (1, 3, 8)]
        answers = served(repository).execute([{"x": Tensor(x)} for x in requests])
        worst = max((got - model(x)).abs().max() for got, x in zip(answers, requests))
        print(f"{len(answers)} requests in one batch: largest difference from eager {worst:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
