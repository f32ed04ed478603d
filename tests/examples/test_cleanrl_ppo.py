"""A loop in one file, with storage tensors and NumPy environments, as CleanRL writes them."""

import cleanrl_ppo
import numpy as np
import torch

T = 3
ENVS = 4
EPISODES = 2


def test_a_round_of_ppo() -> None:
    torch.manual_seed(0)
    envs = cleanrl_ppo.make_envs(ENVS, T)
    agent = cleanrl_ppo.Agent(envs.single_action_space.shape[0])
    optimizer = torch.optim.Adam(agent.parameters(), 1e-3)
    steps = EPISODES * T
    next_obs, _ = envs.reset(seed=1)
    storage = cleanrl_ppo.rollout(envs, agent, next_obs, steps)
    envs.close()

    # Episodes are where they should be, and the first step of each has fresh noise.
    ends = torch.arange(1, steps + 1) % T == 0
    rewards, obs, actions = storage.rewards, storage.obs, storage.actions
    assert (storage.dones == ends[:, None]).all()
    assert (rewards[~ends] == 0).all()
    assert (rewards[ends] != 0).all()
    np.testing.assert_allclose(np.stack(storage.recorded), rewards[ends], rtol=1e-6)
    torch.testing.assert_close(obs["latent"][1], actions[0], rtol=0, atol=0)
    assert (obs["timestep"][T] == obs["timestep"][0]).all()
    assert (obs["latent"][T] - actions[T - 1]).abs().mean() > 0.5

    # Undiscounted returns are the episode's reward at each of its steps.
    returns = cleanrl_ppo.returns_to_go(storage)
    torch.testing.assert_close(returns, rewards[ends].repeat_interleave(T, 0))

    # Before the first update the ratio is 1; after it, better actions are more probable.
    ratios = cleanrl_ppo.update(agent, optimizer, storage, epochs=2, batch_size=12)
    torch.testing.assert_close(ratios[0], torch.ones_like(ratios[0]), rtol=0, atol=1e-5)
    assert all(ratio.isfinite().all() for ratio in ratios)
    flat = {key: value.flatten(0, 1) for key, value in obs.items()}
    with torch.no_grad():
        log_probs = agent.log_prob(flat, actions.flatten(0, 1))
    ratio = (log_probs - storage.logprobs.flatten()).exp()
    advantages = (returns - returns.mean()).flatten()
    assert ((ratio - 1) * advantages).mean() > 0


def test_rounds() -> None:
    rewards = cleanrl_ppo.main("--rounds 2 --num-inference-steps 2 --num-envs 2".split())
    assert len(rewards) == 2
    assert np.isfinite(rewards).all()
