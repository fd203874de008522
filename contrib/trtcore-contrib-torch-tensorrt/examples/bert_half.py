"""BERT through torch.compile in float16: as scripts for Torch-TensorRT do it.

What was changed: the import.
"""

import torch
import trtcore_contrib_torch_tensorrt as torch_tensorrt  # registers the backend
from transformers import BertConfig, BertModel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

torch.manual_seed(0)
config = BertConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    vocab_size=500,
    return_dict=False,
)
model = BertModel(config).eval().to(DEVICE)
inputs = [torch.randint(0, 500, (2, 14), device=DEVICE), torch.ones(2, 14, dtype=torch.int64, device=DEVICE)]

compilation_kwargs = {
    "enabled_precisions": {torch.float, torch.half},
    "workspace_size": 20 << 30,
    "min_block_size": 7,
    "torch_executed_ops": set(),
    "use_python_runtime": True,
}
optimized_model = torch.compile(model, backend="torch_tensorrt", dynamic=False, options=compilation_kwargs)

half = optimized_model(*inputs)
with torch.no_grad():
    expected = model(*inputs)
for one, other in zip(expected, half):
    assert torch_tensorrt.dynamo.utils.cosine_similarity(one, other) > 0.99
assert not torch.equal(expected[0], half[0])

print("BERT: float16 through torch.compile")
torch._dynamo.reset()
