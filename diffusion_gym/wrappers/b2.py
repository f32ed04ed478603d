"""B²-DiffuRL: branches from a shared prefix, trained on the last steps first.

Notation, following B²-DiffuRL (arXiv 2503.11240; hu-zijing/B2-DiffuRL):

==============  ===============================================================
``branches``    K rows that share their prompt and the first T − k steps
``stage``       j, a batch of G = B/K such groups
``trained``     k(j), the last steps, which are trained
``z``           (r − μ) / (σ + 1e-8), the branches' standing among rewards
==============  ===============================================================
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion_gym.envs.infos import FinishedEpisodes, Infos, finished_episodes
from diffusion_gym.errors import InvalidInputError, shown, unknown_name
from diffusion_gym.wrappers.base_env import as_returned, write_outcome
from diffusion_gym.wrappers.reward_history import RewardHistory, Share, leave_one_out_mean
from diffusion_gym.wrappers.shaping import VectorShaping

BASELINES = ("history", "branch")
EPSILON = 1e-8

#: As released: branches of a group; k of the first stage as a share of T, 14 of 20; the number of
#: stages; and the earlier stages that a reward is compared with.
RELEASED_BRANCHES = 5
RELEASED_START = 0.7
RELEASED_STAGES = 100
RELEASED_HISTORY = 8


class B2DiffuRLReward(VectorShaping):
    """Branch-based sampling and progressive training (B²-DiffuRL, arXiv 2503.11240).

    Rows come in groups of K consecutive ones. A group starts from one prompt and one noise. While
    its prefix lasts, the first row, the leader, acts for all K: its action is repeated in the
    others, whose actions are ignored. ``infos["active"]`` ``[B]`` bool, from `reset` on, marks the
    rows whose next action counts; a policy need not be evaluated for the others. Afterwards every
    row acts for itself, and the branches differ by their policy's noise.

    A stage is one batch; it counts once it has ended. A finished episode's info gets
    ``step_mask`` ``[T]``, the last k steps of a branch that was selected and nothing of the
    others, and ``advantage``, its z. Selected is the best branch of a group where its z is at
    least ``positive``, and the worst where its z is less than ``negative``. Images that could not
    be scored take no part in any of this. Where all rewards of a prompt are the same, z is 0; in
    the released code a float32 mean that is off by one rounding makes it ±.74 there.

    Whole batches only: `reset` starts all rows, and draws one prompt per group unless told.

    Args:
        env: A vector environment; K must divide its ``num_envs``.
        branches: K, how many branches a group has.
        schedule: ``(start, stages)``: k rises from ``start`` in the first stage to T in the last
            of ``stages``, see `trained_steps`; None: the released setting scaled to T, from
            0.7 T over 100 stages.
        positive: Least z of a best branch that is trained on.
        negative: Bound below which z of a worst branch must lie.
        baseline: What z compares a reward r with. ``"history"``: μ is the prompt's mean over this
            stage and the ``history`` before it. ``"branch"``: μ is the mean of the *other*
            branches of the group, which estimates the value of the state they share and so takes
            the luck of the prefix out of z (not in the published method). σ is the prompt's
            deviation over its history in both.
        all_branches: Train on every branch instead of the best and the worst.
        history: Earlier stages that μ and σ of a prompt are taken over, beside the current one.

    Raises:
        InvalidInputError: For values that cannot work, a single environment, a ``num_envs`` that
            K does not divide, or a wrapper below that gives credit or branches.
    """

    role = "branches"

    def __init__(
        self,
        env: Any,
        *,
        branches: int = RELEASED_BRANCHES,
        schedule: Sequence[int] | None = None,
        positive: float = 0.5,
        negative: float = -0.5,
        baseline: str = "history",
        all_branches: bool = False,
        history: int = RELEASED_HISTORY,
    ) -> None:
        super().__init__(env)
        base = self.base
        if branches < 2 or base.num_envs % branches:
            raise InvalidInputError(
                f"expected num_envs to be a multiple of branches, which is 2 or more, got "
                f"num_envs={base.num_envs} and branches={branches}"
            )
        if baseline not in BASELINES:
            raise unknown_name("baseline", baseline, BASELINES)
        if negative > positive:
            raise InvalidInputError(
                f"expected negative ≤ positive, got negative={negative}, positive={positive}"
            )
        self.branches = branches
        self.start, self.stages = _checked_schedule(schedule, base.schedule.num_steps)
        noisy = base.schedule.stochastic
        if noisy.any() and not noisy[-self.start :].any():
            raise InvalidInputError(
                f"branches of a group differ by the noise of their last {self.start} steps: "
                f"expected noise in one of these, by stochastic_steps or a larger start of "
                f"schedule, got noise in steps {noisy.nonzero()[:, 0].tolist()} alone"
            )
        self.positive = positive
        self.negative = negative
        self.baseline = baseline
        self.all_branches = all_branches
        #: Where several processes draw the groups of one stage, what makes of one's rewards those
        #: of all, to which branches are compared; None: there is one.
        self.share: Share | None = None
        #: Stages, that is batches, that have ended; j of the current one.
        self.stage = 0
        self._history = RewardHistory(history)
        self._rows: npt.NDArray[np.int64] = np.arange(base.num_envs)
        self._leaders: npt.NDArray[np.int64] = self._rows - self._rows % branches

    @property
    def num_trained_steps(self) -> int:
        """The k of the current stage."""
        num_steps = self.base.schedule.num_steps
        return trained_steps(self.stage, self.stages, self.start, num_steps)

    def acting_rows(self) -> npt.NDArray[np.int64]:
        """The row whose action each row executes in the next step, ``[B]``."""
        if self._in_prefix(self._position()):
            return self._leaders
        return self._rows

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Infos]:
        """Starts a stage in all rows; ``prompts`` and ``prompt_ids`` must agree within groups.

        Raises:
            InvalidInputError: For a ``state``, a ``reset_mask`` of some rows, or a group of
                several prompts.
        """
        self._check_options(options or {})
        self.env.reset(seed=seed, options=options)
        return self._begin_stage()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Infos]:
        """Steps all rows, repeating the leaders' actions while the prefix lasts."""
        base = self.base
        position = self._position()

        # While the prefix lasts, the leaders act for their groups. A batch of the wrong size is
        # left to the environment to refuse.
        actions = actions if isinstance(actions, Tensor) else np.asarray(actions)
        if self._in_prefix(position) and len(actions) == base.num_envs:
            actions = actions[self._leaders]
        observation, rewards, terminations, truncations, infos = self.env.step(actions)

        # All rows end together: then branches are selected, and there is no next action to mark.
        episodes = finished_episodes(infos)
        if position == base.schedule.num_steps:  # next-step autoreset: the next stage begins
            observation, fresh = self._begin_stage()
            return observation, rewards, terminations, truncations, infos | fresh
        if not len(episodes):
            return (
                observation,
                rewards,
                terminations,
                truncations,
                infos | self._active(position + 1),
            )
        rows = torch.as_tensor(episodes.rows, device=base.device)
        write_outcome(base, infos, self._end_stage(episodes, torch.as_tensor(rewards)), rows)
        if "final_info" in infos:  # same-step autoreset: the next stage has begun
            observation, fresh = self._begin_stage()
            infos = infos | fresh
        return observation, rewards, terminations, truncations, infos

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the stage and the rewards remembered."""
        return {"stage": self.stage, "history": self._history.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` left off."""
        self.stage = state["stage"]
        self._history.load_state_dict(state["history"])

    # --------------------------------------------------------------------------- internals

    def _begin_stage(self) -> tuple[Any, Infos]:
        """Makes every row of a group a copy of its leader."""
        root = self.base.get_state().select(self._leaders)
        observation, infos = self.env.reset(options={"state": root})
        return observation, infos | self._active(0)

    def _end_stage(self, episodes: FinishedEpisodes, rewards: Tensor) -> dict[str, Tensor]:
        """Selects branches; returns their ``step_mask`` and ``advantage``."""
        base = self.base
        # z: how a branch stands among its prompt's rewards, or among its siblings'.
        texts = [base.prompt_text(number) for number in episodes.prompt_id.tolist()]
        values = rewards.cpu().double()
        valid = torch.as_tensor(episodes.reward_valid).cpu()
        mean, std = self._history.update(texts, values, valid, self.share)
        if self.baseline == "branch":
            groups = (-1, self.branches)
            mean = leave_one_out_mean(values.view(groups), valid.view(groups)).flatten()
        z = torch.where(valid, (values - mean) / (std + EPSILON), torch.nan)

        # Of each group, the branches that stand out; of those, the last k steps.
        if self.all_branches:
            selected = ~z.isnan()
        else:
            grouped = z.view(-1, self.branches)
            selected = select_branches(grouped, self.positive, self.negative).flatten()
        num_steps = base.schedule.num_steps
        suffix = torch.arange(num_steps) >= num_steps - self.num_trained_steps
        self.stage += 1
        return {
            "step_mask": selected[:, None] & suffix,
            "advantage": z.nan_to_num(0.0).float(),
        }

    def _position(self) -> int:
        """The step that all rows are at."""
        index = self.base.step_index
        if (index != index[0]).any():
            raise InvalidInputError(
                "B2DiffuRLReward goes through whole batches: expected all rows at the same step, "
                f"got rows at steps {index.tolist()}"
            )
        return int(index[0])

    def _in_prefix(self, position: int) -> bool:
        num_steps = self.base.schedule.num_steps
        return position < num_steps - self.num_trained_steps

    def _active(self, position: int) -> Infos:
        """The infos' mark of the rows whose next action counts."""
        base = self.base
        everywhere = torch.ones(base.num_envs, dtype=torch.bool, device=base.device)
        active = everywhere
        if self._in_prefix(position):
            active = torch.zeros_like(everywhere)
            active[:: self.branches] = True
        marks: Infos = as_returned(base, {"active": active, "_active": everywhere})
        return marks

    def _check_options(self, options: dict[str, Any]) -> None:
        if "state" in options:
            raise InvalidInputError(
                "B2DiffuRLReward starts every stage from fresh noise: expected no reset option "
                "'state'"
            )
        if "reset_mask" in options and not bool(torch.as_tensor(options["reset_mask"]).all()):
            raise InvalidInputError(
                "B2DiffuRLReward goes through whole batches: expected a reset_mask of all rows, "
                f"got {shown(options['reset_mask'])}"
            )
        for key in ("prompts", "prompt_ids"):
            wished = options.get(key, ())
            self._check_groups(key, wished.tolist() if isinstance(wished, Tensor) else wished)

    def _check_groups(self, key: str, wished: Sequence[Any]) -> None:
        if len(wished) != len(self._leaders):
            return  # absent, or for the environment to refuse
        for first in range(0, len(wished), self.branches):
            group = list(wished[first : first + self.branches])
            if any(wish != group[0] for wish in group):
                raise InvalidInputError(
                    f"expected {key} to agree within each group of {self.branches} rows, "
                    f"got {group} in rows {first} to {first + self.branches - 1}"
                )


