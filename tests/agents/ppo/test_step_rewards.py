from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorWrapper
from small_agents import STEPS, make_env
from stable_baselines3 import PPO

from agents.common.sb3_vec_env import SB3VecEnv
from agents.ppo.step_rewards import StepRewards
from diffusion_gym.errors import DiffusionGymError
from diffusion_gym.wrappers import CoCAReward, SparseReward, UniformCreditReward

TASK = {"num_inference_steps": STEPS, "reward": "jpeg_compressibility"}


NAMES = ("rewards", "values", "advantages", "returns")


class Recorded(StepRewards):
    """Keeps the buffer before and after its rewards are rewritten; PPO rearranges it later."""

    before: dict[str, Any]
    after: dict[str, Any]

    def _on_rollout_end(self) -> None:
        self.before = self._copy()
        super()._on_rollout_end()
        self.after = self._copy()

    def _copy(self) -> dict[str, Any]:
        buffer = self.model.rollout_buffer
        # Two episodes in each row.
        return {name: getattr(buffer, name).reshape(2, STEPS, -1).copy() for name in NAMES}


def vector(wrap: Any) -> SB3VecEnv:
    return SB3VecEnv(wrap(make_env(2)))


def single(wrap: Any) -> gym.Env:
    return wrap(gym.make("DiffusionT2I-v0", **TASK))


def learn(env: Any) -> tuple[PPO, Recorded]:
    callback = Recorded()
    agent = PPO(
        "MultiInputPolicy",
        env,
        n_steps=2 * STEPS,
        batch_size=2 * STEPS,
        n_epochs=1,
        gamma=1.0,
        gae_lambda=1.0,
        seed=0,
        device="cpu",
    )
    return agent.learn(1, callback=callback), callback


@pytest.mark.parametrize("make", [vector, single])
def test_stock_ppo_trains_on_step_rewards(make: Any) -> None:
    _, recorded = learn(make(UniformCreditReward))
    before, after = recorded.before, recorded.after
    honest, dense = before["rewards"], after["rewards"]
    assert (honest[:, :-1] == 0).all()
    assert (honest[:, -1] < 0).all()
    np.testing.assert_allclose(dense, np.repeat(honest[:, -1:] / STEPS, STEPS, 1), rtol=1e-5)
    # With γ = λ = 1 the returns are sums of the rewards to come, whatever the critic says.
    to_come = dense[:, ::-1].cumsum(1)[:, ::-1]
    np.testing.assert_allclose(after["returns"], to_come, rtol=1e-4, atol=1e-5)
    advantages = to_come - after["values"]
    np.testing.assert_allclose(after["advantages"], advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(before["returns"][:, 0], after["returns"][:, 0], rtol=1e-4)
    assert not np.allclose(after["advantages"], before["advantages"])


@pytest.mark.parametrize("make", [vector, single])
def test_returns_are_kept(make: Any) -> None:
    _, recorded = learn(make(lambda env: CoCAReward(env, windows=3, similarity="latent")))
    returns, dense = recorded.before["rewards"].sum(1), recorded.after["rewards"]
    np.testing.assert_allclose(dense.sum(1), returns, atol=1e-5 * np.abs(returns).max())
    assert (dense[:, 0] != 0).all()


def test_without_credit_nothing_changes() -> None:
    _, recorded = learn(vector(SparseReward))
    for name in NAMES:
        np.testing.assert_array_equal(recorded.before[name], recorded.after[name])


def test_rollouts_that_cut_episodes_are_refused() -> None:
    env = vector(UniformCreditReward)
    agent = PPO("MultiInputPolicy", env, n_steps=4, batch_size=4, n_epochs=1, device="cpu")
    with pytest.raises(DiffusionGymError, match="n_steps must be a multiple of T = 3, got 4"):
        agent.learn(2 * 4 * env.num_envs, callback=StepRewards())


def test_the_policy_changes_with_the_credit() -> None:
    plain, shaped = (learn(vector(wrap))[0] for wrap in (SparseReward, UniformCreditReward))
    ours, theirs = (
        torch.cat([p.flatten() for p in a.policy.parameters()]) for a in (shaped, plain)
    )
    assert not torch.equal(ours, theirs)


class Weights(VectorWrapper):
    """Writes weights of steps and no credit."""

    def step(self, actions: Any) -> Any:
        *result, infos = self.env.step(actions)
        if "final_info" in infos:
            count = self.num_envs
            weights = torch.arange(STEPS, 0, -1).float().repeat(count, 1)
            mask = torch.ones(count, dtype=torch.bool)
            infos["final_info"] |= {"step_weight": weights, "_step_weight": mask}
        return *result, infos


def test_weights_without_credit_are_trained_on_as_the_credit_that_belongs_to_them() -> None:
    _, weighted = learn(vector(Weights))
    _, uniform = learn(vector(UniformCreditReward))
    np.testing.assert_allclose(weighted.after["rewards"], uniform.after["rewards"], rtol=1e-5)
    assert not np.allclose(weighted.before["rewards"], weighted.after["rewards"])
