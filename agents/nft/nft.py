"""Learning on the forward process (DiffusionNFT, arXiv 2509.16117) in Stable-Baselines3."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from agents.common.arguments import MEANINGLESS
from agents.common.checkpoint import Stateful
from agents.common.image_algorithm import ImageAlgorithm
from agents.common.round_config import RoundConfig
from agents.common.sb3_vec_env import SB3VecEnv
from agents.nft.buffer import FinalImages, ImageBuffer, NoisyPairs, repacked
from agents.nft.config import NFTConfig
from agents.nft.losses import ForwardLog, Predictions, forward_loss
from agents.nft.rollout import check_unshaped, collect_images
from agents.policy.second_weights import SecondWeights
from diffusion_gym.errors import InvalidInputError

USUAL_TIMESTEPS = 4
"""Noise levels at which an image is trained in an epoch, unless told."""


class DiffusionNFT(ImageAlgorithm):
    """Reinforcement learning on the forward process: final images, noise, and no likelihood.

    A round draws images with the *old* weights, any sampler (eta = 0 as well), and adds noise to
    their final latents. The trained weights learn to denoise good images better than the old ones
    did, and bad images worse (`agents.nft.losses`). Then the old weights move towards the trained
    ones. Of an episode only the final latent is kept.

    `NFTConfig` says what a round is. Every counter that Stable-Baselines3 calls timesteps counts
    images here: ``learn(1216)`` draws 1,216 images (whole rounds), and a callback's step is one
    batch of them. ``predict``, evaluations and exports use the trained weights.

    What a wrapper says of the steps has no place here: wrappers other than `SparseReward` are
    refused. One's own ``advantage`` is used.

    Args:
        policy: ``"UNetPolicy"`` or a subclass of it, with guidance 1.
        env: ``gymnasium.make_vec("DiffusionT2I-v0", num_envs=…, array_type="torch")``.
        policy_kwargs: The fields of `agents.policy.config.PolicyConfig`.
        stats_window_size: Episodes that Stable-Baselines3's ``ep_info_buffer`` remembers.
        tensorboard_log: Folder for TensorBoard events.
        verbose: Stable-Baselines3's verbosity.
        seed: Seed of everything that draws random numbers.
        device: Must be the environment's, or ``"auto"``.
        **config: The fields of `NFTConfig`.

    Raises:
        TypeError: An argument of Stable-Baselines3's that means nothing here; the message says why.
        InvalidInputError: An argument's value, or the environment, cannot work.
    """

    rollout_buffer: ImageBuffer

    config_class: ClassVar[type[RoundConfig]] = NFTConfig
    log_fields: ClassVar[tuple[str, ...]] = ForwardLog._fields
    meaningless: ClassVar[dict[str, str]] = {
        **MEANINGLESS,
        "clip_range": "it has no ratio of likelihoods; see `awm_clip_range`",
        "kl_coef": "it has no likelihood; see `reference_coef`",
        "standardise_steps": "no steps are trained",
        "target_kl": "the old weights bound the update; see `decay_rate`",
        "normalize_advantage": "advantages are normalised per prompt; see `advantage`",
        "rollout_buffer_class": "final latents are kept on the device in an ImageBuffer",
        "rollout_buffer_kwargs": "final latents are kept on the device in an ImageBuffer",
    }

    config: NFTConfig
    """What it was told about rounds, advantages and updates."""

    old: SecondWeights
    """The weights that draw images, v_old."""

    def _stock_arguments(self, num_envs: int) -> dict[str, Any]:
        del num_envs
        critic = {"gamma": 1.0, "gae_lambda": 1.0, "ent_coef": 0.0, "vf_coef": 0.0}
        return {"n_steps": 1, "use_sde": False, "sde_sample_freq": -1, **critic}

    def _check_env(self, env: SB3VecEnv) -> None:
        super()._check_env(env)
        check_unshaped(env)

    def _new_buffer(self) -> ImageBuffer:
        return ImageBuffer()

    def _setup_model(self) -> None:
        super()._setup_model()
        policy, config = self.policy, self.config
        if policy.guidance != 1.0:
            raise InvalidInputError(
                "DiffusionNFT trains the prediction for the prompt itself, and draws with it: "
                f"expected guidance=1, got {policy.guidance:g}"
            )
        if config.reference_coef > 0 and policy.lora is None:
            raise InvalidInputError(
                "where all weights train, those of the base model would be a third copy of them: "
                "expected reference_coef=0, or LoRA (lora_rank), whose base model costs nothing, "
                f"got reference_coef={config.reference_coef:g}"
            )
        if self._per_image > len(self._timesteps):
            raise InvalidInputError(
                f"expected timesteps_per_image of at most {len(self._timesteps)}, the number of "
                f"{config.timesteps} timesteps, got {self._per_image}"
            )
        self.old = SecondWeights(policy)

    @property
    def _timesteps(self) -> Tensor:
        """The timesteps that noise levels are drawn from, ``[C]``."""
        schedule = self.policy.schedule
        sampler = self.config.timesteps == "sampler"
        return schedule.timesteps if sampler else schedule.training_timesteps

    @property
    def _per_image(self) -> int:
        """Noise levels at which an image is trained in an epoch."""
        own = self.config.timesteps_per_image
        return min(USUAL_TIMESTEPS, self.policy.schedule.num_steps) if own is None else own

    def _collect_batch(
        self, env: VectorEnv[Any, Any, Any], prompt_ids: npt.NDArray[np.int64]
    ) -> tuple[FinalImages, dict[str, Any]]:
        self.policy.forget_base()  # an evaluation's, where all weights train
        with self.old.in_place():
            return collect_images(self.policy, env, prompt_ids, self.processes)

    def _pairs(self) -> Tensor:
        return self.rollout_buffer.pairs(
            len(self._timesteps), self._per_image, self.shuffle_generator, self._rows
        )

    def _passes(self, pairs: Tensor) -> Iterable[NoisyPairs]:
        return repacked(self._own_noisy(pairs), self.batch_size)

    def _own_noisy(self, pairs: Tensor) -> Iterator[NoisyPairs]:
        """Fresh noise for the pairs of all processes, some at a time; of them, this one's."""
        generator = self.policy.generator
        shape = self.rollout_buffer.images.latents.shape[1:]
        for some in pairs.split(self.batch_size):
            size = (len(some), *shape)
            noise = torch.randn(size, generator=generator, device=generator.device)
            where, own = self._rows.own_pairs(some, len(self._timesteps))
            yield NoisyPairs(own, noise[where])

    def _loss(self, pairs: NoisyPairs, *, first: bool) -> tuple[Tensor, ForwardLog]:
        del first
        policy, config, schedule = self.policy, self.config, self.policy.schedule

        # 1. The pairs' images with fresh noise.
        choices, images = self._timesteps, self.rollout_buffer.images
        rows = pairs.pairs // len(choices)
        timesteps = choices[pairs.pairs % len(choices)]
        clean, advantages = images.latents[rows], images.advantages[rows]
        noisy = schedule.add_noise(clean, pairs.noise, timesteps)
        embedding = self._embedding(images.prompt_ids[rows])

        # 2. What the old weights, the trained ones, and the base model make of them.
        with self.old.in_place():
            old = policy.predicted_clean(noisy, timesteps, embedding)
        predicted = policy.predicted_clean(noisy, timesteps, embedding)
        base = None
        if config.reference_coef > 0:
            base = policy.base_predicted_clean(noisy, timesteps, embedding)
        return forward_loss(
            config,
            Predictions(clean, predicted, old, base),
            advantages,
            schedule.noise_scale(timesteps),
            timesteps / schedule.num_train_timesteps,
        )

    def _round_ended(self) -> None:
        """The old weights move: w_old ← d w_old + (1 − d) w."""
        self.old.follow(self.config.decay(self.rounds))

    def _own_figures(self) -> dict[str, float]:
        return {"train/decay": self.config.decay(self.rounds)}

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "NFT",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Draws and trains on so many images, in whole rounds; as Stable-Baselines3's own."""
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Gives the policy, and the old weights, their first ones."""
        super().begin_with(weights)
        self.old.follow(0.0)

    def stateful_parts(self) -> dict[str, Stateful]:
        """The old weights as well."""
        return {**super().stateful_parts(), "old": self.old}

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return [*names, "old"], variables
