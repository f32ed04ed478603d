"""CoCA: credit for a step by how much nearer it brings the picture to the final one.

Notation, following CoCA (arXiv 2505.19196), with steps ``i = 0 … T−1`` in sampling order:

==================  ==========================================================================
``similarities``    s_0 … s_T: cosine of x̂0_i and x_T; s_T = 1
``window``          W steps that share their gain
``gains``           g_k = S_k − S_{k−1}, S_k the mean of window k of s_1 … s_T, S_{−1} = s_0
``shares``          w_i = g_⌊i/W⌋ / (W Σ g), summing to 1
==================  ==========================================================================
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from diffusion_gym.envs.infos import FinishedEpisodes, Infos
from diffusion_gym.errors import InvalidInputError, shown, unknown_name
from diffusion_gym.wrappers.b2 import B2DiffuRLReward
from diffusion_gym.wrappers.base_env import final_latents, num_rows, resets_next
from diffusion_gym.wrappers.credit import CreditReward
from diffusion_gym.wrappers.hindsight import restrict_credit
from diffusion_gym.wrappers.shaping import SingleShaping, VectorShaping, shapings

SIMILARITIES = ("predicted_clean", "latent")

#: The paper's number of windows: 50 steps in windows of 5.
RELEASED_WINDOWS = 10

#: Sum of gains, or share of the credit inside a mask, below which shares would be blown up.
GUARD = 0.05


class CoCAReward(CreditReward):
    """Credit by similarity to the final latent (CoCA, arXiv 2505.19196; Lil-Shake/CoCA).

    A finished episode's info gets ``credit`` ``[T]``, ``credit_negative`` (share of negative
    entries in the sum of absolute ones) and ``credit_guarded`` (whether the guard was needed).
    Entries may be negative where a step leads away from the final picture.

    Around `B2DiffuRLReward` the shares are taken over all T steps, restricted to the steps that
    are trained, and brought back to the sum 1; where less than ``guard`` of them lies there, they
    are uniform over those steps instead.

    Memory: x_T is known only at the end, so the predictions of all steps are kept until then,
    ``[B, T, C, h, w]`` float32, about as much as a rollout's latents.

    An episode must be seen from its first step: one that `set_state` replaced in the middle has
    no credit, which is an error when it ends.

    Args:
        env: A single or vector environment.
        windows: Number of windows, T/W; it must divide T. The paper's W = 5 at T = 50 is 10
            windows; at T = 10, 10 windows are single steps. One window is uniform credit. None:
            10 where that divides T, else T.
        alpha: Part of the return that every step gets in full: step i is trained on
            A (α + (1−α) Σ_{j≥i} w_j). It is the credit α at the last step beside (1−α) w.
        similarity: ``"predicted_clean"`` compares x̂0_i, which the policy must tell the
            environment before every step (``env.unwrapped.report``); ``"latent"`` compares x_i
            and needs no report.
        guard: Where Σ g is smaller, a negative sum included, the credit is uniform.

    Raises:
        InvalidInputError: For values that cannot work, or if a wrapper below gives credit already.
    """

    ignores_rewards = True

    def __init__(
        self,
        env: Any,
        *,
        windows: int | None = None,
        alpha: float = 0.0,
        similarity: str = "predicted_clean",
        guard: float = GUARD,
    ) -> None:
        super().__init__(env, windows=windows, alpha=alpha, similarity=similarity, guard=guard)
        if similarity not in SIMILARITIES:
            raise unknown_name("similarity", similarity, SIMILARITIES)
        if not 0 <= alpha <= 1:
            raise InvalidInputError(f"expected alpha from 0 to 1, got {alpha}")
        if not guard > 0:
            raise InvalidInputError(f"expected a guard > 0, got {guard}")
        base = self.base
        num_steps = base.schedule.num_steps
        if windows is None:
            windows = RELEASED_WINDOWS if num_steps % RELEASED_WINDOWS == 0 else num_steps
        self.window = window_size(num_steps, windows)
        self.windows = windows
        self.alpha = alpha
        self.similarity = similarity
        self.guard = guard
        self._memory = EpisodeMemory(
            num_rows(base), base.schedule.num_steps, base.model.latent_shape, base.model.device
        )

    def before_step(self) -> None:
        """Keeps what the final latent will be compared with."""
        base = self.base
        latents, index = base.latents, base.step_index
        ended = index == base.schedule.num_steps
        if ended.all() or (ended.any() and not resets_next(base)):
            return  # the environment only resets, or refuses the step with its own words
        seen = latents if self.similarity == "latent" else self._reported()
        self._memory.record(latents, index, seen)

    def after_step(self) -> None:
        """Notes where the episodes stand."""
        base = self.base
        self._memory.follow(base.latents, base.step_index)

    def assign_credit(
        self, episodes: FinishedEpisodes, step_mask: Tensor, infos: Infos
    ) -> Mapping[str, Tensor]:
        """Shares of the gain in similarity, among the steps that are trained."""
        base = self.base
        rows = torch.as_tensor(episodes.rows, device=base.model.device)
        similarities = self._memory.similarities(rows, final_latents(base, infos, rows))

        # The shares over all steps, restricted to the mask; either may need the guard.
        shares = credit_shares(similarities, self.window, self.guard)
        inside = (shares * step_mask).sum(1)
        guarded = (total_gain(similarities, self.window) < self.guard) | (
            step_mask.any(1) & (inside < self.guard)
        )
        credit = with_alpha(restrict_credit(shares, step_mask, self.guard), self.alpha)
        return {
            "credit": credit.float(),
            "credit_negative": negative_share(credit).float(),
            "credit_guarded": guarded,
        }

    def _reported(self) -> Tensor:
        """The policy's x̂0 of the step to come, of the row whose action each row executes."""
        try:
            reported = self.base.reported
        except InvalidInputError as error:
            raise InvalidInputError(
                f"{error}; CoCAReward(similarity='latent') needs no report"
            ) from error
        for shaping in shapings(self):
            if isinstance(shaping, B2DiffuRLReward):
                reported = reported[shaping.acting_rows()]
        return reported


