from pathlib import Path
from typing import Any

import pytest
import torch
from small_agents import make_agent, make_env, weights
from torch import Tensor

from agents.policy import UNetPolicy
from agents.ppo import DiffusionPPO
from diffusion_gym.errors import DiffusionGymError
from diffusion_gym.models import PromptEmbedding

KINDS = [
    {},
    {"guidance": 3.0},
    {"lora_rank": 4},
    {"lora_rank": 4, "guidance": 3.0},
    {"autocast": "bfloat16"},
    {"autocast": "bfloat16", "guidance": 3.0},
    {"autocast": "bfloat16", "lora_rank": 4},
    {"autocast": "bfloat16", "lora_rank": 4, "guidance": 3.0},
]


def name(kind: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in kind.items()) or "plain"


def disturb(policy: UNetPolicy) -> None:
    """Fresh LoRA adapters do nothing; a ratio of them would be 1 for free."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


def rollout_steps(policy: UNetPolicy, rows: int) -> list[tuple[Tensor, int, Tensor, Tensor]]:
    """Every step of one batch: latents, index, next latents, log-probability."""
    env = make_env(rows)
    observation, _ = env.reset(seed=0)
    steps = []
    for index in range(env.unwrapped.schedule.num_steps):
        step = policy.act(observation)
        steps.append((observation["latent"], index, step.actions, step.log_prob))
        observation = env.step(step.actions)[0]
    return steps


def embedding_of(env: Any, rows: int) -> PromptEmbedding:
    observation, _ = env.reset(seed=0)
    return PromptEmbedding(observation["prompt_embedding"][:rows])


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_ratio_is_exactly_one_in_the_rollouts_batch_shape(kind: dict[str, Any]) -> None:
    policy = make_agent(policy_kwargs=kind).policy
    disturb(policy)
    embedding = embedding_of(make_env(4), 4)
    for latents, index, actions, log_prob in rollout_steps(policy, 4):
        step = policy.transition(latents, torch.full((4,), index), embedding)
        again = policy.log_prob(actions, step)
        assert again.requires_grad
        assert torch.equal((again.detach() - log_prob).exp(), torch.ones(4))


@pytest.mark.parametrize("kind", [k for k in KINDS if "autocast" not in k], ids=name)
def test_ratio_is_within_a_tenth_of_the_clip_range_in_other_shapes(
    kind: dict[str, Any],
) -> None:
    policy = make_agent(policy_kwargs=kind).policy
    disturb(policy)
    steps = rollout_steps(policy, 4)
    embedding = embedding_of(make_env(4), 4)
    rows, indices = torch.tensor([3, 0, 2, 1, 1, 3, 0]), torch.tensor([0, 2, 1, 1, 2, 2, 0])
    pairs = list(zip(rows.tolist(), indices.tolist(), strict=True))
    latents, actions, old = (
        torch.stack([steps[i][part][n] for n, i in pairs]) for part in (0, 2, 3)
    )
    step = policy.transition(latents, indices, embedding.select(rows))
    deviation = ((policy.log_prob(actions, step) - old).exp() - 1).abs().max().item()
    assert deviation <= 1e-4 / 10  # DDPO's clip range, 20 times narrower than our default


def test_adapters_start_from_the_agents_seed_alone() -> None:
    started = []
    for state, seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(state)
        started.append(weights(make_agent(seed=seed, policy_kwargs={"lora_rank": 2})))
    assert torch.equal(started[0], started[1])
    assert not torch.equal(started[1], started[2])


def test_stays_in_eval_mode_whatever_is_asked() -> None:
    policy = make_agent(policy_kwargs={"lora_rank": 2}).policy
    policy.set_training_mode(True)
    assert not any(module.training for module in policy.modules())


def test_only_adapters_train_with_lora_and_only_they_are_saved() -> None:
    policy = make_agent(policy_kwargs={"lora_rank": 2}).policy
    names = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert names
    assert all("lora" in name for name in names)
    assert sorted(policy.state_dict()) == sorted(names)
    with pytest.raises(RuntimeError, match="trainable parameters"):
        policy.load_state_dict({"nonsense": torch.zeros(1)})


@pytest.mark.parametrize("kind", [{}, {"lora_rank": 2}], ids=name)
def test_base_transition_is_the_model_before_training(kind: dict[str, Any]) -> None:
    policy = make_agent(policy_kwargs=kind).policy
    env = make_env(4)
    observation, _ = env.reset(seed=0)
    arguments = observation["latent"], torch.zeros(4, dtype=torch.long), embedding_of(env, 4)
    before = policy.transition(*arguments).mean.detach()
    disturb(policy)
    after = policy.transition(*arguments)
    assert not torch.allclose(after.mean, before)
    torch.testing.assert_close(policy.base_transition(*arguments).mean, before, atol=1e-5, rtol=0)
    trainable = [p for p in policy.denoiser.parameters() if p.requires_grad]
    assert len(trainable) == len(policy.trainable_parameters()) > 0


def test_guidance_of_one_costs_one_pass_and_more_costs_two() -> None:
    for guidance, evaluations in ((1.0, 4), (2.0, 8)):
        policy = make_agent(policy_kwargs={"guidance": guidance}).policy
        policy.act(make_env(4).reset(seed=0)[0])
        assert policy.denoiser_evaluations == evaluations


def test_mean_is_the_deterministic_action() -> None:
    policy = make_agent().policy
    observation, _ = make_env(4).reset(seed=0)
    first, second = (policy.act(observation, deterministic=True).actions for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(policy.act(observation).actions, first)


def test_unknown_precision_lists_the_known_ones() -> None:
    with pytest.raises(DiffusionGymError, match=r"float8.*bfloat16, float16, float32"):
        make_agent(policy_kwargs={"autocast": "float8"})


def test_a_policy_is_saved_with_its_agent(tmp_path: Path) -> None:
    agent = make_agent()
    file = tmp_path / "policy.zip"
    for refused in (lambda: agent.policy.save(file), lambda: UNetPolicy.load(file)):
        with pytest.raises(DiffusionGymError, match=r"DiffusionPPO\.load.*agents\.policy\.export"):
            refused()
    disturb(agent.policy)
    agent.save(file)
    loaded = DiffusionPPO.load(file).policy
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