def released_start(num_steps: int) -> int:
    """Trained steps of the first stage as released, 14 of 20, scaled to T steps."""
    return max(1, round(RELEASED_START * num_steps))


def trained_steps(stage: int, stages: int, start: int, num_steps: int) -> int:
    """k(j): how many of the last steps are trained in a stage (B²-DiffuRL, arXiv 2503.11240).

    ``min(T, start + ⌊(T − start + 1) j / stages⌋)``; with T = 20, 100 stages and start = 14 the
    released schedule, 14 + ⌊7 j / 100⌋.

    Args:
        stage: j, from 0; from ``stages`` on all steps are trained.
        stages: Number of stages over which k rises.
        start: k of the first stage, 1 … T.
        num_steps: T.
    """
    return min(num_steps, start + (num_steps - start + 1) * stage // stages)


def select_branches(z: Tensor, positive: float, negative: float) -> Tensor:
    """The best branch of a group if z ≥ positive, and the worst if z < negative.

    The two tests are independent: 0, 1 or 2 branches of a group are selected.

    Args:
        z: ``[G, K]``; NaN leaves a branch out.
        positive: Least z of a best branch.
        negative: Bound that z of a worst branch must be below.

    Returns:
        ``[G, K]`` bool.
    """
    above = z.nan_to_num(-math.inf, posinf=math.inf, neginf=-math.inf)
    below = z.nan_to_num(math.inf, posinf=math.inf, neginf=-math.inf)
    columns = torch.arange(z.shape[1], device=z.device)
    best = columns == above.argmax(1, keepdim=True)
    worst = columns == below.argmin(1, keepdim=True)
    return (best & (above >= positive)) | (worst & (below < negative))


def _checked_schedule(schedule: Sequence[int] | None, num_steps: int) -> tuple[int, int]:
    if schedule is None:
        return released_start(num_steps), RELEASED_STAGES
    start, stages = schedule
    if not 1 <= start <= num_steps or stages < 1:
        raise InvalidInputError(
            f"expected schedule = (start, stages) with 1 ≤ start ≤ T = {num_steps} and "
            f"stages ≥ 1, got {tuple(schedule)}"
        )
    return start, stages
