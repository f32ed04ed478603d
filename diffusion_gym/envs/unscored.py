"""Episodes that end before their rewards are computed."""

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from diffusion_gym.envs.infos import Infos, scatter, to_numpy
from diffusion_gym.rewards import RewardResult

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Unscored:
    """N episodes that ended in one step, and whose rewards are still to be computed.

    Attributes:
        rows: Their rows, ``[N]`` int64 on the environment's device.
        score_and_tell: Scores them, in any thread: what `diffusion_gym.rewards.score` returns, and
            what it warns of, a sentence each.
    """

    rows: Tensor
    score_and_tell: Callable[[], tuple[RewardResult, list[str]]]

    def write(self, infos: Infos, result: RewardResult) -> None:
        """Fills in what the infos of the step that ended the episodes left open, in place."""
        told = {
            "return": result.values,
            "reward_valid": result.valid,
            "reward_terms": result.terms,
        }
        ended = infos.get("final_info", infos)
        laid_out = scatter(told, self.rows, len(ended["_image"]))
        ended.update(laid_out if isinstance(ended["image"], Tensor) else to_numpy(laid_out))


def as_here(function: Callable[[], R]) -> Callable[[], R]:
    """A function that computes in any thread as it would now in this one.

    Of what each thread has of its own: torch's gradient mode, number of CPU threads and CUDA
    stream, and context variables, such as NumPy's handling of floating point errors. Not autocast,
    inference mode and the default device, which a reward sets for itself.
    """
    context, threads = copy_context(), torch.get_num_threads()
    gradients = torch.is_grad_enabled()
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def there() -> R:
        torch.set_num_threads(threads)
        with torch.set_grad_enabled(gradients), torch.cuda.stream(stream):
            return function()

    return lambda: context.run(there)
