"""Other weights for engines that are there: as scripts for Torch-TensorRT do it.

What was changed: the import.
"""

import numpy as np
import torch
import trtcore_contrib_torch_tensorrt as torch_trt
from trtcore_contrib_torch_tensorrt.dynamo import refit_module_weights


class Net(torch.nn.Module):
    """Convolutions and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4)
        )
        self.classifier = torch.nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return self.classifier(self.features(x).flatten(1))


np.random.seed(0)
torch.manual_seed(0)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
inputs = [torch.rand((1, 3, 32, 32)).to(DEVICE)]

model = Net().eval().to(DEVICE)
exp_program = torch.export.export(model, tuple(inputs))
trt_gm = torch_trt.dynamo.compile(
    exp_program,
    tuple(inputs),
    use_python_runtime=False,
    enabled_precisions={torch.float},
    min_block_size=1,
    torch_executed_ops=set(),
    immutable_weights=False,
    reuse_cached_engines=False,
)

model2 = Net().eval().to(DEVICE)
new_trt_gm = refit_module_weights(
    compiled_module=trt_gm,
    new_weight_module=torch.export.export(model2, tuple(inputs)),
    arg_inputs=inputs,
)

with torch.no_grad():
    expected, refitted, old = model2(*inputs), new_trt_gm(*inputs), trt_gm(*inputs)
assert torch.allclose(expected, refitted, 1e-2, 1e-2), "refit failed"
assert not torch.allclose(old, refitted, 1e-2, 1e-2), "nothing was changed"

print("Refit: other weights without a build")
