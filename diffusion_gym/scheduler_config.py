"""Reading a denoising schedule off a diffusers scheduler, and refusing what it cannot express."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from diffusion_gym.errors import InvalidInputError, unknown_name

Prediction = Literal["epsilon", "v_prediction", "sample"]

PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")

#: Schedulers that describe the DDPM noise process by betas, so that DDIM steps can be read off
#: their configuration (Stable Diffusion 1.5 ships a PNDMScheduler, SDXL an EulerDiscreteScheduler).
SUPPORTED_SCHEDULERS: tuple[str, ...] = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


def as_ddim(scheduler: Any) -> Any:
    """A fresh diffusers DDIMScheduler of the same noise process.

    The class is found through the scheduler, so that this module needs no diffusers.
    """
    name = type(scheduler).__name__
    if name not in SUPPORTED_SCHEDULERS:
        raise unknown_name("diffusers scheduler", name, SUPPORTED_SCHEDULERS)
    ddim_class = next(c for c in scheduler.compatibles if c.__name__ == "DDIMScheduler")
    return ddim_class.from_config(scheduler.config)


def supported_prediction(config: Mapping[str, Any]) -> Prediction:
    """The prediction type of a DDIM configuration whose options are all supported."""
    if config["thresholding"]:
        raise InvalidInputError(
            "expected a scheduler without dynamic thresholding (its mean is no function of one "
            "latent dimension alone), got thresholding=True"
        )
    for prediction in PREDICTIONS:
        if config["prediction_type"] == prediction:
            return prediction
    raise unknown_name("prediction type", config["prediction_type"], PREDICTIONS)


def sampling_timesteps(ddim: Any, num_inference_steps: int) -> Tensor:
    """The T timesteps in sampling order, ``[T]`` int64; T is checked."""
    longest = ddim.config.num_train_timesteps
    if (
        isinstance(num_inference_steps, bool)
        or not isinstance(num_inference_steps, int)
        or not 1 <= num_inference_steps <= longest
    ):
        raise InvalidInputError(
            f"expected num_inference_steps to be an integer from 1 to {longest}, "
            f"got {num_inference_steps!r}"
        )
    ddim.set_timesteps(num_inference_steps)
    timesteps: Tensor = ddim.timesteps.cpu().long()
    valid = (
        len(timesteps) == num_inference_steps
        and 0 <= timesteps.min() <= timesteps.max() < longest
        and bool((timesteps.diff() < 0).all())
    )
    if not valid:
        raise InvalidInputError(
            f"this scheduler cannot do num_inference_steps={num_inference_steps}: with "
            f"timestep_spacing={ddim.config.timestep_spacing!r} and "
            f"steps_offset={ddim.config.steps_offset} it makes {len(timesteps)} timesteps from "
            f"{timesteps.max()} to {timesteps.min()}, expected {num_inference_steps} falling ones "
            f"from 0 to {longest - 1}"
        )
    return timesteps


def check_signal(alpha_bar: Tensor, timesteps: Tensor, prediction: Prediction) -> None:
    """Refuses steps at which the denoiser's output does not determine x̂0 and ε."""
    if prediction == "epsilon" and bool((alpha_bar == 0).any()):
        raise InvalidInputError(
            "epsilon prediction cannot start from pure noise: ᾱ = 0 at timestep "
            f"{timesteps[alpha_bar == 0].tolist()} (rescale_betas_zero_snr); expected "
            "v_prediction or sample prediction there, or timestep_spacing='leading'"
        )
    if bool((alpha_bar == 1).any()):
        raise InvalidInputError(
            "expected noise at every step (ᾱ < 1), got ᾱ = 1 at timestep "
            f"{timesteps[alpha_bar == 1].tolist()}"
        )
