"""Writes and reads trained networks as folders that the usual libraries load.

The layout is that of the embedded model: ``pipeline/`` in Stable Diffusion's format for diffusers,
``clip/`` for transformers' CLIPModel and CLIPProcessor, ``verifier/`` for SceneVerifier. Weights
are kept in half precision. Each stage writes its own part, so that a later run can go on from it.
"""

import copy
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTextModel

from benchmarks.emoji64.captions import TOKENIZER_FOLDER, load_tokenizer
from benchmarks.emoji64.composer import IMAGE_SIZE
from benchmarks.emoji64.networks import (
    VERIFIER_ARCHITECTURE,
    Network,
    frozen,
    new_scheduler,
)
from diffusion_gym.emoji64.scenes import BACKGROUNDS, OBJECTS, RELATIONS, STYLES
from diffusion_gym.emoji64.verifier import SceneVerifier
from diffusion_gym.schedules.diffusers_config import Prediction

PIPELINE, CLIP, VERIFIER = "pipeline", "clip", "verifier"
AUTOENCODER = f"{PIPELINE}/vae"


def _half(network: Network) -> Network:
    """A copy in half precision on the CPU, in the memory layout that files want."""
    return copy.deepcopy(network).cpu().half().to(memory_format=torch.contiguous_format)


def _name_float32(folder: Path) -> None:
    """Makes a transformers configuration name float32, whatever the file holds.

    transformers loads the precision that the configuration names, diffusers float32. Naming half
    precision would mix the two in one pipeline.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _forget_derived_width(folder: Path) -> None:
    """Takes out the entry that AutoencoderTiny derives, writes, and warns of when it reads it."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    del config["block_out_channels"]
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _copy_vocabulary(folder: Path) -> None:
    """Adds the two files that older readers of CLIP tokenizers expect."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(TOKENIZER_FOLDER / name, folder / name)


def save_autoencoder(autoencoder: AutoencoderTiny, out: Path) -> None:
    """Writes ``pipeline/vae``."""
    _half(autoencoder).save_pretrained(out / AUTOENCODER)
    _forget_derived_width(out / AUTOENCODER)


def load_autoencoder(folder: Path) -> AutoencoderTiny:
    """Reads ``pipeline/vae``, frozen, in float32 on the CPU."""
    return frozen(AutoencoderTiny.from_pretrained(folder / AUTOENCODER))


def save_clip(clip: CLIPModel, out: Path) -> None:
    """Writes ``clip/`` with its processor."""
    folder = out / CLIP
    _half(clip).save_pretrained(folder)
    _name_float32(folder)
    image_processor = CLIPImageProcessor(
        do_resize=True,
        size={"shortest_edge": IMAGE_SIZE},
        do_center_crop=True,
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_rescale=True,
        do_normalize=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_convert_rgb=True,
    )
    CLIPProcessor(image_processor, load_tokenizer()).save_pretrained(folder)
    _copy_vocabulary(folder)


def load_clip(folder: Path) -> CLIPModel:
    """Reads ``clip/``, frozen, in float32 on the CPU."""
    return frozen(CLIPModel.from_pretrained(folder / CLIP, dtype=torch.float32))


def save_verifier(verifier: SceneVerifier, out: Path) -> None:
    """Writes ``verifier/``, with the meaning of every class."""
    folder = out / VERIFIER
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_half(verifier).state_dict(), folder / "model.safetensors")
    config = {
        "model": "diffusion_gym.emoji64.verifier.SceneVerifier",
        "architecture": VERIFIER_ARCHITECTURE,
        "input": "RGB in [0, 1], channels first, 64x64 (others are resized)",
        "classes": [item.name for item in OBJECTS],
        "styles": list(STYLES),
        "backgrounds": list(BACKGROUNDS),
        "relations": ["and", *RELATIONS],
    }
    text = json.dumps(config, indent=1) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def load_verifier(folder: Path) -> SceneVerifier:
    """Reads ``verifier/``, frozen, in float32 on the CPU."""
    return SceneVerifier.from_pretrained(folder / VERIFIER)


def save_pipeline(
    denoiser: UNet2DConditionModel,
    autoencoder: AutoencoderTiny,
    clip: CLIPModel,
    out: Path,
    prediction: Prediction = "v_prediction",
) -> None:
    """Writes ``clip/`` and all of ``pipeline/``, whose text encoder is CLIP's text tower."""
    save_clip(clip, out)
    text_encoder = CLIPTextModel.from_pretrained(out / CLIP, dtype=torch.float32)
    pipeline = StableDiffusionPipeline(
        vae=_half(autoencoder),
        text_encoder=text_encoder.half(),
        tokenizer=load_tokenizer(),
        unet=_half(denoiser),
        scheduler=new_scheduler(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out / PIPELINE)
    _forget_derived_width(out / AUTOENCODER)
    _name_float32(out / PIPELINE / "text_encoder")
    _copy_vocabulary(out / PIPELINE / "tokenizer")
