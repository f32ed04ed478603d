"""What a rollout costs."""

from typing import Any

import pytest
import torch
from small_agents import STEPS, make_agent, make_env
from stable_baselines3.common.callbacks import BaseCallback

from diffusion_gym.wrappers import B2DiffuRLReward


class Encoded(BaseCallback):
    """Counts the prompts that each round encodes, and keeps those that it trains on."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.rounds: list[tuple[list[str], set[str]]] = []
        encode = model.encode

        def watched(texts: Any) -> Any:
            self.texts += texts
            return encode(texts)

        monkeypatch.setattr(model, "encode", watched)

    def _on_training_start(self) -> None:
        self.texts.clear()  # before the first round, Stable-Baselines3 resets once for itself

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        base = self.model.env.base_env
        ids = self.model.rollout_buffer.trajectories.prompt_ids.tolist()
        self.rounds.append((self.texts[:], {base.prompt_text(number) for number in ids}))
        self.texts.clear()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_round_encodes_no_prompts_but_those_that_it_trains_on(
    monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    env = make_env(4)
    callback = Encoded(env.unwrapped.model, monkeypatch)
    agent = make_agent(B2DiffuRLReward(env, branches=2) if wrapped else env, batches_per_round=2)
    agent.learn(3 * 8, callback=callback)
    assert len(callback.rounds) == 3
    for encoded, trained in callback.rounds:
        assert set(encoded) <= trained
        assert len(encoded) <= len(trained) <= 4
    assert any(encoded for encoded, _ in callback.rounds)


@pytest.mark.parametrize("num_envs", [2, 4])
def test_trajectories_take_what_their_shapes_say(num_envs: int) -> None:
    """Each latent is kept once, and no larger tensor behind what is kept."""
    agent = make_agent(make_env(num_envs), batches_per_round=2)
    agent.learn(2 * num_envs)
    kept = vars(agent.rollout_buffer.trajectories).values()
    tensors = [each for each in kept if isinstance(each, torch.Tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors}
    latents = (STEPS + 1) * 16 * 8 * 8
    of_steps, of_episode = 3 * 4 + 1, 8 + 4 + 1 + 4
    each = 4 * latents + STEPS * of_steps + of_episode
    assert sum(storage.nbytes() for storage in storages.values()) == 2 * num_envs * each
