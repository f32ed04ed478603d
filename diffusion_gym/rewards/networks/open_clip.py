"""CLIP models of any architecture through open_clip (arXiv 2212.07143)."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_gym.errors import InvalidInputError, ModelLoadError, unknown_name
from diffusion_gym.parsing import as_path
from diffusion_gym.rewards.networks.preprocessing import Fit, Preprocessing, crop, squash
from diffusion_gym.rewards.networks.weights import fingerprint

_FITS = {"shortest": crop, "squash": squash}


class OpenClip:
    """A frozen model of open_clip and what prepares its inputs.

    Attributes:
        model: The model, as ``open_clip.create_model`` returns it.
        fingerprint: Tells its weights and architecture apart from others.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        fingerprint: str,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.model = model.requires_grad_(False).eval().to(device, dtype)
        self.fingerprint = fingerprint
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._device = device
        self._dtype = dtype

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Embeds images [B, 3, H, W] in [0, 1] as float32 directions [B, D]."""
        pixels = self._preprocessing(images.to(self._device, torch.float32))
        return F.normalize(self.model.encode_image(pixels.to(self._dtype)).float(), dim=1)

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embeds N prompts as float32 directions [N, D]; long ones are cut."""
        tokens = self._tokenizer(list(prompts)).to(self._device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=1)


def load_open_clip(
    architecture: str,
    pretrained: str | None,
    device: str,
    dtype: str = "float32",
    *,
    fit: Fit | None = None,
    reward: str = "clip_score",
) -> OpenClip:
    """Loads a model of open_clip; it is frozen, and shared while somebody holds it.

    Args:
        architecture: Such as ``"ViT-H-14"``; or ``"hf-hub:owner/name"`` or ``"local-dir:/path"``,
            which bring their weights.
        pretrained: A checkpoint, or a tag of open_clip such as ``"laion2b_s32b_b79k"``, which is
            downloaded.
        device: Where the network shall run.
        dtype: Precision of the network.
        fit: Brings images to the size of the network's input; None: what the model's own
            configuration asks for.
        reward: What needs the model, for messages.

    Raises:
        InvalidInputError: Unknown architecture or dtype, or no weights were named, or they were
            trained with another activation than the architecture has.
        ModelLoadError: open_clip is not installed, or the weights are missing, damaged or of
            another architecture.
    """
    # Imported here so that the other rewards do not wait for diffusers.
    from diffusion_gym.models.precision import resolve_dtype
    from diffusion_gym.models.shared import shared

    precision = resolve_dtype(dtype)
    return shared(
        ("open_clip", architecture, pretrained, fit, device, precision),
        lambda: _load(architecture, pretrained, device, precision, fit, reward),
    )


def _load(
    architecture: str,
    pretrained: str | None,
    device: str,
    dtype: torch.dtype,
    fit: Fit | None,
    reward: str,
) -> OpenClip:
    try:
        import open_clip
    except ImportError as error:
        raise ModelLoadError(
            f'{reward} needs open_clip: pip install "diffusion-gym[rewards]"'
        ) from error
    _check_names(open_clip, architecture, pretrained, reward)
    try:
        model = open_clip.create_model(
            architecture,
            None if pretrained is None else str(Path(pretrained).expanduser()),
            require_pretrained=True,
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:  # hub, network and format errors are of many unrelated classes
        raise ModelLoadError(
            f"{reward} cannot load open_clip's {architecture} from {pretrained!r} (`pretrained` "
            f"can also be a checkpoint's path): {error}"
        ) from error
    config = open_clip.get_model_preprocess_cfg(model)
    identity = fingerprint(model.state_dict(), [open_clip.get_model_config(architecture), config])
    preprocessing = _preprocessing(architecture, config, fit)
    return OpenClip(model, tokenizer, preprocessing, identity, device, dtype)


def _check_names(open_clip: Any, architecture: str, pretrained: str | None, reward: str) -> None:
    """Says what a user can do about wrong names, which open_clip's own errors do not."""
    if architecture.startswith(("hf-hub:", "local-dir:")):
        return
    known = open_clip.list_models()
    if architecture not in known:
        kinds = ["hf-hub:owner/name", "local-dir:/path"]
        raise unknown_name("open_clip architecture", architecture, [*known, *kinds])
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained is None:
        raise InvalidInputError(
            f"{reward} with architecture {architecture!r} needs `pretrained`: a checkpoint's path, "
            f"or one of the tags {', '.join(tags)}"
        )
    if pretrained.lower() not in tags and not as_path("pretrained", pretrained).is_file():
        raise ModelLoadError(
            f"{reward} needs weights for {architecture}, looked for at {pretrained!r}: there is no "
            f"such file, and it is none of the tags {', '.join(tags)}"
        )
    _check_activation(open_clip, architecture, pretrained, reward)


def _check_activation(open_clip: Any, architecture: str, tag: str, reward: str) -> None:
    """Refuses weights trained with another activation, for which open_clip has a warning only."""
    quick = [
        bool((config or {}).get("quick_gelu", False))
        for config in (
            open_clip.get_pretrained_cfg(architecture, tag),
            open_clip.get_model_config(architecture),
        )
    ]
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag.lower() not in tags or quick[0] == quick[1]:
        return
    names = ["GELU", "QuickGELU"]
    other = f"{architecture}-quickgelu" if quick[0] else architecture.removesuffix("-quickgelu")
    raise InvalidInputError(
        f"{reward}'s weights {tag!r} were trained with {names[quick[0]]}, and {architecture} has "
        f"{names[quick[1]]}, so that the scores would be wrong: expected architecture {other!r}"
    )


def _preprocessing(architecture: str, config: dict[str, Any], fit: Fit | None) -> Preprocessing:
    size = config["size"]
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width or (fit is None and config["resize_mode"] not in _FITS):
        raise ModelLoadError(
            f"open_clip's {architecture} takes images of {height} x {width} with resize mode "
            f"{config['resize_mode']!r}; supported are squares with {', '.join(_FITS)}"
        )
    if fit is None:
        fit = functools.partial(_FITS[config["resize_mode"]], mode=config["interpolation"])
    return Preprocessing(height, tuple(config["mean"]), tuple(config["std"]), fit)
