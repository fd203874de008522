"""Segmentation as SAM 2 does it: an image and a point in, masks and their scores out, in one engine.

With real weights: ``Sam2Model.from_pretrained("facebook/sam2.1-hiera-tiny")``.
"""

from __future__ import annotations

import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

import trtcore


def small() -> Sam2Model:
    backbone = Sam2HieraDetConfig(
        hidden_size=16, image_size=[128, 128], blocks_per_stage=[1, 2, 1, 1], embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8], window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[2],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=32,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )  # fmt: skip
    prompt = Sam2PromptEncoderConfig(hidden_size=32, image_size=128, patch_size=16, mask_input_channels=8)
    decoder = Sam2MaskDecoderConfig(hidden_size=32, num_attention_heads=4, mlp_dim=64, iou_head_hidden_dim=32)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    model = Sam2Model(config).eval().requires_grad_(False)
    for parameter in model.parameters():  # as after training: the untrained masks are all but zero
        parameter.normal_(0, 0.1) if parameter.dim() > 1 else parameter.add_(0.1)
    return model


def main() -> None:
    torch.manual_seed(0)
    model = small()
    inputs = {
        "pixel_values": torch.randn(1, 3, 128, 128),
        "input_points": torch.tensor([[[[60.0, 70.0]]]]),  # (image, object, point, xy)
        "input_labels": torch.ones(1, 1, 1, dtype=torch.int64),
    }
    compiled = trtcore.compile(model, kwarg_inputs=inputs)
    print(compiled.report.summary().splitlines()[0])

    ours, theirs = compiled(**inputs), model(**inputs)
    scale = theirs.pred_masks.abs().max()
    difference = (ours.pred_masks - theirs.pred_masks).abs().max() / scale
    print(f"masks {tuple(ours.pred_masks.shape)}: largest relative difference from eager {difference:.1e}")
    same = ours.iou_scores.argmax() == theirs.iou_scores.argmax()
    print(f"the same best mask as eager: {bool(same)}")


if __name__ == "__main__":
    main()
