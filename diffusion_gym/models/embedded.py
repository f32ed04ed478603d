"""The models that ship inside the package, and what each model is used with by default."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelDefaults:
    """What an environment uses where its caller names nothing else.

    Attributes:
        prompts: Specification for `diffusion_gym.prompts.load_prompts`.
        reward: Name of a registered reward.
        num_inference_steps: Number of denoising steps T.
    """

    prompts: str
    reward: str
    num_inference_steps: int


EMOJI64 = "emoji-64"
EMBEDDED_DEFAULTS = {EMOJI64: ModelDefaults("emoji-objects", "house_style", 10)}
OTHER_DEFAULTS = ModelDefaults("animals", "jpeg_compressibility", 50)
"""DDPO's first experiment (arXiv 2305.13301): 45 animals, as small as JPEG can have them."""


def model_names() -> list[str]:
    """The names of the embedded models."""
    return sorted(EMBEDDED_DEFAULTS)
