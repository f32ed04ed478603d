"""Reading a denoising schedule off a diffusers scheduler, and refusing what it cannot express."""

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from diffusion_gym.errors import InvalidInputError, shown, unknown_name

Prediction = Literal["epsilon", "v_prediction", "sample"]

PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")

#: Schedulers that describe the DDPM noise process by betas, so that DDIM steps can be read off
#: their configuration (Stable Diffusion 1.5 ships a PNDMScheduler, SDXL an EulerDiscreteScheduler).
DDIM_SCHEDULERS: tuple[str, ...] = (
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


#: Schedulers of rectified flows, x_σ = (1−σ) x̂0 + σ ε (Stable Diffusion 3).
FLOW_SCHEDULERS: tuple[str, ...] = ("FlowMatchEulerDiscreteScheduler",)

#: The schedulers that each sampler fits; of those that fit one, the first is taken unless told.
SCHEDULERS_OF: dict[str, tuple[str, ...]] = {
    "ddim": DDIM_SCHEDULERS,
    "flow_sde": FLOW_SCHEDULERS,
    "flow_cps": FLOW_SCHEDULERS,
}

SUPPORTED_SCHEDULERS: tuple[str, ...] = DDIM_SCHEDULERS + FLOW_SCHEDULERS


def fitting_sampler(scheduler: Any) -> str:
    """The name of the sampler that fits a diffusers scheduler.

    Raises:
        InvalidInputError: For a scheduler of an unknown family.
    """
    name = type(scheduler).__name__
    for sampler, schedulers in SCHEDULERS_OF.items():
        if name in schedulers:
            return sampler
    raise unknown_name("diffusers scheduler", name, SUPPORTED_SCHEDULERS)


def check_sampler(scheduler: Any, sampler: str) -> None:
    """Refuses a sampler for schedulers of another family.

    Raises:
        InvalidInputError: If the sampler does not fit; the message names the one that does.
    """
    fitting = fitting_sampler(scheduler)
    if SCHEDULERS_OF[sampler] != SCHEDULERS_OF[fitting]:
        raise InvalidInputError(
            f"expected sampler={fitting!r}, which fits a {type(scheduler).__name__}, "
            f"got {sampler!r}, which fits: {', '.join(SCHEDULERS_OF[sampler])}"
        )


#: Options under which a scheduler visits other noise levels than DDIM does, ends elsewhere, or
#: tells the denoiser other timesteps; with the value under which it does not.
EXPRESSIBLE: dict[str, Any] = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "timestep_type": "discrete",
    "lambda_min_clipped": -math.inf,
    "sigma_min": None,
    "sigma_max": None,
}

SPACINGS = ("leading", "linspace", "trailing")


def as_ddim(scheduler: Any) -> Any:
    """A fresh diffusers DDIMScheduler of the same noise process, over the same timesteps.

    Everything that the scheduler's configuration says is kept, its defaults included, which
    diffusers' ``from_config`` replaces by DDIM's. What it does not say is what the scheduler does
    itself: it clips nothing, for instance, while a DDIMScheduler without ``clip_sample`` does.
    The class is found through the scheduler, so that this module needs no diffusers.

    Raises:
        InvalidInputError: For a scheduler of another family, or options that DDIM does not have.
    """
    check_sampler(scheduler, "ddim")
    _check_own_options(scheduler)
    ddim_class = next(c for c in scheduler.compatibles if c.__name__ == "DDIMScheduler")
    stated = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    unstated = {
        "clip_sample": False,
        "set_alpha_to_one": _ends_without_noise(scheduler),
        "timestep_spacing": "linspace",  # DPMSolverSinglestepScheduler knows no other
        "steps_offset": 0,
        "thresholding": False,
    }
    # Not by the schedule's name: some schedulers have some that a DDIMScheduler has not.
    noise = {"trained_betas": scheduler.betas.tolist(), "rescale_betas_zero_snr": False}
    config = unstated | stated | noise | {"beta_schedule": "linear"}
    _check_values(config)
    return ddim_class.from_config(config)


def _check_own_options(scheduler: Any) -> None:
    """Refuses options of the scheduler's class that DDIM cannot follow.

    Others that its configuration may hold, left there by conversions, mean nothing to it.
    """
    name = type(scheduler).__name__
    own = inspect.signature(type(scheduler).__init__).parameters
    for option, expressible in EXPRESSIBLE.items():
        value = scheduler.config.get(option, expressible) if option in own else expressible
        if value != expressible:
            raise InvalidInputError(
                f"expected a scheduler whose timesteps DDIM can follow, got a {name} with "
                f"{option}={value!r}; set it to {expressible!r} in the scheduler's configuration "
                "(scheduler/scheduler_config.json) to sample without it"
            )


