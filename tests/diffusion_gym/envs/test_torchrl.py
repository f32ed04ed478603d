"""TorchRL's environments, collectors and losses on the environment."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchrl_ppo
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import SerialEnv
from torchrl.envs.utils import check_env_specs

T = 3


@pytest.fixture
def env() -> Iterator[Any]:
    env = torchrl_ppo.make_env(T)
    yield env
    env.close()


def test_what_it_says_of_itself_is_so(env: Any) -> None:
    check_env_specs(env)


def test_a_rollout_is_an_episode(env: Any) -> None:
    env.set_seed(0)
    episode = env.rollout(10)
    assert episode.batch_size == (T,)
    assert episode["next", "terminated"].flatten().tolist() == [False] * (T - 1) + [True]
    assert not episode["next", "truncated"].any()
    assert (episode["next", "reward"][:-1] == 0).all()
    assert episode["next", "reward"][-1] != 0
    torch.testing.assert_close(episode["next", "latent"], episode["action"])


def test_several_environments_beside_each_other() -> None:
    envs = SerialEnv(2, lambda: torchrl_ppo.make_env(T))
    assert envs.rollout(T).batch_size == (2, T)
    envs.close()


def test_ppo_learns_from_what_a_collector_gathers(env: Any) -> None:
    torch.manual_seed(0)
    actor, critic = torchrl_ppo.make_actor(env), torchrl_ppo.make_critic(env)
    before = [parameter.detach().clone() for parameter in actor.parameters()]
    rewards = torchrl_ppo.train(env, actor, critic, batches=2, frames_per_batch=2 * T, epochs=2)
    assert len(rewards) == 2
    assert all(math.isfinite(reward) and reward != 0 for reward in rewards)
    for old, new in zip(before, actor.parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)


def test_a_batch_is_of_whole_episodes(env: Any) -> None:
    collector = Collector(
        env, torchrl_ppo.make_actor(env), frames_per_batch=2 * T, total_frames=2 * T
    )
    (batch,) = collector
    assert isinstance(batch, TensorDict)
    assert batch["next", "done"].sum() == 2
    collector.shutdown()
