"""TorchRL's environments, collectors and losses on the environment."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, SerialEnv
from torchrl.envs.utils import check_env_specs
from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import diffusion_gym  # noqa: F401  (registers the environment)

T = 3


@pytest.fixture
def env() -> Iterator[Any]:
    env = make()
    yield env
    env.close()


def make() -> Any:
    return GymEnv("DiffusionT2I-v0", num_inference_steps=T, device="cpu")


class Gaussian(nn.Module):
    """The next latent's distribution: a small step from this one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Conv2d(channels, channels, 3, padding=1)
        self.log_std = nn.Parameter(torch.zeros(()))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        flat = latent.reshape(-1, *latent.shape[-3:])  # TorchRL has any number of batch dimensions
        mean = latent + self.change(flat).view_as(latent)
        return mean, self.log_std.exp().expand_as(mean)


def make_actor(env: Any) -> Any:
    shape = env.action_spec.shape
    network = TensorDictModule(Gaussian(shape[-3]), in_keys=["latent"], out_keys=["loc", "scale"])
    return ProbabilisticActor(
        network,
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
        distribution_kwargs={"event_dim": 3},
        return_log_prob=True,
        spec=env.action_spec,
    )


def make_critic(env: Any) -> Any:
    latent = env.action_spec.shape[-3:]
    network = nn.Sequential(nn.Flatten(-3), nn.Linear(latent.numel(), 1))
    return ValueOperator(network, in_keys=["latent"])


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
    envs = SerialEnv(2, make)
    assert envs.rollout(T).batch_size == (2, T)
    envs.close()


def test_ppo_learns_from_what_a_collector_gathers(env: Any) -> None:
    torch.manual_seed(0)
    actor, critic = make_actor(env), make_critic(env)
    collector = Collector(env, actor, frames_per_batch=2 * T, total_frames=4 * T)
    loss = ClipPPOLoss(actor, critic)
    advantage = GAE(gamma=1.0, lmbda=1.0, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    before = [parameter.detach().clone() for parameter in actor.parameters()]
    batches = 0
    for batch in collector:
        assert isinstance(batch, TensorDict)
        assert batch["next", "done"].sum() == 2  # whole episodes
        for _ in range(2):
            advantage(batch)
            terms = loss(batch.flatten())
            total = sum(term for name, term in terms.items() if name.startswith("loss_"))
            assert total.isfinite()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        batches += 1
    collector.shutdown()
    assert batches == 2
    for old, new in zip(before, actor.parameters(), strict=True):
        assert not torch.equal(old, new)
