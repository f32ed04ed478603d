"""Shapings of rows that ``python -m agents.train`` has no option for."""

from agents.runs.methods import Env, Method, RunLength, ShapingConfig, register
from diffusion_gym.wrappers import B2DiffuRLReward
from diffusion_gym.wrappers.b2 import RELEASED_HISTORY, released_start

B2_BRANCH = "b2-branch"


def _b2_branch(env: Env, config: ShapingConfig, length: RunLength) -> Env:
    """B² whose baseline is the mean of a group's other branches."""
    del config
    start = released_start(env.unwrapped.schedule.num_steps)  # type: ignore[attr-defined]
    batches = length.batches_per_round
    return B2DiffuRLReward(
        env,
        schedule=(start, length.rounds * batches),
        history=RELEASED_HISTORY * batches,
        baseline="branch",
    )


register(B2_BRANCH, Method(_b2_branch))
