"""A diffusers folder as the single file, in the original layout, that it might have come from."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def save_original(folder: Path, file: Path) -> Path:
    """Writes the file of a small Stable Diffusion 1, 2 or XL."""
    second = folder / "text_encoder_2"
    if second.exists():
        texts = {
            "conditioner.embedders.0.transformer.": clip(weights(folder / "text_encoder")),
            "conditioner.embedders.1.model.": open_clip(weights(second)),
        }
    elif json.loads((folder / "text_encoder/config.json").read_text())["hidden_act"] == "gelu":
        texts = {"cond_stage_model.model.": open_clip(weights(folder / "text_encoder"))}
    else:
        texts = {"cond_stage_model.transformer.": clip(weights(folder / "text_encoder"))}
    parts = texts | {
        "model.diffusion_model.": unet(weights(folder / "unet"), layers_per_block=1),
        "first_stage_model.": autoencoder(weights(folder / "vae")),
    }
    tensors = {
        prefix + name: tensor.contiguous()
        for prefix, part in parts.items()
        for name, tensor in part.items()
    }
    save_file(tensors, file)
    return file


def weights(folder: Path) -> Tensors:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def renamed(name: str, replacements: Iterable[tuple[str, str]]) -> str:
    for old, new in replacements:
        name = name.replace(old, new)
    return name


def substitute(pattern: str, name: str, new: Callable[[re.Match[str]], str]) -> str:
    return re.sub(pattern, new, name, count=1)


def unet(tensors: Tensors, layers_per_block: int) -> Tensors:
    """CompVis' names: blocks are counted through, a down- or upsampler is a block's last part."""
    size = layers_per_block + 1
    with_attention = {m[1] for name in tensors if (m := re.match(r"up_blocks\.(\d)\.att", name))}

    def original(name: str) -> str:
        if ".resnets." in name:
            name = renamed(name, RESNET.items())
        for old, new in UNET.items():
            if name.startswith(old + "."):
                name = new + name.removeprefix(old)
        for side, start, down in (("down", 1, "input_blocks"), ("up", 0, "output_blocks")):
            for kind, place in (("resnets", 0), ("attentions", 1)):
                name = substitute(
                    rf"^{side}_blocks\.(\d)\.{kind}\.(\d)",
                    name,
                    lambda m: f"{down}.{start + int(m[1]) * size + int(m[2])}.{place}",  # noqa: B023
                )
        name = substitute(
            r"^down_blocks\.(\d)\.downsamplers\.0\.conv",
            name,
            lambda m: f"input_blocks.{1 + int(m[1]) * size + layers_per_block}.0.op",
        )
        return substitute(
            r"^up_blocks\.(\d)\.upsamplers\.0\.conv",
            name,
            lambda m: (
                f"output_blocks.{int(m[1]) * size + layers_per_block}."
                f"{2 if m[1] in with_attention else 1}.conv"
            ),
        )

    return {original(name): tensor for name, tensor in tensors.items()}


def autoencoder(tensors: Tensors) -> Tensors:
    """The names of taming-transformers: the decoder counts backwards, attention is convolution."""
    levels = 1 + max(int(m[1]) for name in tensors if (m := re.search(r"up_blocks\.(\d)", name)))

    def original(name: str) -> str:
        if "mid_block.attentions" in name:
            name = renamed(name, ATTENTION.items())
        name = renamed(name, [("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut")])
        name = substitute(r"mid_block\.resnets\.(\d)", name, lambda m: f"mid.block_{int(m[1]) + 1}")
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        name = substitute(r"down_blocks\.(\d)", name, lambda m: f"down.{m[1]}")
        name = substitute(r"up_blocks\.(\d)", name, lambda m: f"up.{levels - 1 - int(m[1])}")
        return renamed(
            name,
            [
                ("resnets", "block"),
                ("downsamplers.0", "downsample"),
                ("upsamplers.0", "upsample"),
            ],
        )

    return {
        original(name): tensor[:, :, None, None]
        if "mid_block.attentions" in name and tensor.ndim == 2
        else tensor
        for name, tensor in tensors.items()
    }


def clip(tensors: Tensors) -> Tensors:
    """OpenAI's CLIP, as transformers named it at the time."""
    return {
        f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()
    }


def open_clip(tensors: Tensors) -> Tensors:
    """OpenCLIP's names: queries, keys and values are one matrix, the projection is transposed."""
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    result = {}
    for name, tensor in plain.items():
        if name == "text_projection.weight":
            result["text_projection"] = tensor.T
        elif ".q_proj." in name:
            three = [plain[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            joined = name.replace("q_proj.", "in_proj_")
            result[renamed(joined, OPEN_CLIP.items())] = torch.cat(three)
        elif ".k_proj." not in name and ".v_proj." not in name:
            result[renamed(name, OPEN_CLIP.items())] = tensor
    return result
