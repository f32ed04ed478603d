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
from agents.evaluation import ImageMetrics, evaluate
from agents.nft import DiffusionNFT
from agents.runs.builders import make_image_metrics
from agents.runs.pictures import HeldOutPictures
from agents.runs.settings import TrainSettings
from diffusion_gym.wrappers import B2DiffuRLReward, NoiseAwareReward, SparseReward

IMAGES = 4


@contextmanager
def counted(agent: ImageAlgorithm, env: Any = None) -> Iterator[Counter[str]]:
    """Rows that go through the agent's denoisers, and an environment's decoder and text encoders.

    The environment is the agent's own unless another is named.
    """
    counts: Counter[str] = Counter()

    def count(part: str) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            counts[part] += len(arguments[0])
            counts[f"{part}, trained"] += len(arguments[0]) * torch.is_grad_enabled()

        return hook

    model = agent.base_env.model if env is None else env.unwrapped.model
    new_denoiser = agent.policy.model.new_denoiser

    def loaded(*arguments: Any) -> Any:
        counts["denoisers loaded"] += 1
        denoiser = new_denoiser(*arguments)
        handles.append(denoiser.register_forward_hook(count("base")))
        return denoiser

    networks = {agent.policy.denoiser}
    if isinstance(agent, DiffusionNFT):
        networks.add(agent.old._denoiser)  # the same with LoRA
    handles = [network.register_forward_hook(count("denoiser")) for network in networks]
    handles += [known.register_forward_hook(count("base")) for known in agent.policy._reference]
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


def test_adapters_need_no_second_denoiser_for_the_divergence() -> None:
    agent = ppo(policy={"lora_rank": 2}, kl_coef=0.1)
    with counted(agent) as counts:
        agent.learn(IMAGES)
    assert counts["denoisers loaded"] == 0
    assert counts["denoiser"] == (1 + 2) * IMAGES * STEPS  # drawn; trained, and compared
    assert agent.policy.denoiser_evaluations == counts["denoiser"]


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_an_evaluation_draws_each_image_once(lora_rank: int) -> None:
    """And compares one of each prompt with the base model's, if that is asked for."""
    agent = ppo(policy={"lora_rank": lora_rank})
    env = make_env(IMAGES, prompts=["a red ball", "a cat"])
    metrics = make_image_metrics(env, ["clip_score", "scene_alignment"])

    def evaluated(image_metrics: ImageMetrics | None) -> Counter[str]:
        with counted(agent, env) as counts:
            evaluate(
                *(agent.policy, env),
                **{"samples": 2, "prompts": 2, "seed": 0, "image_metrics": image_metrics},
            )
        assert agent.policy.denoiser_evaluations == 0  # it is none of the training's
        return counts

    reward_alone, first, second = (evaluated(each) for each in (None, metrics, metrics))
    assert reward_alone["encoded"] == 2
    assert first["encoded"] == second["encoded"] == 0
    for counts in (reward_alone, first, second):
        assert counts["decoded"] == IMAGES
    assert reward_alone["denoiser"] == IMAGES * STEPS
    assert reward_alone["base"] == reward_alone["denoisers loaded"] == 0
    for counts in (first, second):
        assert counts["denoiser"] + counts["base"] == (IMAGES + IMAGES // 2) * STEPS
        assert (counts["base"] > 0) == (lora_rank == 0)
    assert first["denoisers loaded"] == (lora_rank == 0)
    assert second["denoisers loaded"] == 0


def test_pictures_of_rounds_draw_those_that_are_shown() -> None:
    settings = TrainSettings.of(
        num_inference_steps=STEPS, num_envs=IMAGES, picture_prompts=3, eval_prompts=5
    )
    agent = ppo()
    pictures = HeldOutPictures(settings, "emoji-objects:held_out")
    with counted(agent, pictures._env) as counts:
        pictures.draw(agent.policy)
    assert counts["denoiser"] == 3 * STEPS
    assert counts["decoded"] == 3
    assert counts["base"] == counts["denoisers loaded"] == 0


def test_what_watches_uses_the_rewards_networks() -> None:
    env = make_env(IMAGES, reward="clip_score")
    metrics = make_image_metrics(env, ["house_style", "scene_alignment"])
    clip: Any = metrics.embed_images
    assert clip.__self__ is env.unwrapped.reward_function._model
    house_style, scene_alignment = metrics.rewards
    assert house_style._verifier is scene_alignment._verifier


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


def test_the_base_model_of_the_forward_process_is_evaluated_where_it_counts() -> None:
    agent = make_nft(policy_kwargs={"lora_rank": 2}, reference_coef=1e-2)
    with counted(agent) as counts:
        agent.learn(IMAGES)
    pairs = IMAGES * 2
    assert counts["denoiser"] == IMAGES * STEPS + 3 * pairs
    assert counts["denoisers loaded"] == counts["base"] == 0
    assert agent.policy.denoiser_evaluations == counts["denoiser"]
