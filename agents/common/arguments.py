"""What an agent can be given, and why it refuses the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from agents.common.sb3_vec_env import SB3VecEnv
from diffusion_gym.checks import Checked, Range, Seed
from diffusion_gym.errors import InvalidInputError, UnknownKeywordError, shown
from diffusion_gym.models.loading import resolve_device
from diffusion_gym.rewards.composite import CompositeReward
from diffusion_gym.wrappers import B2DiffuRLReward, shapings

MEANINGLESS = {
    "n_steps": "a rollout is always whole episodes of T steps",
    "gamma": "the return of an episode is its last reward, undiscounted",
    "gae_lambda": "there is no critic",
    "clip_range_vf": "there is no critic",
    "vf_coef": "there is no critic",
    "ent_coef": "the schedule fixes the Gaussian's deviation, and with it the entropy",
    "use_sde": "the schedule fixes the noise",
    "sde_sample_freq": "the schedule fixes the noise",
    "target_kl": "the clip range bounds the update; kl_coef penalises leaving the base model",
    "normalize_advantage": "advantages are normalised per prompt; see `advantage`",
    "rollout_buffer_class": "trajectories are kept on the device in a TrajectoryBuffer",
    "rollout_buffer_kwargs": "trajectories are kept on the device in a TrajectoryBuffer",
}


@dataclass(frozen=True)
class StockConfig(Checked):
    """What Stable-Baselines3's own part is told."""

    policy_kwargs: Mapping[str, Any] | None = None
    """The fields of `agents.policy.config.PolicyConfig`."""

    stats_window_size: Annotated[int, Range(low=1, high=2**31 - 1)] = 100
    """Episodes that its buffer remembers."""

    tensorboard_log: str | None = None
    """Folder for TensorBoard events."""

    verbose: Annotated[int, Range(low=0, high=2)] = 0
    """How much it prints."""

    seed: Seed | None = None
    """Seed of everything that draws random numbers."""


def refuse_meaningless(
    arguments: Mapping[str, Any], owner: str, meaningless: Mapping[str, str]
) -> None:
    """Refuses arguments of Stable-Baselines3's PPO that mean nothing here.

    Args:
        arguments: What was given.
        owner: Who takes them, for the message.
        meaningless: The names that it refuses, and why.

    Raises:
        UnknownKeywordError: There is one; the message says why.
    """
    for name in arguments:
        if name in meaningless:
            raise UnknownKeywordError(f"{owner} has no {name!r}: {meaningless[name]}")


def checked_device(env: SB3VecEnv, device: torch.device | str) -> torch.device:
    """The environment's device.

    Raises:
        InvalidInputError: Another one was asked for.
    """
    own = env.base_env.model.device
    wished = own if isinstance(device, str) and device == "auto" else resolve_device(device)
    if wished.type != own.type or wished.index not in (None, own.index):
        raise InvalidInputError(
            f"expected the environment's device, {own}, or 'auto', got device={shown(device)}"
        )
    return own


def check_noise(env: SB3VecEnv) -> None:
    """Checks that an environment has steps with a density to train.

    Raises:
        InvalidInputError: Every step is deterministic.
    """
    reason = env.base_env.schedule.why_deterministic
    if reason is not None:
        raise InvalidInputError(
            f"no step of this environment has noise ({reason}), so there is nothing to train on: "
            "expected eta > 0 and at least 2 denoising steps, or DiffusionNFT (--algorithm nft), "
            "which needs no noise"
        )


def reward_weights(env: SB3VecEnv) -> dict[str, float]:
    """The weights of an environment's rewards, by the names of their terms.

    Raises:
        InvalidInputError: It has no weighted sum of rewards, or a wrapper compares images itself.
    """
    what = "multi_objective_aggregation='normalize_then_sum'"
    reward = env.base_env.reward_function
    if not isinstance(reward, CompositeReward):
        raise InvalidInputError(
            f"{what} normalises the rewards of a weighted sum: expected one, such as "
            f'reward={{"clip_score": 1, "jpeg_compressibility": 1}}, got {shown(reward.name)}'
        )
    for shaping in shapings(env.vector_env):
        if isinstance(shaping, B2DiffuRLReward):
            raise InvalidInputError(
                f"B2DiffuRLReward compares the returns of its branches itself: expected no {what}"
            )
    return dict(reward.weights)


def check_groups(
    env: SB3VecEnv, *, images: int, samples_per_prompt: int, batches_per_round: int, advantage: str
) -> None:
    """Checks that groups of images fit into a batch, and that they have something to compare.

    Args:
        env: The environment.
        images: Images of a batch, in all processes.
        samples_per_prompt: Images of one prompt in a batch.
        batches_per_round: Batches in a round, over which groups are formed.
        advantage: The baseline, "group" or "prompt".

    Raises:
        InvalidInputError: They do not fit, or every image would be compared with itself alone.
    """
    if images % samples_per_prompt:
        raise InvalidInputError(
            f"expected samples_per_prompt to divide num_envs ({images}), "
            f"got {shown(samples_per_prompt)}"
        )
    for shaping in shapings(env.vector_env):
        if isinstance(shaping, B2DiffuRLReward) and samples_per_prompt % shaping.branches:
            raise InvalidInputError(
                "expected samples_per_prompt to be a multiple of B2DiffuRLReward's branches "
                f"({shaping.branches}), which share their prompt, got {shown(samples_per_prompt)}"
            )
    prompts_differ = batches_per_round == 1 and len(env.base_env.prompts) >= images
    if advantage == "group" and samples_per_prompt == 1 and prompts_differ:
        raise InvalidInputError(
            "with samples_per_prompt=1 every image is a group of its own, whose advantage is 0, so "
            "nothing would be learned: expected samples_per_prompt of 2 or more, or "
            "advantage='prompt', which compares with earlier rounds"
        )