class SingleCoCAReward(CoCAReward, SingleShaping, form_of=CoCAReward):
    """`CoCAReward` of a single environment."""


class VectorCoCAReward(CoCAReward, VectorShaping, form_of=CoCAReward):
    """`CoCAReward` of a vector environment."""


class EpisodeMemory:
    """What was seen of every row's running episode, step by step.

    Args:
        rows: B.
        num_steps: T.
        latent_shape: ``(C, h, w)``.
        device: Where latents live.
    """

    def __init__(
        self, rows: int, num_steps: int, latent_shape: tuple[int, ...], device: torch.device
    ) -> None:
        #: What was seen in each step so far, ``[B, T, C, h, w]``.
        self._values = torch.zeros(rows, num_steps, *latent_shape, device=device)
        self._rows = torch.arange(rows, device=device)
        #: Whether all steps so far were seen, ``[B]``; kept on the device, so that no step waits
        #: for it.
        self._complete = torch.zeros(rows, dtype=torch.bool, device=device)
        #: Where the episodes stood after the last step: x_i, the environment's own tensor, and i.
        self._latents = torch.zeros(rows, *latent_shape, device=device)
        self._next = torch.zeros(rows, dtype=torch.int64, device=device)

    def record(self, latents: Tensor, step_index: npt.NDArray[np.int64], values: Tensor) -> None:
        """Keeps what was seen of the step that the episodes are about to make.

        An episode that is not where the last step left it is another one, of which earlier steps
        may be missing, unless it is at its first.

        Args:
            latents: x_i, ``[B, C, h, w]``; the environment never changes it in place.
            step_index: i, ``[B]``; T in rows that make no step.
            values: What to keep, ``[B, C, h, w]``.
        """
        step_index = step_index % self._values.shape[1]  # what such a row keeps is replaced later
        index = torch.from_numpy(step_index).to(self._rows.device)
        same = index == self._next
        if latents is not self._latents:
            same &= (latents == self._latents).flatten(1).all(1)
        self._complete = (index == 0) | (self._complete & same)
        self._values[self._rows, index] = values

    def follow(self, latents: Tensor, step_index: npt.NDArray[np.int64]) -> None:
        """Notes where the episodes stand, to recognise them in the next step."""
        self._latents = latents
        self._next = torch.from_numpy(step_index).to(self._rows.device)

    def similarities(self, rows: Tensor, final: Tensor) -> Tensor:
        """s_0 … s_T of episodes that ended, ``[N, T+1]`` float64 on the CPU.

        Args:
            rows: Their rows, ``[N]``.
            final: x_T, ``[N, C, h, w]``.

        Raises:
            InvalidInputError: If not all of an episode's steps were seen.
        """
        unseen = rows[~self._complete[rows]].tolist()
        if unseen:
            raise InvalidInputError(
                "expected CoCAReward to see episodes from their first step, got episodes that "
                f"set_state replaced in the middle in rows {unseen}"
            )
        steps = range(self._values.shape[1])
        return final_similarities((self._values[rows, step] for step in steps), final)


