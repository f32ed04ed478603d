"""A frozen text-to-image model as the environment sees it."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models.components import FrozenComponents, freeze, load_component
from diffusion_gym.models.embedded import ModelDefaults

WEIGHTS_OF = ("text_encoder", "unet", "vae")
"""The parts that a checkpoint's hash covers."""

DECODE_BATCH = 32
"""Images decoded at once; larger batches are slower on a CPU and cost memory on a GPU."""


class PromptEmbedding(NamedTuple):
    """What the text encoder makes of a batch of prompts.

    Attributes:
        tokens: Hidden states, ``[B, L, D]`` float32.
        pooled: Pooled embedding, ``[B, P]`` float32, for models that have one.
    """

    tokens: Tensor
    pooled: Tensor | None = None

    @classmethod
    def observed(cls, observation: Mapping[str, Tensor]) -> "PromptEmbedding":
        """The embeddings in a batch of the environment's observations."""
        return cls(observation["prompt_embedding"], observation.get("pooled_prompt_embedding"))

    def select(self, rows: Tensor) -> "PromptEmbedding":
        """The embeddings of the given rows, in their order."""
        return PromptEmbedding(
            self.tokens[rows], None if self.pooled is None else self.pooled[rows]
        )


class DiffusionModel:
    """Text encoder, image decoder and scheduler of one checkpoint, all frozen.

    The denoiser is not among them: every policy takes a copy of its own from `new_denoiser`, so
    that training one policy can never change another, nor the environment.
    """

    def __init__(
        self, name: str, folder: Path, components: FrozenComponents, defaults: ModelDefaults
    ) -> None:
        """Use `diffusion_gym.models.load_model` instead."""
        self.name = name
        self.folder = folder
        self.defaults = defaults
        self._components: FrozenComponents | None = components
        self._unet_config: dict[str, Any] = load_component(folder, "unet", config_only=True)

    def __repr__(self) -> str:
        return f"DiffusionModel({self.name!r}, latent_shape={self.latent_shape})"

    @property
    def components(self) -> FrozenComponents:
        """The shared networks.

        Raises:
            InvalidInputError: The model has been closed.
        """
        if self._components is None:
            raise InvalidInputError(f"model {self.name!r} was closed; load it again")
        return self._components

    @property
    def device(self) -> torch.device:
        """Where the frozen networks live."""
        return self.components.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen networks; latents and images are always float32."""
        return self.components.dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one latent, ``(C, h, w)``."""
        size = self._unet_config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return int(self._unet_config["in_channels"]), int(height), int(width)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one decoded image, ``(3, H, W)``."""
        _, height, width = self.latent_shape
        scale = self.components.upscaling
        return 3, height * scale, width * scale

    @property
    def prompt_embedding_shape(self) -> tuple[int, int]:
        """Shape of one prompt's hidden states, ``(L, D)``."""
        return self.components.max_tokens, int(self._unet_config["cross_attention_dim"])

    @property
    def pooled_embedding_shape(self) -> tuple[int] | None:
        """Shape of one prompt's pooled embedding, or None where the model has none."""
        return None

    @property
    def default_prompts(self) -> str:
        """The prompt set used where none is named."""
        return self.defaults.prompts

    @property
    def default_reward(self) -> str:
        """The reward used where none is named."""
        return self.defaults.reward

    @property
    def default_num_inference_steps(self) -> int:
        """The number of denoising steps used where none is given."""
        return self.defaults.num_inference_steps

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the weight files that are used, in the order of their paths.

        Other parts, such as a safety checker, and variants (``….fp16.safetensors``) are left out:
        whether a copy of the checkpoint has them depends on how it was downloaded.
        """
        digest = hashlib.sha256()
        files = [file for part in WEIGHTS_OF for file in (self.folder / part).glob("*.safetensors")]
        for file in sorted(file for file in files if "." not in file.stem):
            digest.update(file.relative_to(self.folder).as_posix().encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def null_embedding(self) -> PromptEmbedding:
        """Embedding of the empty prompt, for classifier-free guidance, ``[1, L, D]``."""
        return self.encode([""])

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> PromptEmbedding:
        """Encodes prompts; text beyond the encoder's context is cut off, as diffusers does.

        Returns:
            The embeddings, ``[B, L, D]`` float32 on the model's device.
        """
        parts = self.components
        ids = parts.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=parts.max_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return PromptEmbedding(parts.text_encoder(ids.to(parts.device))[0].float())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents ``[B, C, h, w]`` to images ``[B, 3, H, W]``, float32 in [0, 1]."""
        parts = self.components
        scaled = latents.to(parts.device, parts.dtype) / parts.scaling_factor + parts.shift_factor
        images = [
            parts.vae.decode(chunk, return_dict=False)[0].float()
            for chunk in torch.split(scaled, DECODE_BATCH)
        ]
        return (torch.cat(images) / 2 + 0.5).clamp(0, 1)

    @property
    def scheduler(self) -> Any:
        """A fresh diffusers scheduler, as the checkpoint configures it."""
        return load_component(self.folder, "scheduler")

    def new_denoiser(self) -> nn.Module:
        """Loads a denoiser of the caller's own: float32, frozen, in eval mode, on the device."""
        device = self.device
        denoiser: nn.Module = load_component(self.folder, "unet", torch.float32)
        return freeze(denoiser, device)

    def share(self) -> "DiffusionModel":
        """Another handle on the same networks: closing one leaves the other usable."""
        return DiffusionModel(self.name, self.folder, self.components, self.defaults)

    def close(self) -> None:
        """Lets go of the frozen networks; their memory is freed with their last user."""
        self._components = None
        self.__dict__.pop("null_embedding", None)
