"""Small trainings of two rounds, for one process alone or for each of several."""

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from small_agents import make_agent, make_env, weights
from small_nft import make_nft
from stable_baselines3.common.logger import KVWriter, Logger

from agents.common.image_algorithm import ImageAlgorithm
from agents.common.processes import Processes, join, leave
from diffusion_gym.wrappers import B2DiffuRLReward, VectorNoiseAwareReward

IMAGES = 8
"""Of a batch, in all processes together."""

#: With so large an ε Adam's steps are proportional to the gradients: rounding stays rounding.
ADAM: dict[str, Any] = {
    "learning_rate": 1.0,
    "policy_kwargs": {"optimizer_kwargs": {"eps": 100.0, "weight_decay": 0.0}},
}


def sparse(env: Any) -> ImageAlgorithm:
    # Groups of 8 have images of every process; two batches a round are in one order.
    return make_agent(env, samples_per_prompt=8, batches_per_round=2, **ADAM)


def noise_aware(env: Any) -> ImageAlgorithm:
    shaped = VectorNoiseAwareReward(env, min_weight=0.2)
    statistics = {"advantage": "prompt", "statistics_min_count": 2, "standardise_steps": "scale"}
    return make_agent(shaped, samples_per_prompt=4, **statistics, **ADAM)


def branches(env: Any) -> ImageAlgorithm:
    shaped = B2DiffuRLReward(env, branches=4, schedule=(1, 3), positive=0.9, negative=-0.9)
    return make_agent(shaped, samples_per_prompt=8, n_epochs=2, **ADAM)


def nft(env: Any) -> ImageAlgorithm:
    return make_nft(env, samples_per_prompt=8, batch_size=3, decay_rate=0.2, **ADAM)


KINDS: Mapping[str, Callable[[Any], ImageAlgorithm]] = {
    "sparse": sparse,
    "noise_aware": noise_aware,
    "branches": branches,
    "nft": nft,
}


class LastRow(KVWriter):
    """Keeps what was logged of the last round."""

    row: Mapping[str, Any] = {}

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        del key_excluded, step
        self.row = dict(key_values)

    def close(self) -> None:
        pass


def train(kind: str, processes: Processes) -> dict[str, Any]:
    """Two rounds on this process's part: weights before and after, counters, and the log."""
    options = {"eta": 0.0} if kind == "nft" else {}
    env = make_env(IMAGES // processes.count, reward="house_style", **options)
    agent, last = KINDS[kind](env), LastRow()
    before = weights(agent)
    agent.set_logger(Logger(None, [last]))
    agent.learn(2 * IMAGES * agent.config.batches_per_round)
    assert env.unwrapped.images_scored * processes.count == agent.reward_queries
    return {
        "before": before,
        "after": weights(agent),
        "counters": {name: getattr(agent, name) for name in agent.COUNTERS if name != "seconds"},
        "logged": last.row,
        "statistics": agent.advantage_estimator.state_dict(),
    }


def main(folder: Path) -> None:
    """Trains every kind in each of several processes; the first one writes what came of it."""
    processes = join("cpu")
    assert not processes.alone
    for kind in KINDS:
        outcome = train(kind, processes)
        if processes.is_main:
            torch.save(outcome, folder / f"{kind}.pt")
        else:
            assert not outcome["logged"]
    leave()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
