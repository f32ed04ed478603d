"""What a round asks of the networks, counted at the networks: nothing that need not be done."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from small_agents import STEPS, make_agent, make_env, weights
from small_nft import make_nft

from agents.common.image_algorithm import ImageAlgorithm
from agents.nft import DiffusionNFT
from diffusion_gym.wrappers import B2DiffuRLReward, NoiseAwareReward, SparseReward

IMAGES = 4


@contextmanager
def counted(agent: ImageAlgorithm) -> Iterator[Counter[str]]:
    """Rows that go through the agent's denoisers, decoders and text encoders."""
    counts: Counter[str] = Counter()

    def count(part: str) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            counts[part] += len(arguments[0])
            counts[f"{part}, trained"] += len(arguments[0]) * torch.is_grad_enabled()

        return hook

    model = agent.base_env.model
    new_denoiser = agent.policy.model.new_denoiser

    def loaded(*arguments: Any) -> Any:
        counts["denoisers loaded"] += 1
        denoiser = new_denoiser(*arguments)
        denoiser.register_forward_hook(count("base"))
        return denoiser

    networks = {agent.policy.denoiser}
    if isinstance(agent, DiffusionNFT):
        networks.add(agent.old._denoiser)  # the same with LoRA
    handles = [network.register_forward_hook(count("denoiser")) for network in networks]
    decode, encode = model.decode, model.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent.policy.model, "new_denoiser", loaded)
        patch.setattr(model, "decode", lambda x: (counts.update(decoded=len(x)), decode(x))[1])
        patch.setattr(model, "encode", lambda x: (counts.update(encoded=len(x)), encode(x))[1])
        yield counts
    for handle in handles:
        handle.remove()


def ppo(shaping: Any = SparseReward, policy: dict[str, Any] | None = None, **options: Any) -> Any:
    return make_agent(
        shaping(make_env(IMAGES)), policy_kwargs={"lora_rank": 0} | (policy or {}), **options
    )


def test_a_round_draws_and_trains_each_pair_once() -> None:
    agent = ppo()
    agent.learn(IMAGES)
    before = agent.policy.denoiser_evaluations
    with counted(agent) as counts:
        agent.learn(IMAGES, reset_num_timesteps=False)
    assert counts["denoiser"] == 2 * IMAGES * STEPS
    assert counts["denoiser, trained"] == IMAGES * STEPS
    assert counts["decoded"] == IMAGES
    assert counts["encoded"] <= IMAGES // 2  # two images of each prompt, and no episode after
    assert counts["denoisers loaded"] == counts["base"] == 0
    assert agent.policy.denoiser_evaluations - before == counts["denoiser"]


def test_another_round_encodes_nothing_that_is_known() -> None:
    agent = make_agent(SparseReward(make_env(IMAGES, prompts=["a red ball", "a cat"])))
    agent.learn(IMAGES)
    with counted(agent) as counts:
        agent.learn(IMAGES, reset_num_timesteps=False)
    assert counts["encoded"] == 0


def test_guidance_doubles_the_passes() -> None:
    agent = ppo(policy={"guidance": 3.0})
    with counted(agent) as counts:
        agent.learn(IMAGES)
    assert counts["denoiser"] == 2 * 2 * IMAGES * STEPS
    assert agent.policy.denoiser_evaluations == counts["denoiser"]


def test_steps_that_teach_nothing_are_not_trained_on() -> None:
    agent = ppo(lambda env: NoiseAwareReward(env, min_weight=0.5))
    with counted(agent) as counts:
        agent.learn(IMAGES)
    mask = agent.rollout_buffer.trajectories.step_mask
    assert 0 < int(mask.sum()) < IMAGES * STEPS
    assert counts["denoiser, trained"] == int(mask.sum())


def test_the_base_model_is_evaluated_where_its_divergence_counts() -> None:
    agent = ppo(kl_coef=0.1)
    with counted(agent) as counts:
        agent.learn(IMAGES)
        agent.learn(IMAGES, reset_num_timesteps=False)
    assert counts["denoisers loaded"] == 1
    assert counts["base"] == 2 * IMAGES * STEPS
    assert agent.policy.denoiser_evaluations == counts["denoiser"] + counts["base"]


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_a_single_update_needs_no_old_log_probabilities(drift: float) -> None:
    """Were they another kernel's, they would not be taken again."""
    agent = ppo(updates_per_round=1, clip_range=1e-4)
    if drift:
        collect = agent._collect_batch

        def other_kernels(*arguments: Any) -> Any:
            batch, infos = collect(*arguments)
            batch.log_probs += drift
            return batch, infos

        agent._collect_batch = other_kernels
    with counted(agent) as counts:
        agent.learn(IMAGES)
    assert counts["denoiser"] == 2 * IMAGES * STEPS
    expected = ppo(updates_per_round=1, clip_range=1e-4).learn(IMAGES)
    assert torch.equal(weights(agent), weights(expected))


def test_branches_share_their_prefix() -> None:
    env = B2DiffuRLReward(make_env(IMAGES), branches=2, schedule=(1, 9))
    agent = make_agent(env, policy_kwargs={"lora_rank": 0})
    with counted(agent) as counts:
        agent.learn(IMAGES)
    assert agent.policy.denoiser_evaluations == counts["denoiser"]
    assert counts["denoiser"] - counts["denoiser, trained"] < IMAGES * STEPS


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_forward_process_trains_its_noise_levels(lora_rank: int) -> None:
    agent = make_nft(policy_kwargs={"lora_rank": lora_rank})
    with counted(agent) as counts:
        agent.learn(IMAGES)
    pairs = IMAGES * 2  # noise levels of each image
    assert counts["denoiser, trained"] == pairs
    assert counts["denoiser"] == IMAGES * STEPS + 2 * pairs  # drawn; old weights and trained ones
    assert counts["decoded"] == IMAGES
    assert counts["base"] == 0
    assert agent.policy.denoiser_evaluations == counts["denoiser"]
