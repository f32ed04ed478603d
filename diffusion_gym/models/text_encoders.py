"""The frozen text encoders of a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """One text encoder and the tokenizer in front of it.

    Attributes:
        tokenizer: From transformers.
        network: A CLIP or T5 text encoder from transformers.
        part: Its name in the checkpoint.
    """

    tokenizer: Any
    network: Any
    part: str = "text_encoder"

    @property
    def max_tokens(self) -> int:
        """Length that every prompt is padded or cut to, unless told otherwise."""
        return int(self.tokenizer.model_max_length)

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """How many tokens each prompt has, start and end tokens included, if nothing is cut."""
        if not prompts:
            return []
        ids = self.tokenizer(list(prompts), truncation=False, verbose=False).input_ids
        return [len(tokens) for tokens in ids]

    def token_ids(self, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """Prompts as token ids ``[B, L]`` on the network's device, padded or cut to the length."""
        ids: Tensor = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=length or self.max_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids.to(self.network.device)


@dataclass(frozen=True, eq=False)
class TextEncoders:
    """All text encoders of one checkpoint on one device in one precision, in their order."""

    encoders: tuple[TextEncoder, ...]


def last_states(encoder: TextEncoder, prompts: Sequence[str], clip_skip: int = 0) -> Tensor:
    """Hidden states after CLIP's last layer and its normalisation, ``[B, L, D]`` float32.

    Args:
        encoder: A CLIP.
        prompts: B texts.
        clip_skip: How many layers before the last one they are taken, and then normalised.
    """
    if clip_skip == 0:
        states: Tensor = encoder.network(encoder.token_ids(prompts))[0]
        return states.float()
    output = encoder.network(encoder.token_ids(prompts), output_hidden_states=True)
    model = getattr(encoder.network, "text_model", encoder.network)
    normalised: Tensor = model.final_layer_norm(output.hidden_states[-1 - clip_skip])
    return normalised.float()


def penultimate_states(
    encoder: TextEncoder, prompts: Sequence[str], length: int | None = None, clip_skip: int = 0
) -> tuple[Tensor, Tensor]:
    """What later models take from CLIP: the states before the last layer, without normalisation.

    Args:
        encoder: A CLIP.
        prompts: B texts.
        length: Of a prompt in tokens; None is the tokenizer's.
        clip_skip: How many layers before that one they are taken.

    Returns:
        Hidden states ``[B, L, D]`` and the network's first output, which is the projected pooled
        embedding ``[B, P]`` where it has a projection; both float32.
    """
    output = encoder.network(encoder.token_ids(prompts, length), output_hidden_states=True)
    return output.hidden_states[-2 - clip_skip].float(), output[0].float()


def t5_states(encoder: TextEncoder, prompts: Sequence[str], length: int) -> Tensor:
    """T5's hidden states, ``[B, L, D]`` float32; padding is attended to, as diffusers does it."""
    states: Tensor = encoder.network(encoder.token_ids(prompts, length))[0]
    return states.float()


def pooled_position_is_right(encoder: TextEncoder) -> bool:
    """Does CLIP pool at the prompt's end token?

    It looks for the configured end token, or, where that is 2 (as in all older checkpoints), for
    the largest id; with another tokenizer it would silently pool somewhere else.
    """
    end = encoder.tokenizer.eos_token_id
    configured = encoder.network.config.eos_token_id
    if configured == 2:
        return bool(end == max(encoder.tokenizer.get_vocab().values()))
    return bool(end == configured)


def zero_states(rows: int, length: int, width: int, device: torch.device) -> Tensor:
    """What stands in for an encoder that is not there, ``[B, L, D]``."""
    return torch.zeros(rows, length, width, device=device)
