"""The architectures: autoencoder, CLIP, verifier and denoiser, with fresh weights."""

from collections.abc import Sequence
from typing import TypedDict, TypeVar

from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from benchmarks.emoji64.captions import END_ID, MAX_TOKENS, START_ID, VOCABULARY
from benchmarks.emoji64.composer import IMAGE_SIZE
from diffusion_gym.emoji64.scenes import BACKGROUNDS, OBJECTS, STYLES
from diffusion_gym.emoji64.verifier import SceneVerifier
from diffusion_gym.schedules.diffusers_config import Prediction

LATENT_CHANNELS = 16
LATENT_SIZE = 8
TEXT_WIDTH = 128
CHANNELS = (64, 128)
CHANNELS_PER_HEAD = 32

Network = TypeVar("Network", bound=nn.Module)


class VerifierArchitecture(TypedDict):
    """The arguments of `SceneVerifier`, as they are written beside its weights."""

    classes: int
    styles: int
    backgrounds: int
    widths: list[int]
    blocks: list[int]
    threshold: float
    nms: int
    min_class_prob: float
    relation_margin: float


VERIFIER_ARCHITECTURE: VerifierArchitecture = {
    "classes": len(OBJECTS),
    "styles": len(STYLES),
    "backgrounds": len(BACKGROUNDS),
    "widths": [32, 64, 112, 144],
    "blocks": [1, 3, 2, 1],
    "threshold": 0.4,
    "nms": 5,
    "min_class_prob": 0.0,
    "relation_margin": 6.0,
}


def new_autoencoder() -> AutoencoderTiny:
    """An autoencoder from 64x64 pictures to 8x8 latents of 16 channels; 1.2M parameters."""
    width = 48
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=(1, 2, 2, 2),
        num_decoder_blocks=(3, 3, 3, 1),
        scaling_factor=1.0,
    )


def new_clip() -> CLIPModel:
    """A CLIP of captions and pictures; its text tower is the pipeline's text encoder."""
    projection = 128
    text = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": START_ID,
        "eos_token_id": END_ID,
        "pad_token_id": END_ID,
        "projection_dim": projection,
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "projection_dim": projection,
    }
    return CLIPModel(CLIPConfig(projection_dim=projection, text_config=text, vision_config=vision))


def new_verifier() -> SceneVerifier:
    """A verifier of 2.0M parameters."""
    return SceneVerifier(**VERIFIER_ARCHITECTURE)


def new_denoiser(channels: Sequence[int] = CHANNELS) -> UNet2DConditionModel:
    """A denoiser; (64, 128) channels give 4.3M parameters, (96, 192) give 9.5M.

    Args:
        channels: Width at 8x8 and at 4x4, multiples of 32.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=tuple(channels),
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        cross_attention_dim=TEXT_WIDTH,
        # diffusers reads this argument as the number of heads.
        attention_head_dim=tuple(width // CHANNELS_PER_HEAD for width in channels),
        norm_num_groups=16,
    )


def new_scheduler(prediction: Prediction = "v_prediction") -> DDIMScheduler:
    """Stable Diffusion's noise with v-prediction (arXiv 2202.00512) and trailing steps.

    With trailing spacing every step has noise, and few steps suffice: 10 steps gave .81 of
    all facts right where leading spacing gave .71.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
        timestep_spacing="trailing",
    )


def text_features(clip: CLIPModel, ids: Tensor) -> Tensor:
    """Unit vectors of captions, ``[B, 24]`` ids to ``[B, 128]``."""
    pooled = clip.text_model(input_ids=ids).pooler_output
    return functional.normalize(clip.text_projection(pooled).float(), dim=-1)


def image_features(clip: CLIPModel, images: Tensor) -> Tensor:
    """Unit vectors of pictures in [-1, 1], ``[B, 3, 64, 64]`` to ``[B, 128]``."""
    pooled = clip.vision_model(pixel_values=images).pooler_output
    return functional.normalize(clip.visual_projection(pooled).float(), dim=-1)


def text_states(clip: CLIPModel, ids: Tensor) -> Tensor:
    """What the denoiser attends to: the text tower's states, ``[B, 24, 128]``."""
    states: Tensor = clip.text_model(input_ids=ids).last_hidden_state
    return states


def frozen(network: Network) -> Network:
    """The same network, for inference only."""
    return network.eval().requires_grad_(False)
