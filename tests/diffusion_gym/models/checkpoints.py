"""Checkpoints on disk: small ones of every kind of model, and ones that a test may break."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_gym.emoji64 import emoji64_folder

EMBEDDED = emoji64_folder() / "pipeline"
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


class Checkpoint:
    """A diffusers folder that a test may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def weights(self, part: str) -> Path:
        """The weight file of a part."""
        return self.folder / part / WEIGHTS[part]

    def edit_weights(self, part: str, change: Callable[[dict[str, Tensor]], Any]) -> None:
        """Rewrites a weight file after a change of its tensors."""
        tensors = load_file(self.weights(part))
        change(tensors)
        save_file(tensors, self.weights(part), metadata={"format": "pt"})

    def edit_json(self, name: str, **changes: Any) -> None:
        """Changes entries of a JSON file."""
        file = self.folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ---------------------------------------------------------------- small models of every kind

STOP = "</w>"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
MERGES = ("c a", f"ca t{STOP}", "d o", f"do g{STOP}", f"a n{STOP}", "g r", "gr a")
CONTEXT = 16
"""Tokens that the small CLIPs read; the real ones read 77."""


def clip_tokenizer(pad_token: str = SPECIAL[1]) -> transformers.CLIPTokenizer:
    """CLIP's byte-pair tokenizer with a vocabulary of a few dozen.

    As in the real one, the end token has the largest number, and "!" the number 0.
    """
    letters = "!" + string.ascii_lowercase + string.digits + ",.'-"
    pieces = [*letters, *(letter + STOP for letter in letters)]
    pieces += [merge.replace(" ", "") for merge in MERGES]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *SPECIAL])}
    return transformers.CLIPTokenizer(
        vocab=vocabulary,
        merges=[tuple(merge.split()) for merge in MERGES],
        pad_token=pad_token,
        model_max_length=CONTEXT,
    )


def t5_tokenizer() -> transformers.T5Tokenizer:
    """T5's unigram tokenizer with a vocabulary of letters."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "cat", "dog", *string.ascii_lowercase]
    return transformers.T5Tokenizer(
        vocab=[(piece, -float(len(pieces) - len(piece))) for piece in pieces],
        extra_ids=0,
        model_max_length=512,
    )


def clip_config(width: int, **options: Any) -> transformers.CLIPTextConfig:
    """The configuration of a small CLIP text encoder; end token as in the real checkpoints."""
    return transformers.CLIPTextConfig(
        **{
            "vocab_size": len(clip_tokenizer()),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "initializer_factor": 3.0,  # at 1 all prompts look the same
        }
        | options
    )


def small_unet(**options: Any) -> diffusers.UNet2DConditionModel:
    """A UNet of two levels on latents 4×8×8."""
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        }
        | options
    )


def small_vae(**options: Any) -> diffusers.AutoencoderKL:
    """An autoencoder of three levels: four pixels per latent cell and axis."""
    return diffusers.AutoencoderKL(
        **{
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (8, 8, 16),
            "latent_channels": 4,
            "norm_num_groups": 4,
            "sample_size": 32,
            "scaling_factor": 0.18215,
        }
        | options
    )


NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
"""The noise process of all Stable Diffusion models before 3."""


def save_sd1(folder: Path) -> Path:
    """Stable Diffusion 1.5 in small: PNDM, epsilon prediction."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        diffusers.StableDiffusionPipeline(
            vae=small_vae(),
            text_encoder=transformers.CLIPTextModel(clip_config(32)),
            tokenizer=clip_tokenizer(),
            unet=small_unet(),
            scheduler=diffusers.PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def save_sd2(folder: Path) -> Path:
    """Stable Diffusion 2.1 in small: DDIM, v-prediction, linear projections, padding with "!"."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        diffusers.StableDiffusionPipeline(
            vae=small_vae(),
            text_encoder=transformers.CLIPTextModel(clip_config(40, hidden_act="gelu")),
            tokenizer=clip_tokenizer(pad_token="!"),
            unet=small_unet(
                cross_attention_dim=40, attention_head_dim=(2, 4), use_linear_projection=True
            ),
            scheduler=diffusers.DDIMScheduler(
                **NOISE,
                prediction_type="v_prediction",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def save_sdxl(folder: Path) -> Path:
    """Stable Diffusion XL in small: two CLIPs, pooled embedding, time ids, Euler.

    Its scheduler's file is that of diffusers' own converter: it says nothing of clipping.
    """
    projection = 24
    with torch.random.fork_rng():
        torch.manual_seed(3)
        diffusers.StableDiffusionXLPipeline(
            vae=small_vae(scaling_factor=0.13025),
            text_encoder=transformers.CLIPTextModel(clip_config(32)),
            tokenizer=clip_tokenizer(),
            text_encoder_2=transformers.CLIPTextModelWithProjection(
                clip_config(40, hidden_act="gelu", projection_dim=projection)
            ),
            tokenizer_2=clip_tokenizer(pad_token="!"),
            unet=small_unet(
                cross_attention_dim=32 + 40,
                attention_head_dim=(2, 4),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + projection,
            ),
            scheduler=diffusers.EulerDiscreteScheduler(
                **NOISE, steps_offset=1, timestep_spacing="leading"
            ),
            add_watermarker=False,
        ).save_pretrained(folder)
    return folder


def save_sd3(folder: Path) -> Path:
    """Stable Diffusion 3 in small: a transformer, two CLIPs and T5, flow matching."""
    heads, head_width = 2, 8
    with torch.random.fork_rng():
        torch.manual_seed(4)
        diffusers.StableDiffusion3Pipeline(
            vae=small_vae(
                latent_channels=16,
                scaling_factor=1.5305,
                shift_factor=0.0609,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=transformers.CLIPTextModelWithProjection(
                clip_config(16, projection_dim=12)
            ),
            tokenizer=clip_tokenizer(),
            text_encoder_2=transformers.CLIPTextModelWithProjection(
                clip_config(24, projection_dim=20, hidden_act="gelu")
            ),
            tokenizer_2=clip_tokenizer(pad_token="!"),
            text_encoder_3=transformers.T5EncoderModel(
                transformers.T5Config(
                    vocab_size=len(t5_tokenizer()),
                    d_model=48,
                    d_kv=8,
                    d_ff=64,
                    num_layers=2,
                    num_heads=2,
                    feed_forward_proj="gated-gelu",
                )
            ),
            tokenizer_3=t5_tokenizer(),
            transformer=diffusers.SD3Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=2,
                attention_head_dim=head_width,
                num_attention_heads=heads,
                caption_projection_dim=heads * head_width,
                joint_attention_dim=48,
                pooled_projection_dim=12 + 20,
                pos_embed_max_size=8,
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        ).save_pretrained(folder)
    return folder
