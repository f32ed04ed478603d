"""What differs between the kinds of models that are supported."""

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from diffusion_gym.models.denoiser import Denoiser
from diffusion_gym.models.embedding import PromptEmbedding
from diffusion_gym.models.options import ModelOptions
from diffusion_gym.models.text_encoders import TextEncoder

CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
T5_TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast")
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")

Config = Mapping[str, Any]
"""A network's configuration, as in its config.json."""


class Architecture(abc.ABC):
    """One kind of pipeline: its parts, and how prompts condition its denoiser.

    Attributes:
        pipeline: The class that the checkpoint's ``model_index.json`` names.
        parts: Every part that is needed, with the classes it may have.
        optional_parts: Those of them that a checkpoint may lack.
        denoiser_part: The one that is the denoiser.
        num_inference_steps: Number of denoising steps T where none is given.
        sizes: Entries of the denoiser's configuration, besides ``in_channels``, that must be
            whole numbers above 0.
    """

    pipeline: ClassVar[str]
    parts: ClassVar[Mapping[str, tuple[str, ...]]]
    optional_parts: ClassVar[tuple[str, ...]] = ()
    denoiser_part: ClassVar[str] = "unet"
    num_inference_steps: ClassVar[int] = 50
    sizes: ClassVar[tuple[str, ...]] = ()

    @property
    def text_encoder_parts(self) -> tuple[str, ...]:
        """The names of the text encoders' parts, in their order."""
        return tuple(part for part in self.parts if part.startswith("text_encoder"))

    @abc.abstractmethod
    def embedding_shape(
        self, config: Config, max_tokens: int, options: ModelOptions
    ) -> tuple[int, int]:
        """Shape of one prompt's hidden states, ``(L, D)``.

        Args:
            config: The denoiser's.
            max_tokens: Tokens of the first text encoder.
            options: The model's.
        """

    def pooled_size(self, config: Config) -> int | None:
        """Size P of one prompt's pooled embedding; None where there is none."""
        del config
        return None

    @abc.abstractmethod
    def encode(
        self,
        encoders: Sequence[TextEncoder],
        prompts: Sequence[str],
        shape: tuple[int, int],
        clip_skip: int = 0,
    ) -> PromptEmbedding:
        """Encodes prompts as diffusers' pipeline does.

        Args:
            encoders: The text encoders, in the order of their parts, without those left out.
            prompts: B texts.
            shape: `embedding_shape`.
            clip_skip: How many layers nearer to its beginning CLIP is left than usual.
        """

    def context_lengths(
        self, encoders: Sequence[TextEncoder], shape: tuple[int, int]
    ) -> tuple[int, ...]:
        """How many tokens of a prompt each text encoder reads; what is longer is cut.

        Args:
            encoders: As for `encode`.
            shape: `embedding_shape`.
        """
        del shape
        return tuple(encoder.max_tokens for encoder in encoders)

    def null_is_zero(self, index: Config) -> bool:
        """Is the null embedding zero, instead of that of the empty prompt?

        Args:
            index: The checkpoint's ``model_index.json``.
        """
        del index
        return False

    def wrap(self, network: nn.Module, image_size: tuple[int, int]) -> Denoiser:
        """The denoiser around its network, for images of ``(H, W)`` pixels."""
        del image_size
        return Denoiser(network)

    def patch_size(self, config: Config) -> int:
        """Latent cells per axis that the denoiser cannot divide."""
        del config
        return 1

    def largest_latent(self, config: Config) -> float:
        """Height and width of the largest latent that the denoiser takes."""
        del config
        return math.inf

    @abc.abstractmethod
    def problems(self, config: Config, encoders: Sequence[TextEncoder]) -> Iterator[str]:
        """Why denoiser and text encoders do not fit together; nothing if they do."""
