"""Rewards that are computed while the next batch is drawn.

A round's batches k = 0 … K − 1, with overlapping:

=============  =======  ===========  ===========  =====  ===============
this thread    draw 0   draw 1       draw 2       …      callbacks K − 1
the other one           score 0      score 1      …
=============  =======  ===========  ===========  =====  ===============

Between two draws this thread waits for the scores, and callbacks see the batch that has them, while
nothing is scored. At most one batch waits for its scores, and they are computed in order.
"""

import warnings
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

from agents.common.episodes import Episodes
from agents.common.sb3_vec_env import SB3VecEnv
from diffusion_gym.envs import DiffusionT2IVectorEnv, Unscored
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import RewardResult

Drawn: TypeAlias = tuple[Episodes, dict[str, Any]]
"""A batch of whole episodes, and the infos of their last step."""

Batches: TypeAlias = Generator[Drawn, None, None]
"""Batches that are drawn one by one; closing it ends the drawing, and the scoring."""

Scores: TypeAlias = tuple[RewardResult, list[str]]
"""Of a batch's images, and what is to be warned of, a sentence each."""


def check_overlap(env: SB3VecEnv) -> None:
    """Refuses wrappers that may need an episode's reward when it ends.

    Raises:
        InvalidInputError: There is one.
    """
    wrapper: Any = env.vector_env
    while wrapper is not wrapper.unwrapped:
        if not getattr(type(wrapper), "ignores_rewards", False):
            name = getattr(type(wrapper), "shaping_name", type(wrapper).__name__)
            raise InvalidInputError(
                "overlap_rewards ends episodes before their rewards are known: expected wrappers "
                "that neither read nor change them, whose classes say so (ignores_rewards = True), "
                f"got {name}"
            )
        wrapper = wrapper.env


def scored_meanwhile(drawn: Batches, base: DiffusionT2IVectorEnv) -> Batches:
    """Hands on batches as they are drawn, each scored in another thread while the next is drawn.

    Args:
        drawn: Draws batches from the environment.
        base: The environment below every wrapper.

    Raises:
        Exception: What the reward raised, once the next batch is drawn.
    """
    with ThreadPoolExecutor(1, "rewards") as scorer:
        waiting: tuple[Drawn, Unscored, Future[Scores]] | None = None
        while True:
            with base.scoring_later() as unscored:
                following = next(drawn, None)
            if waiting is not None:
                yield _with_scores(*waiting)
            if following is None:
                return
            (images,) = unscored
            waiting = following, images, scorer.submit(images.score_and_tell)


def _with_scores(drawn: Drawn, images: Unscored, scores: Future[Scores]) -> Drawn:
    """A batch with its scores, for which this waits, as if there had been no waiting."""
    batch, infos = drawn
    result, failures = scores.result()
    for failure in failures:
        warnings.warn(failure, RuntimeWarning, stacklevel=2)
    batch.take_scores(result)
    images.write(infos, result)
    final = infos["final_info"]
    if "step_mask" in final:
        final["step_mask"] = final["step_mask"] & result.valid[:, None]
    return batch, infos
