"""A ResNet ahead of time, with a batch that varies, saved and loaded: as scripts for Torch-TensorRT do it.

What was changed: the import.
"""

import tempfile
from pathlib import Path

import torch
import trtcore_contrib_torch_tensorrt as torch_tensorrt
from transformers import ResNetConfig, ResNetForImageClassification

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

torch.manual_seed(0)
config = ResNetConfig(
    embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], num_labels=10, return_dict=False
)
model = ResNetForImageClassification(config).eval().to(DEVICE)

inputs = [
    torch_tensorrt.Input(
        min_shape=(1, 3, 64, 64),
        opt_shape=(4, 3, 64, 64),
        max_shape=(8, 3, 64, 64),
        dtype=torch.float32,
        name="pixel_values",
    )
]
trt_gm = torch_tensorrt.compile(
    model,
    ir="dynamo",
    inputs=inputs,
    enabled_precisions={torch.float32},
    workspace_size=20 << 30,
    min_block_size=1,
    optimization_level=3,
    use_python_runtime=False,
    truncate_double=True,
)

for batch in (1, 4, 8):
    images = torch.randn(batch, 3, 64, 64, device=DEVICE)
    with torch.no_grad():
        expected = model(images)
    similarity = torch_tensorrt.dynamo.utils.cosine_similarity(expected[0], trt_gm(images)[0])
    assert similarity > torch_tensorrt.dynamo.utils.COSINE_THRESHOLD, similarity

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "resnet.ep"
    torch_tensorrt.save(trt_gm, path, inputs=[images])
    loaded = torch_tensorrt.load(path).module()
    torch.testing.assert_close(loaded(images)[0], trt_gm(images)[0])

print("ResNet: engines for 1 to 8 images, saved and loaded")
