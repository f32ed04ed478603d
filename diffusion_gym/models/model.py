"""A frozen text-to-image model as the environment sees it."""

import copy
import math
import warnings
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_gym.errors import InvalidInputError, ModelLoadError, shown
from diffusion_gym.models.checkpoint import Checkpoint
from diffusion_gym.models.consistency import check_consistency
from diffusion_gym.models.decoder import Decoder
from diffusion_gym.models.denoiser import Denoiser
from diffusion_gym.models.embedded import ModelDefaults
from diffusion_gym.models.embedding import PromptEmbedding
from diffusion_gym.models.options import ModelOptions
from diffusion_gym.models.shared import (
    freeze,
    load_decoder,
    load_text_encoders,
    text_encoder_parts,
)
from diffusion_gym.models.text_encoders import TextEncoders


class DiffusionModel:
    """Text encoders, image decoder and scheduler of one checkpoint, all frozen.

    The denoiser is not among them: every policy takes a copy of its own from `new_denoiser`, so
    that training one policy can never change another, nor the environment.

    Attributes:
        name: What it was loaded by.
        dtype: Precision of the text encoders; latents, embeddings and images are always float32.
        options: How it was loaded.
    """

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        options: ModelOptions,
        defaults: ModelDefaults,
    ) -> None:
        """Use `diffusion_gym.models.load_model` instead."""
        self.name = name
        self.dtype = dtype
        self.options = options
        self.defaults = defaults
        self._checkpoint = checkpoint
        self._architecture = checkpoint.architecture
        self._config = checkpoint.config(self._architecture.denoiser_part)
        self._decoder: Decoder | None = load_decoder(checkpoint, device, dtype, options)
        texts = load_text_encoders(checkpoint, device, dtype, options)
        self._text_encoders: TextEncoders | None = texts
        check_consistency(checkpoint, self._config, texts, self._decoder)
        self._check_clip_skip(texts)
        self._max_tokens = texts.encoders[0].max_tokens
        self._check_resolution()

    def __repr__(self) -> str:
        return f"DiffusionModel({self.name!r}, latent_shape={self.latent_shape})"

    @property
    def folder(self) -> Path:
        """Where the checkpoint's configuration is; for a diffusers folder, all of it."""
        return self._checkpoint.folder

    @property
    def decoder(self) -> Decoder:
        """The shared image decoder.

        Raises:
            InvalidInputError: The model has been closed.
        """
        if self._decoder is None:
            raise InvalidInputError(f"model {self.name!r} was closed; load it again")
        return self._decoder

    @property
    def text_encoders(self) -> TextEncoders:
        """The shared text encoders.

        Raises:
            InvalidInputError: They have been freed, or the model has been closed.
        """
        _ = self.decoder
        if self._text_encoders is None:
            raise InvalidInputError(
                f"the text encoders of model {self.name!r} were freed (free_text_encoders): "
                "expected one of the prompts that were encoded before, got another"
            )
        return self._text_encoders

    @property
    def text_encoders_key(self) -> Hashable:
        """What decides how prompts are encoded: models with the same give the same embeddings."""
        return self._checkpoint.key, self.device, self.dtype, self.options

    @property
    def device(self) -> torch.device:
        """Where the frozen networks live."""
        return self.decoder.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one latent, ``(C, h, w)``."""
        size = self._config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        asked, cell = self.options, self.decoder.upscaling
        if (pixels := asked.height or asked.resolution) is not None:
            height = pixels // cell
        if (pixels := asked.width or asked.resolution) is not None:
            width = pixels // cell
        return int(self._config["in_channels"]), int(height), int(width)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one decoded image, ``(3, H, W)``."""
        _, height, width = self.latent_shape
        scale = self.decoder.upscaling
        return 3, height * scale, width * scale

    @property
    def prompt_embedding_shape(self) -> tuple[int, int]:
        """Shape of one prompt's hidden states, ``(L, D)``."""
        return self._architecture.embedding_shape(self._config, self._max_tokens, self.options)

    @property
    def pooled_embedding_shape(self) -> tuple[int] | None:
        """Shape of one prompt's pooled embedding, ``(P,)``, or None where the model has none."""
        size = self._architecture.pooled_size(self._config)
        return None if size is None else (size,)

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
        """SHA-256, in hex, of the weights that are used, those of the denoiser included.

        For a folder: of its weight files' paths and contents. For a single-file checkpoint: of
        the file's content.
        """
        texts = text_encoder_parts(self._checkpoint, self.options)
        return self._checkpoint.weights_hash((*texts, self._architecture.denoiser_part, "vae"))

    @cached_property
    def null_embedding(self) -> PromptEmbedding:
        """Embedding that classifier-free guidance leads away from, of one row.

        That of the negative prompt, where there is one; else of the empty prompt, or zeros where
        the model was made so (Stable Diffusion XL).
        """
        negative = self.options.negative_prompt
        if negative is not None or not self._architecture.null_is_zero(self._checkpoint.index):
            return self.encode_negative([negative or ""])
        pooled = self.pooled_embedding_shape
        return PromptEmbedding(
            torch.zeros(1, *self.prompt_embedding_shape, device=self.device),
            None if pooled is None else torch.zeros(1, *pooled, device=self.device),
        )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> PromptEmbedding:
        """Encodes prompts; text beyond the encoders' context is cut off, as diffusers does.

        `warn_of_cut_prompts` tells of which prompts this is so.

        Returns:
            The embeddings of B rows, float32 on the model's device.

        Raises:
            InvalidInputError: The text encoders have been freed, or there is no prompt.
            ModelLoadError: They gave numbers that are not finite.
        """
        if isinstance(prompts, str) or not prompts:
            raise InvalidInputError(
                f"expected a list of at least one prompt to encode, got {shown(prompts)}"
            )
        return self._encode(prompts, self.options.clip_skip)

    @torch.no_grad()
    def encode_negative(self, prompts: Sequence[str]) -> PromptEmbedding:
        """Encodes negative prompts: as `encode`, but, as diffusers does it, without ``clip_skip``.

        Returns:
            The embeddings of B rows, float32 on the model's device.

        Raises:
            InvalidInputError: The text encoders have been freed.
            ModelLoadError: They gave numbers that are not finite.
        """
        return self._encode(prompts, clip_skip=0)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str], clip_skip: int) -> PromptEmbedding:
        encoders = self.text_encoders.encoders
        shape = self.prompt_embedding_shape
        embedding = self._architecture.encode(encoders, prompts, shape, clip_skip)
        broken = ~embedding.tokens.isfinite().flatten(1).all(1)
        if embedding.pooled is not None:
            broken |= ~embedding.pooled.isfinite().all(1)
        if bool(broken.any()):
            first = prompts[int(broken.int().argmax())]
            name = str(self.dtype).removeprefix("torch.")
            advice = (
                "the checkpoint's weights are damaged, or no text encoder's"
                if self.dtype == torch.float32
                else "try dtype='float32', or 'bfloat16'"
            )
            raise ModelLoadError(
                f"the text encoders of model {self.name!r} gave NaN or infinity for "
                f"{int(broken.sum())} of {len(prompts)} prompts, such as {first[:80]!r}, in "
                f"{name}: {advice}"
            )
        return embedding

    def check_guidance(self, guidance: float, *, negative_prompts: bool = False) -> None:
        """Refuses negative prompts that would have no effect.

        Args:
            guidance: Classifier-free guidance scale.
            negative_prompts: Whether prompts have negative prompts of their own.

        Raises:
            InvalidInputError: There are some, and a guidance of 1.
        """
        if guidance == 1.0 and negative_prompts:
            raise InvalidInputError(
                "expected a guidance other than 1 for prompts that have negative prompts, which "
                "have no effect without it, got 1"
            )
        if guidance == 1.0 and self.options.negative_prompt is not None:
            raise InvalidInputError(
                "expected a guidance other than 1 with the model option negative_prompt="
                f"{shown(self.options.negative_prompt)}, which has no effect without it, got 1"
            )

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Those of the prompts of which some text encoder does not read the end.

        Raises:
            InvalidInputError: The text encoders have been freed.
        """
        cut = self._cut(prompts)
        return [prompt for prompt, parts in zip(prompts, cut, strict=True) if parts]

    def warn_of_cut_prompts(self, prompts: Sequence[str]) -> None:
        """Warns, once for all the prompts, of those of which `encode` does not read the end.

        Raises:
            InvalidInputError: The text encoders have been freed.
        """
        cut = self._cut(prompts)
        first = next((number for number, parts in enumerate(cut) if parts), None)
        if first is None:
            return
        count = sum(bool(parts) for parts in cut)
        text = prompts[first]
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        how_much = ", ".join(f"{part}: {tokens} tokens" for part, tokens in cut[first].items())
        lengths = ", ".join(f"{part} {length}" for part, length in self._contexts().items())
        warnings.warn(
            f"model {self.name!r} does not read the end of {count} of {len(prompts)} prompts, "
            f"such as {shown!r} ({how_much}; its text encoders read {lengths}). "
            "Prompts that begin alike can look the same to it",
            stacklevel=2,
        )

    def _contexts(self) -> dict[str, int]:
        """How many tokens each text encoder reads, by its part's name."""
        encoders = self.text_encoders.encoders
        lengths = self._architecture.context_lengths(encoders, self.prompt_embedding_shape)
        parts = (encoder.part for encoder in encoders)
        return dict(zip(parts, lengths, strict=True))

    def _cut(self, prompts: Sequence[str]) -> list[dict[str, int]]:
        """For each prompt: its numbers of tokens, for those text encoders that read fewer."""
        cut: list[dict[str, int]] = [{} for _ in prompts]
        encoders = self.text_encoders.encoders
        for encoder, length in zip(encoders, self._contexts().values(), strict=True):
            for parts, tokens in zip(cut, encoder.token_counts(prompts), strict=True):
                if tokens > length:
                    parts[encoder.part] = tokens
        return cut

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents ``[B, C, h, w]`` to images ``[B, 3, H, W]``, float32 in [0, 1].

        An image that overflows the decoder's precision has NaN in it; `Decoder.failure` says so.
        """
        return self.decoder.decode(latents)

    @property
    def scheduler(self) -> Any:
        """A fresh diffusers scheduler, as the checkpoint configures it."""
        return self._checkpoint.small_part("scheduler")

    def new_denoiser(self, dtype: torch.dtype = torch.float32) -> Denoiser:
        """Loads a denoiser of the caller's own: frozen, in eval mode, on the device.

        Args:
            dtype: Precision of its weights, which are read in it: a denoiser in half precision
                never takes the memory of one in float32. To be trained it should be float32.
        """
        device = self.device
        network = self._checkpoint.network(self._architecture.denoiser_part, dtype)
        _, height, width = self.image_shape
        return self._architecture.wrap(freeze(network, device), (height, width)).to(device).eval()

    def share(self) -> "DiffusionModel":
        """Another handle on the same networks: closing one leaves the other usable."""
        _ = self.decoder
        return copy.copy(self)

    def free_text_encoders(self) -> None:
        """Lets go of the text encoders; their memory is freed with their last user.

        Afterwards there is only `null_embedding`, and what was encoded before.
        """
        _ = self.null_embedding
        self._text_encoders = None

    def close(self) -> None:
        """Lets go of the frozen networks; their memory is freed with their last user."""
        self._decoder = None
        self._text_encoders = None
        self.__dict__.pop("null_embedding", None)

    def _check_clip_skip(self, texts: TextEncoders) -> None:
        """Checks that every CLIP has a layer left, as many as all of them leave out themselves."""
        skipped = self.options.clip_skip
        layers = min(
            (
                int(encoder.network.config.num_hidden_layers)
                for encoder in texts.encoders
                if "clip" in str(encoder.network.config.model_type)
            ),
            default=skipped + 1,
        )
        if skipped > layers - 1:
            raise InvalidInputError(
                f"expected model option 'clip_skip' up to {layers - 1}, one less than CLIP has "
                f"layers, got {shown(skipped)}"
            )

    def _check_resolution(self) -> None:
        options = self.options
        cell = self.decoder.upscaling * self._architecture.patch_size(self._config)
        largest = self._architecture.largest_latent(self._config) * self.decoder.upscaling
        asked = (options.height or options.resolution, options.width or options.resolution)
        for pixels, size in zip(asked, self.image_shape[1:], strict=True):
            if size % cell or size > largest or not size or (pixels or size) != size:
                raise InvalidInputError(
                    f"expected a height and a width of images of model {self.name!r} that are "
                    f"multiples of {cell} pixels"
                    + (f" up to {largest:g}" if largest < math.inf else "")
                    + f", got {pixels or size}"
                )
