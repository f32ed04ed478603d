"""PPO for denoising policies (DDPO, arXiv 2305.13301) as a Stable-Baselines3 algorithm."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor

from agents.common.arguments import check_noise
from agents.common.image_algorithm import ImageAlgorithm, RewardFailureError
from agents.common.round_config import RoundConfig
from agents.common.sb3_vec_env import SB3VecEnv
from agents.ppo.buffer import Trajectories, TrajectoryBuffer
from agents.ppo.config import PPOConfig
from agents.ppo.rollout import collect_batch
from agents.ppo.standardisation import StepStandardisation
from agents.ppo.update import UpdateLog, ppo_loss

__all__ = ["DiffusionPPO", "RewardFailureError"]


class DiffusionPPO(ImageAlgorithm, PPO):
    """Critic-free PPO over denoising steps, counted in images.

    `PPOConfig` says what a round is. Every counter that Stable-Baselines3 calls timesteps counts
    images here: ``learn(1216)`` draws 1,216 images (whole rounds), and a callback's step is one
    batch of them.

    Args:
        policy: ``"UNetPolicy"`` or a subclass of it.
        env: ``gymnasium.make_vec("DiffusionT2I-v0", num_envs=…, array_type="torch")``.
        policy_kwargs: The fields of `agents.policy.config.PolicyConfig`.
        stats_window_size: Episodes that Stable-Baselines3's ``ep_info_buffer`` remembers.
        tensorboard_log: Folder for TensorBoard events.
        verbose: Stable-Baselines3's verbosity.
        seed: Seed of everything that draws random numbers.
        device: Must be the environment's, or ``"auto"``.
        **config: The fields of `PPOConfig`.

    Raises:
        TypeError: An argument of PPO that means nothing here; the message says why.
        InvalidInputError: An argument's value, or the environment, cannot work.
    """

    rollout_buffer: TrajectoryBuffer  # type: ignore[assignment]  # whole episodes, no values
    clip_range: FloatSchedule

    config_class: ClassVar[type[RoundConfig]] = PPOConfig
    log_fields: ClassVar[tuple[str, ...]] = UpdateLog._fields

    config: PPOConfig
    """What it was told about rounds, advantages and updates."""

    log_probs_recomputed: int = 0
    """Rounds whose log-probabilities were taken again, see `_log_probs_drifted`."""

    COUNTERS: ClassVar[tuple[str, ...]] = (*ImageAlgorithm.COUNTERS, "log_probs_recomputed")

    def _stock_arguments(self, num_envs: int) -> dict[str, Any]:
        return {
            "batch_size": 2048 * num_envs,  # of its own buffer, which is not ours
            "clip_range": self.config.clip_range,
            "normalize_advantage": False,
            "gamma": 1.0,
        }

    def _check_env(self, env: SB3VecEnv) -> None:
        super()._check_env(env)
        check_noise(env)

    def _new_buffer(self) -> TrajectoryBuffer:
        return TrajectoryBuffer()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.clip_range = FloatSchedule(self.clip_range)
        self.step_standardisation = (
            None
            if self.config.standardise_steps == "none"
            else StepStandardisation(
                self.config.standardise_steps,
                min_count=self.config.statistics_min_count,
                clip=self.config.advantage_clip,
            )
        )

    def _collect_batch(
        self, env: VectorEnv[Any, Any, Any], prompt_ids: npt.NDArray[np.int64]
    ) -> tuple[Trajectories, dict[str, Any]]:
        return collect_batch(self.policy, env, prompt_ids)

    def _assign_advantages(self) -> None:
        """Also brings those of single steps, A P_i, to one scale."""
        super()._assign_advantages()
        if self.step_standardisation is not None:
            standardised = self.step_standardisation(
                self.rollout_buffer.step_advantages,
                self.rollout_buffer.trajectories.prompt_ids,
                self.rollout_buffer.trained(self.policy.schedule.stochastic),
            )
            self.rollout_buffer.step_advantages = standardised.advantages
            self.logger.record("rollout/wrong_signs", standardised.wrong_signs)

    def _record_rollout(self, seconds: float) -> None:
        super()._record_rollout(seconds)
        for step, share in enumerate(self.rollout_buffer.trajectories.credit.mean(0).tolist()):
            self.logger.record(f"credit/step_{step:02d}", share)

    def _pairs(self) -> Tensor:
        return self.rollout_buffer.pairs(self.policy.schedule.stochastic, self.shuffle_generator)

    def _loss(self, pairs: Tensor, *, first: bool) -> tuple[Tensor, UpdateLog]:
        loss, log = self._ppo_loss(pairs)
        if first and not self._on_policy and self._log_probs_drifted(log):
            loss, log = self._ppo_loss(pairs)
        return loss, log

    def _ppo_loss(self, pairs: Tensor) -> tuple[Tensor, UpdateLog]:
        batch = self.rollout_buffer.minibatch(pairs)
        return ppo_loss(
            self.policy,
            batch,
            self._embedding(batch.prompt_ids),
            clip_range=self._current_clip_range,
            kl_coef=self.config.kl_coef,
            on_policy=self._on_policy,
        )

    @property
    def _on_policy(self) -> bool:
        """Whether every pair is trained on with the weights that drew it: one update a round."""
        return self.config.updates_per_round * self.config.n_epochs == 1

    @property
    def _current_clip_range(self) -> float:
        return self.clip_range(self._current_progress_remaining)

    @torch.no_grad()
    def _log_probs_drifted(self, first: UpdateLog) -> bool:
        """Before the first update the ratio must be 1; where it is not, mends it.

        Rollout and update see other batch shapes, and kernels may round differently for them.
        Where that matters (a tenth of the clip range), the log-probabilities of the whole round
        are taken again in the shape of the update, and the log says so.

        Returns:
            Whether they were.
        """
        deviation = first.ratio_deviation.item()
        drifted = deviation > self._current_clip_range / 10
        if drifted:
            log_probs = self.rollout_buffer.trajectories.log_probs.view(-1)
            trained = self.rollout_buffer.trained(self.policy.schedule.stochastic).flatten()
            for chunk in trained.nonzero()[:, 0].split(self.batch_size):
                log_probs[chunk] = self._log_prob(chunk)
            self.log_probs_recomputed += 1
        self.logger.record("train/initial_ratio_deviation", deviation)
        return drifted

    def _log_prob(self, pairs: Tensor) -> Tensor:
        batch = self.rollout_buffer.minibatch(pairs)
        step = self.policy.transition(batch.latents, batch.steps, self._embedding(batch.prompt_ids))
        return self.policy.log_prob(batch.next_latents, step)

    def _own_figures(self) -> dict[str, float]:
        recorded = self.logger.name_to_value  # every round has the same columns
        return {
            "train/clip_range": self._current_clip_range,
            "train/initial_ratio_deviation": recorded.get(
                "train/initial_ratio_deviation", float("nan")
            ),
            "train/log_probs_recomputed": self.log_probs_recomputed,
        }
