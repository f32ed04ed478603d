"""The base of all wrappers that say what each step of an episode weighs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion_gym.envs.infos import FinishedEpisodes, Infos, finished_episodes
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers.base_env import write_outcome
from diffusion_gym.wrappers.hindsight import credit_of, hindsight
from diffusion_gym.wrappers.shaping import RewardShaping

#: How far a sum of credit may be from 1, per unit of its absolute sum: float32 is not exact.
TOLERANCE = 1e-4


class CreditReward(RewardShaping):
    """Base of the wrappers that say what each step of an episode weighs in training.

    An agent trains step i on A · P_i, A the episode's advantage. A subclass gives one of two things
    for the episodes that have just ended, `assign_credit`:

    - ``credit``, each step's share of the return, with the sum 1. It is summed up from the step on,
      as rewards are: **P_i = Σ_{j≥i} credit_j**. Credit that falls like σ_i² does *not* train the
      steps in proportion to σ_i².
    - ``step_weight``, the weights **P_i** themselves. The credit that belongs to them is written
      beside them (`diffusion_gym.wrappers.hindsight.credit_of`), for agents that only know credit.
      Steps of weight 0 are masked, since nothing is to be learned there.

    A shaping of your own that works around single and vector environments:

    >>> import gymnasium, torch
    >>> import diffusion_gym
    >>> from diffusion_gym.wrappers import CreditReward, SingleShaping, VectorShaping
    >>> class LinearWeight(CreditReward):
    ...     '''Trains the first step most: P_i = 1 - i/T.'''
    ...     def assign_credit(self, episodes, step_mask, infos):
    ...         count, steps = step_mask.shape
    ...         return {"step_weight": (1 - torch.arange(steps) / steps).repeat(count, 1)}
    >>> class SingleLinearWeight(LinearWeight, SingleShaping, form_of=LinearWeight): pass
    >>> class VectorLinearWeight(LinearWeight, VectorShaping, form_of=LinearWeight): pass
    >>> LinearWeight(gymnasium.make_vec("DiffusionT2I-v0", num_envs=2))
    <VectorLinearWeight, DiffusionT2IVectorEnv(DiffusionT2I-v0, num_envs=2)>

    A wrapper with settings hands them on by name, ``super().__init__(env, power=power)``, so that
    `gymnasium.envs.registration.EnvSpec` can rebuild it. One that must see the steps of a running
    episode overrides `before_step` and `after_step`. ``self.base`` is the environment below all
    wrappers, with its model, schedule, ``step_index``, ``latents`` and the policy's ``reported``.

    One that does not look at ``episodes.returns`` and the like may say so, ``ignores_rewards =
    True``: then rewards can be computed while the next batch is drawn (``--overlap-rewards``), and
    none of the N episodes is known to be without one yet.

    Around `B2DiffuRLReward`, the credit is restricted to the steps that are trained.
    """

    role = "credit"

    def step(self, action: Any, /) -> tuple[Any, Any, Any, Any, Infos]:
        """Steps the environment and writes into a finished episode's info."""
        self.before_step()
        observation, rewards, terminations, truncations, infos = self.env.step(action)
        episodes = finished_episodes(infos)
        if len(episodes):
            self._write(episodes, infos)
        self.after_step()
        return observation, rewards, terminations, truncations, infos

    def before_step(self) -> None:
        """Looks at the running episodes, just before they make a step. Nothing, unless overridden.

        The environment may refuse the step afterwards, which is then made again.
        """

    def after_step(self) -> None:
        """Looks at the running episodes after a step. Nothing, unless overridden.

        In same-step autoreset, the next episodes have begun in rows whose episodes have ended.
        """

    def assign_credit(
        self, episodes: FinishedEpisodes, step_mask: Tensor, infos: Infos
    ) -> Mapping[str, Tensor]:
        """What to write into the infos of the N episodes that have just ended.

        Args:
            episodes: Their rows, prompts, images and returns, and what wrappers below wrote.
            step_mask: Steps that are trained on, ``[N, T]`` on the CPU; none in an episode that
                could not be scored. Give no credit to others
                (`diffusion_gym.wrappers.hindsight.restrict_credit`). Weights need no such care.
            infos: What the step returned.

        Returns:
            ``credit`` or ``step_weight``, ``[N, T]`` float32, and whatever else is worth knowing
            of an episode, ``[N, …]``: `FinishedEpisodes.extras` has it, and agents log the mean
            of numbers ``[N]``.
        """
        raise NotImplementedError

    def _write(self, episodes: FinishedEpisodes, infos: Infos) -> None:
        """Asks for the credit of finished episodes, checks it, and adds it to the infos."""
        base = self.base
        known = hindsight(episodes, base.schedule.num_steps)
        step_mask = torch.as_tensor(known.step_mask).cpu()
        values = dict(self.assign_credit(episodes, step_mask, infos))
        if "step_weight" in values:
            values |= weighted(self._checked("step_weight", values, step_mask), step_mask)
        else:
            credit = self._checked("credit", values, step_mask)
            off = (credit.sum(1) - 1).abs() > TOLERANCE * credit.abs().sum(1).clamp(min=1)
            if bool(off.any()):
                raise InvalidInputError(
                    f"{self.shaping_name}: expected credit with the sum 1 in every episode, got "
                    f"{credit.sum(1)[off].tolist()}; weights of steps are 'step_weight'"
                )
        rows = torch.as_tensor(episodes.rows, device=base.model.device)
        write_outcome(base, infos, values, rows)

    def _checked(self, key: str, values: Mapping[str, Tensor], step_mask: Tensor) -> Tensor:
        """A value that the subclass gave, if it is one number for each step."""
        if key not in values:
            raise InvalidInputError(
                f"{self.shaping_name}.assign_credit: expected 'credit' or 'step_weight', "
                f"got {sorted(values)}"
            )
        value = values[key]
        if value.shape != step_mask.shape:
            raise InvalidInputError(
                f"{self.shaping_name}: expected {key} of shape {tuple(step_mask.shape)}, "
                f"got {tuple(value.shape)}"
            )
        if not bool(value.isfinite().all()):
            raise InvalidInputError(f"{self.shaping_name}: expected finite {key}, got {value}")
        return value


def weighted(weights: Tensor, step_mask: Tensor) -> dict[str, Tensor]:
    """What is written for step weights: themselves, the credit that belongs to them, and a mask.

    Args:
        weights: P_i, ``[N, T]``.
        step_mask: Steps that are trained on so far, ``[N, T]`` bool.

    Returns:
        ``step_weight`` as given; ``credit`` of the weights inside the mask (of all of them in an
        episode without any step to train); ``step_mask`` without the steps of weight 0.

    Raises:
        InvalidInputError: For weights that `credit_of` refuses.
    """
    weights = weights.cpu().float()
    trained = step_mask & (weights != 0)
    some = trained.any(1, keepdim=True)
    return {
        "credit": credit_of(torch.where(some, weights * trained, weights)),
        "step_weight": weights,
        "step_mask": trained,
    }
