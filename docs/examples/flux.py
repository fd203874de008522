"""A FLUX-like transformer. Its rotary table is float64, which TensorRT has not got: two ways to live with that.

Needs diffusers (``pip install "trtcore[examples]"``). With real weights:
``FluxTransformer2DModel.from_pretrained("black-forest-labs/FLUX.1-dev", subfolder="transformer")``.
"""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel

import trtcore


def main() -> None:
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    ).eval().requires_grad_(False)  # fmt: skip
    inputs = {
        "hidden_states": torch.randn(1, 16, 16),
        "encoder_hidden_states": torch.randn(1, 7, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([1.0]),
        "img_ids": torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)]),
        "txt_ids": torch.zeros(7, 3),
        "return_dict": False,
    }
    want = model(**inputs)[0]
    for name, settings in {
        "float64 stays in torch": trtcore.SettingsDict(),
        "float64 becomes float32": trtcore.SettingsDict(truncate_double=True),
    }.items():
        compiled = trtcore.compile(model, kwarg_inputs=inputs, **settings)
        difference = (compiled(**inputs)[0] - want).abs().max()
        print(
            f"{name}: {compiled.report.summary().splitlines()[0]}; largest difference from eager {difference:.1e}"
        )


if __name__ == "__main__":
    main()