def final_similarities(predictions: Iterable[Tensor], final: Tensor) -> Tensor:
    """s_i = cos(x̂0_i, x_T), not centred, and s_T = 1: ``[N, T+1]`` float64 on the CPU.

    Args:
        predictions: x̂0_0 … x̂0_{T−1}, ``[N, C, h, w]`` each; one step at a time, since a product
            of all of them would take their memory once more.
        final: x_T, ``[N, C, h, w]``.
    """
    end = final.flatten(1)
    columns = [cosine_similarity(clean.flatten(1), end, dim=1) for clean in predictions]
    return torch.stack([*columns, torch.ones_like(columns[0])], dim=1).cpu().double()


def window_size(num_steps: int, windows: int) -> int:
    """W = T / windows.

    Raises:
        InvalidInputError: If the windows do not divide T; the message lists the numbers that do.
    """
    divisors = [n for n in range(1, num_steps + 1) if num_steps % n == 0]
    if windows not in divisors:
        raise InvalidInputError(
            f"expected a number of windows that divides T = {num_steps}: "
            f"{', '.join(map(str, divisors))}; got {shown(windows)}"
        )
    return num_steps // windows


def credit_shares(similarities: Tensor, window: int, guard: float = GUARD) -> Tensor:
    """Each step's share of the return (CoCA, arXiv 2505.19196), summing to 1 in every row.

    w_i = g_⌊i/W⌋ / (W Σ g); uniform 1/T in rows where Σ g < guard, since the shares would be
    blown up there, and reversed by a negative sum.

    Args:
        similarities: s_0 … s_T, ``[B, T+1]``.
        window: W; it must divide T.
        guard: Smallest sum of gains that shares are made of.

    Returns:
        Shares, ``[B, T]``; some may be negative.

    Raises:
        InvalidInputError: If the window does not divide T.
    """
    gains = window_gains(similarities, window)
    total = gains.sum(1, keepdim=True)
    num_steps = similarities.shape[1] - 1
    shares = (gains / (window * total)).repeat_interleave(window, dim=1)
    return torch.where(total < guard, 1 / num_steps, shares)


def total_gain(similarities: Tensor, window: int) -> Tensor:
    """Σ g = S_last − s_0, ``[B]``."""
    return window_gains(similarities, window).sum(1)


def window_gains(similarities: Tensor, window: int) -> Tensor:
    """g_k, ``[B, T/W]``: how much a window's mean similarity exceeds that of the one before.

    Args:
        similarities: s_0 … s_T, ``[B, T+1]``.
        window: W; it must divide T.

    Raises:
        InvalidInputError: If it does not.
    """
    num_steps = similarities.shape[1] - 1
    if window < 1 or num_steps % window:
        raise InvalidInputError(f"expected a window that divides T = {num_steps}, got {window}")
    windows = similarities[:, 1:].reshape(-1, num_steps // window, window)
    return windows.mean(2).diff(dim=1, prepend=similarities[:, :1])


def with_alpha(credit: Tensor, alpha: float) -> Tensor:
    """Moves the part α of the credit, ``[B, T]``, to the last step.

    Its sum from step i on, P_i, becomes α + (1−α) P_i: CoCA's mixture of the whole advantage and
    the step's share.
    """
    mixed = (1 - alpha) * credit
    mixed[:, -1] += alpha
    return mixed


def negative_share(credit: Tensor) -> Tensor:
    """Σ |negative entries| / Σ |entries| of the credit ``[B, T]``, ``[B]``."""
    return credit.clamp(max=0).abs().sum(1) / credit.abs().sum(1)
