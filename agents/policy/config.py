"""What a `UNetPolicy` is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from diffusion_gym.checks import Checked, NotNegative, Positive, Range


@dataclass(frozen=True)
class PolicyConfig(Checked):
    """How the denoiser is evaluated, and which of its weights train."""

    guidance: NotNegative = 1.0
    """Classifier-free guidance scale, in rollout and update; 1 costs one pass over an undoubled
    batch."""

    lora_rank: Annotated[int, Range(low=0, high=2**16)] = 0
    """Rank of LoRA adapters; 0 trains all weights."""

    lora_alpha: Positive | None = None
    """LoRA's alpha; by default the rank."""

    lora_targets: Sequence[str] | None = None
    """Layers to adapt, by the ends of their names, with commas between; by default the
    attention's."""

    autocast: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the denoiser's arithmetic; by default that of the frozen networks. Latents,
    log-probabilities and all weights that train are float32 in any case; frozen weights take the
    model's dtype where the arithmetic is not float32. float16 scales its gradients."""

    gradient_checkpointing: bool = False
    """Compute the activations of every block anew in the backward pass: a third more time, and
    the memory of one block instead of all."""

    compile: bool = False
    """Compile the denoiser with torch.compile, for rollout and update alike."""

    log_prob_reduction: Literal["mean", "sum"] = "mean"
    """Of log-probabilities over latent dimensions: mean (DDPO's convention, to which clip ranges
    of 1e-4 to 5e-3 belong) or sum (the true likelihood ratio)."""

    optimizer: Literal["adamw", "adamw_fused", "adamw_8bit"] = "adamw"
    """AdamW as torch has it; the same in one kernel, faster on a GPU; or with states of eight bits
    (by bitsandbytes)."""

    optimizer_kwargs: Mapping[str, Any] | None = None
    """AdamW's options but for the rate, such as '{"betas": [0.9, 0.99]}'; by default a weight
    decay of 1e-4."""
