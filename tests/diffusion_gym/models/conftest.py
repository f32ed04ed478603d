"""A copy of the embedded model to break, and a checkpoint of another kind."""

import shutil
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from checkpoints import EMBEDDED, Checkpoint


@pytest.fixture(params=("sd1", "sd2", "sdxl", "sd3"))
def kind(request: pytest.FixtureRequest) -> str:
    """Every architecture in turn."""
    name: str = request.param
    return name


@pytest.fixture
def folder(kind: str, request: pytest.FixtureRequest) -> Path:
    """A small checkpoint of that kind."""
    path: Path = request.getfixturevalue(f"{kind}_folder")
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """A copy of the embedded model."""
    return Checkpoint(Path(shutil.copytree(EMBEDDED, tmp_path / "checkpoint")))


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 1.5 in small: AutoencoderKL, epsilon prediction, PNDM; random weights."""
    folder = tmp_path_factory.mktemp("checkpoints") / "other"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=(8, 4),
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.5,
        )
        text_config = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=24,
            eos_token_id=tokenizer.eos_token_id,
        )
        text_encoder = transformers.CLIPTextModel(text_config)
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.PNDMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder
