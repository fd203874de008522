"""Stable Diffusion's parts: the denoising UNet with guidance, a scheduler's loop, and the VAE's decoder.

Needs diffusers (``pip install "trtcore[examples]"``). With real weights: ``UNet2DConditionModel.from_pretrained(name,
subfolder="unet")``, and ``subfolder="vae"``; or put the compiled module into a pipeline: ``pipe.unet = ...``.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

import trtcore


class Decoder(torch.nn.Module):
    """The VAE's half that makes images of latents."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents, return_dict=False)[0]  # type: ignore[no-any-return]


def main() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=32, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval().requires_grad_(False)  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=8,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
    ).eval().requires_grad_(False)  # fmt: skip
    text = torch.randn(2, 7, 32)  # of the empty prompt, and of the prompt
    latents = torch.randn(1, 4, 16, 16)

    fast_unet = trtcore.compile(
        unet, inputs=[torch.cat([latents] * 2), torch.tensor(0), text], kwarg_inputs={"return_dict": False}
    )
    print(f"UNet: {fast_unet.report.summary().splitlines()[0]}")
    decoder = Decoder(vae)
    fast_decoder = trtcore.compile(decoder, inputs=[latents])
    print(f"VAE decoder: {fast_decoder.report.summary().splitlines()[0]}")

    def image(unet: torch.nn.Module, decoder: torch.nn.Module) -> torch.Tensor:
        scheduler, x = DDIMScheduler(), latents
        scheduler.set_timesteps(4)
        for step in scheduler.timesteps:
            plain, guided = unet(torch.cat([x] * 2), step, text, return_dict=False)[0].chunk(2)
            x = scheduler.step(plain + 5.0 * (guided - plain), step, x).prev_sample
        return decoder(x)  # type: ignore[no-any-return]

    ours, theirs = image(fast_unet, fast_decoder), image(unet, decoder)
    print(f"image {tuple(ours.shape)}: largest difference from eager {(ours - theirs).abs().max():.1e}")


if __name__ == "__main__":
    main()