def _ends_without_noise(scheduler: Any) -> bool:
    """Is the latent after the last step clean, ᾱ' = 1, or as noisy as at timestep 0?"""
    if type(scheduler).__name__ == "DEISMultistepScheduler":  # it has no choice
        return False
    return bool(scheduler.config.get("final_sigmas_type", "zero") == "zero")


def _check_values(config: Mapping[str, Any]) -> None:
    """Refuses values of a configuration that diffusers would take and then trip over."""
    length = config["num_train_timesteps"]
    betas = len(config["trained_betas"])
    if type(length) is not int or length < 1 or betas != length:
        raise InvalidInputError(
            "expected a scheduler whose num_train_timesteps is the number of its betas, got "
            f"num_train_timesteps={length!r} and {betas} betas"
        )
    if config["timestep_spacing"] not in SPACINGS:
        raise unknown_name("timestep spacing", config["timestep_spacing"], SPACINGS)
    if type(config["steps_offset"]) is not int or config["steps_offset"] < 0:
        raise InvalidInputError(
            f"expected steps_offset to be an integer ≥ 0, got {config['steps_offset']!r}"
        )
    for option in ("clip_sample", "set_alpha_to_one", "thresholding"):
        if type(config[option]) is not bool:
            raise InvalidInputError(
                f"expected the scheduler's {option} to be true or false, got {config[option]!r}"
            )
    bound = config.get("clip_sample_range", 1.0)
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 < bound < math.inf:
        raise InvalidInputError(
            f"expected the scheduler's clip_sample_range to be a number above 0, got {bound!r}"
        )


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


def check_num_steps(num_inference_steps: int, longest: int) -> None:
    """Refuses a T that is not an integer from 1 to ``longest``, the training schedule's length."""
    if (
        isinstance(num_inference_steps, bool)
        or not isinstance(num_inference_steps, int)
        or not 1 <= num_inference_steps <= longest
    ):
        raise InvalidInputError(
            f"expected num_inference_steps to be an integer from 1 to {longest}, "
            f"got {shown(num_inference_steps)}"
        )


def sampling_timesteps(ddim: Any, num_inference_steps: int) -> Tensor:
    """The T timesteps in sampling order, ``[T]`` int64; T is checked."""
    longest = ddim.config.num_train_timesteps
    check_num_steps(num_inference_steps, longest)
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
    impossible = ~((alpha_bar >= 0) & (alpha_bar <= 1))
    if bool(impossible.any()):
        raise InvalidInputError(
            "expected betas from 0 to 1, so that ᾱ is from 0 to 1, got "
            f"ᾱ = {alpha_bar[impossible][0]:g} at timestep {timesteps[impossible][0]}"
        )
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


def flow_noise_levels(
    scheduler: Any, num_inference_steps: int, sampler: str
) -> tuple[Tensor, Tensor]:
    """Timesteps ``[T]`` and noise levels σ ``[T+1]`` (the last is 0) of a flow-matching sampler.

    Both float32, and exactly those that the scheduler gives its own pipeline. Its
    ``stochastic_sampling`` only says how diffusers samples, so it does not matter here.

    Args:
        scheduler: A FlowMatchEulerDiscreteScheduler.
        num_inference_steps: T.
        sampler: The sampler that they are for, for messages.

    Raises:
        InvalidInputError: For a scheduler of another family, or options or a T that cannot be
            expressed.
    """
    check_sampler(scheduler, sampler)
    if scheduler.config.use_dynamic_shifting:
        raise InvalidInputError(
            "expected a flow-matching scheduler with a fixed shift (as Stable Diffusion 3 and 3.5 "
            "have), got use_dynamic_shifting=True, whose noise levels depend on the image's size; "
            "set it to false, and shift to the value for your size, in the scheduler's config"
        )
    if scheduler.config.invert_sigmas:
        raise InvalidInputError(
            "expected noise levels that fall from 1 to 0, got invert_sigmas=True"
        )
    check_num_steps(num_inference_steps, scheduler.config.num_train_timesteps)
    fresh = copy.deepcopy(scheduler)  # not from its config: set_shift is not recorded there
    fresh.set_timesteps(num_inference_steps)
    timesteps, sigmas = fresh.timesteps.cpu().float(), fresh.sigmas.cpu().float()
    if not (len(timesteps) == num_inference_steps and bool((sigmas.diff() < 0).all())):
        raise InvalidInputError(
            f"this scheduler cannot do num_inference_steps={num_inference_steps}: expected "
            f"{num_inference_steps} falling noise levels above 0, got {sigmas[:-1].tolist()}"
        )
    return timesteps, sigmas
