"""Rounds on the forward process: what they cost, keep, train and refuse."""

import gc
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from small_agents import STEPS, make_env, weights
from small_nft import make_nft
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger

from agents.nft import DiffusionNFT
from agents.ppo import DiffusionPPO, RewardFailureError
from diffusion_gym.errors import DiffusionGymError, InvalidInputError, UnknownKeywordError
from diffusion_gym.rewards import register_reward
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    CoCAReward,
    CreditReward,
    NoiseAwareReward,
    SparseReward,
    UniformCreditReward,
    VectorShaping,
)

KINDS = [{}, {"lora_rank": 2}]


class Columns(KVWriter):
    """Keeps what is logged in every round."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Any]] = []

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        self.rounds.append(dict(key_values))

    def close(self) -> None:
        pass


def logged(agent: DiffusionNFT, images: int) -> list[dict[str, Any]]:
    columns = Columns()
    agent.set_logger(Logger(None, [columns]))
    agent.learn(images)
    return columns.rounds


def old_weights(agent: DiffusionNFT) -> torch.Tensor:
    return torch.cat([value.flatten() for value in agent.old.state_dict().values()])


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_learning_counts_images_and_evaluations(kind: dict[str, Any], eta: float) -> None:
    agent = make_nft(make_env(eta=eta), policy_kwargs=kind, batches_per_round=2, n_epochs=2)
    before = weights(agent)
    agent.learn(16)
    assert not torch.equal(weights(agent), before)
    assert weights(agent).isfinite().all()
    assert (agent.rounds, agent.num_timesteps, agent.reward_queries) == (2, 16, 16)
    assert agent._n_updates == 2 * 2 * 2
    # Drawing; then in each of two epochs, two noise levels an image, by old and trained weights.
    assert agent.policy.denoiser_evaluations == 16 * STEPS + 2 * 16 * 2 * 2


def test_of_an_episode_only_the_final_latent_is_kept() -> None:
    agent = make_nft()
    agent.learn(4)
    images = agent.rollout_buffer.images
    channels, height, width = agent.base_env.model.latent_shape
    assert images.latents.shape == (4, channels, height, width)
    tensors = [value for value in vars(images).values() if isinstance(value, torch.Tensor)]
    assert sum(value.numel() for value in tensors) == 4 * channels * height * width + 4 * 4
    # They are the images that were scored: the environment draws them again from the latents.
    decoded = agent.base_env.model.decode(images.latents)
    scored = agent.base_env.reward_function(decoded, ["a cat"] * 4).values
    torch.testing.assert_close(scored, images.returns, rtol=1e-3, atol=1e-3)


def test_training_depends_on_the_seed_alone() -> None:
    first, second, other = (make_nft(seed=seed).learn(4) for seed in (0, 0, 1))
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_accumulated_passes_give_the_gradient_of_one() -> None:
    whole, pieces = make_nft(batch_size=4), make_nft(batch_size=2)
    whole.learn(4)
    pieces.learn(4)
    # Adam's first steps have the size of the learning rate whatever the gradient: compare in it.
    assert (weights(whole) - weights(pieces)).abs().mean() < 0.02 * 1e-4


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_images_are_drawn_with_the_old_weights_which_follow(kind: dict[str, Any]) -> None:
    agent = make_nft(policy_kwargs=kind, decay_rate=0.25, decay_limit=0.4, learning_rate=1e-3)
    expected = old_weights(agent).clone()
    assert torch.equal(expected, weights(agent))
    for decay in (0.25, 0.4, 0.4):
        agent.learn(4, reset_num_timesteps=False)
        assert not torch.equal(old_weights(agent), weights(agent))
        expected = decay * expected + (1 - decay) * weights(agent)
        torch.testing.assert_close(old_weights(agent), expected, rtol=1e-5, atol=1e-7)
        expected = old_weights(agent).clone()

    # What is drawn is what the old weights draw.
    observation, _ = agent.env.vector_env.reset(seed=0)
    trained = agent.policy.act(observation).actions
    with agent.old.in_place():
        drawn = agent.policy.act(observation).actions
    assert not torch.equal(drawn, trained)
    assert torch.equal(agent.policy.act(observation).actions, trained)
    other = make_nft(policy_kwargs=kind)
    state = agent.old.state_dict()
    other.policy.load_state_dict({f"denoiser.{name}": value for name, value in state.items()})
    torch.testing.assert_close(other.policy.act(observation).actions, drawn)


def test_without_decay_the_old_weights_are_those_just_trained() -> None:
    agent = make_nft(decay_rate=0.0).learn(8)
    assert torch.equal(old_weights(agent), weights(agent))


def networks(kind: type) -> int:
    """How many of a kind are alive."""
    gc.collect()
    return sum(type(thing) is kind for thing in gc.get_objects())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_weights_are_kept_thrice(kind: dict[str, Any]) -> None:
    """LoRA's old weights are adapters; where all weights train, one copy more and no other."""
    before = networks(UNet2DConditionModel)
    agent = make_nft(policy_kwargs=kind).learn(4)
    policy = agent.policy
    parameters = dict(policy.denoiser.network.named_parameters())
    trained = sum(p.numel() for p in policy.trainable_parameters())
    whole = sum(p.numel() for p in agent.base_env.model.new_denoiser().parameters())
    copies = 1 if "lora_rank" in kind else 2
    assert networks(UNet2DConditionModel) == before + copies
    if "lora_rank" in kind:
        assert sum(p.numel() for n, p in parameters.items() if ".lora_" in n) == 2 * trained
        assert sum(p.numel() for p in parameters.values()) == whole + 2 * trained
        assert trained < whole / 20
    else:
        assert trained == whole
    assert old_weights(agent).shape == weights(agent).shape

    # An evaluation measures the drift from the base model, which takes the place of gradients.
    base = policy.base_transition(*policy.conditions(agent.env.vector_env.reset()[0]))
    assert base.mean.isfinite().all()
    assert networks(UNet2DConditionModel) == before + (1 if "lora_rank" in kind else 3)
    assert all(p.grad is None for p in policy.trainable_parameters())
    agent.learn(4)
    assert networks(UNet2DConditionModel) == before + copies


@pytest.mark.slow
def test_the_reference_holds_the_policy_near_the_base_model() -> None:
    def distance(coefficient: float) -> float:
        agent = make_nft(
            policy_kwargs={"lora_rank": 4},
            reference_coef=coefficient,
            learning_rate=1e-2,
            n_epochs=6,
            seed=0,
        )
        rows = logged(agent, 8)
        found: float = rows[-1]["train/reference_deviation"]
        return found

    assert 0 < distance(1000.0) < 0.5 * distance(1e-6)


def test_the_reference_counts_its_evaluations() -> None:
    agent = make_nft(policy_kwargs={"lora_rank": 2}, reference_coef=1e-4).learn(4)
    assert agent.policy.denoiser_evaluations == 4 * STEPS + 4 * 2 * 3


@pytest.mark.parametrize("options", [{}, {"loss": "awm"}, {"loss": "awm", "awm_time_power": 2}])
def test_every_round_has_the_same_columns(options: dict[str, Any]) -> None:
    first, second = logged(make_nft(**options), 8)
    assert list(first) == list(second)
    assert {"rollout/reward_mean", "train/old_deviation", "count/reward_queries"} <= set(first)
    assert (first["train/decay"], second["train/decay"]) == (0.001, 0.002)
    assert first["train/clip_fraction"] == first["train/clip_fraction"] or options == {}


def test_awm_starts_from_a_ratio_of_one() -> None:
    (row,) = logged(make_nft(loss="awm", updates_per_round=1, awm_clip_range=1e-6), 4)
    assert row["train/clip_fraction"] == 0.0
    assert row["train/old_deviation"] == 0.0
    assert row["train/gradient_norm"] > 0


@pytest.mark.parametrize(("choice", "choices"), [("sampler", STEPS), ("training", 1000)])
def test_noise_levels_differ_within_an_image(choice: str, choices: int) -> None:
    agent = make_nft(timesteps=choice, timesteps_per_image=3).learn(4)
    pairs = agent._pairs()
    rows, chosen = pairs // choices, pairs % choices
    assert sorted(rows.tolist()) == sorted([0, 1, 2, 3] * 3)
    for row in range(4):
        assert len(set(chosen[rows == row].tolist())) == 3
    assert (rows[:3] != rows[0]).any() or (rows[3:6] != rows[3]).any()  # shuffled
    if choice == "training":
        assert chosen.max() >= STEPS


@pytest.mark.parametrize("timesteps", ["sampler", "training"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_flows_train_too(kind: dict[str, Any], timesteps: str, sd3_folder: Path) -> None:
    env = make_env(4, model=str(sd3_folder), prompts=["a cat", "a dog"], eta=0.0)
    agent = make_nft(env, policy_kwargs=kind, timesteps=timesteps)
    before = weights(agent)
    agent.learn(4)
    assert weights(agent).isfinite().all()
    assert not torch.equal(weights(agent), before)


@pytest.mark.parametrize("options", [{"stochastic_steps": [1]}, {"eta": 0.5}], ids=str)
def test_any_sampler_draws(options: dict[str, Any]) -> None:
    assert make_nft(make_env(4, **options)).learn(4).rounds == 1


@pytest.mark.parametrize(
    "options",
    [{"sampler": "flow_cps"}, {"sampler": "flow_cps", "stochastic_steps": [1]}],
    ids=str,
)
def test_any_sampler_of_flows_draws(options: dict[str, Any], sd3_folder: Path) -> None:
    env = make_env(4, model=str(sd3_folder), prompts=["a cat", "a dog"], **options)
    agent = make_nft(SparseReward(env))
    before = weights(agent)
    agent.learn(4)
    assert not torch.equal(weights(agent), before)
    assert weights(agent).isfinite().all()


def test_failed_images_take_no_part() -> None:
    agent = make_nft(make_env(12, eta=0.0, reward="breaks_once"), timesteps_per_image=3).learn(12)
    images = agent.rollout_buffer.images
    assert images.valid.sum() == 11
    failed = int((~images.valid).nonzero())
    assert failed not in (agent._pairs() // STEPS).tolist()
    assert agent.policy.denoiser_evaluations == 12 * STEPS + 2 * 11 * 3
    with pytest.raises(RewardFailureError, match="1 of this round's 8 images"):
        make_nft(make_env(8, eta=0.0, reward="breaks_once")).learn(8)


@pytest.fixture(autouse=True)
def broken_reward() -> None:
    register_reward("breaks_once")(breaks_once)


def breaks_once(device: str) -> Any:
    def score(images: torch.Tensor, prompts: Any) -> torch.Tensor:
        values = images.mean((1, 2, 3))
        values[5 if len(values) > 1 else 0] = torch.nan
        return values

    return score


# ------------------------------------------------------------------------ wrappers


def test_a_sparse_reward_is_what_it_trains_on() -> None:
    plain, wrapped = make_nft().learn(4), make_nft(SparseReward(make_env(eta=0.0))).learn(4)
    assert torch.equal(weights(plain), weights(wrapped))


@pytest.mark.parametrize(
    "wrap",
    [
        UniformCreditReward,
        NoiseAwareReward,
        lambda env: CoCAReward(env, windows=STEPS),
        lambda env: B2DiffuRLReward(env, branches=2, schedule=(1, 9)),
        lambda env: UniformCreditReward(B2DiffuRLReward(env, branches=2, schedule=(1, 9))),
    ],
    ids=["uniform", "noise-aware", "coca", "b2", "uniform(b2)"],
)
def test_what_a_wrapper_says_of_the_steps_is_not_lost_silently(wrap: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"trains on final images.* got \w+Reward"):
        make_nft(wrap(make_env()))


class OwnWrapper(CreditReward, VectorShaping):
    """Gives credit under a name that nobody knows beforehand."""

    role = "credit"

    def assign_credit(self, episodes: Any, step_mask: Any, infos: Any) -> dict[str, torch.Tensor]:
        return {"step_weight": torch.ones(step_mask.shape)}


class Judge:
    """Wraps the infos of an environment that knows each image's advantage itself."""

    def __init__(self, env: Any, **written: float) -> None:
        self.env, self.written = env, written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def step(self, actions: Any) -> Any:
        *result, infos = self.env.step(actions)
        if "final_info" in infos:
            rows = infos["final_info"]["return"]
            for key, value in self.written.items():
                infos["final_info"][key] = torch.full_like(rows, value)
                infos["final_info"][f"_{key}"] = torch.ones_like(rows, dtype=torch.bool)
        return (*result, infos)


def test_a_wrapper_of_ones_own_is_refused_or_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="got OwnWrapper"):
        make_nft(OwnWrapper(make_env()))
    agent = make_nft()
    env = agent.env.vector_env
    monkeypatch.setattr(agent.env, "vector_env", Judge(env, advantage=2.0, mood=0.5))
    (row,) = logged(agent, 4)
    assert agent.rollout_buffer.images.advantages.tolist() == [2.0] * 4
    assert row["shaping/mood"] == 0.5
    monkeypatch.setattr(agent.env, "vector_env", Judge(env, credit=1.0))
    with pytest.raises(InvalidInputError, match="got one that writes 'credit'"):
        agent.learn(4)


# ------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy_kwargs": {"guidance": 2.0}}, "expected guidance=1, got 2"),
        ({"reference_coef": 1e-4}, "expected reference_coef=0, or LoRA"),
        ({"timesteps_per_image": 4}, "at most 3, the number of sampler timesteps, got 4"),
        ({"samples_per_prompt": 3}, r"divide num_envs \(4\), got 3"),
        ({"clip_range": 1e-4}, "DiffusionNFT has no 'clip_range': it has no ratio"),
        ({"gamma": 0.9}, "DiffusionNFT has no 'gamma'"),
        ({"kl_coef": 0.1}, "see `reference_coef`"),
        ({"learning_rat": 1}, "unexpected keyword argument 'learning_rat'; known: adv"),
    ],
)
def test_arguments_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DiffusionGymError, match=message):
        make_nft(**options)


def test_meaningless_arguments_are_type_errors_too() -> None:
    with pytest.raises(UnknownKeywordError):
        make_nft(ent_coef=0.1)


def test_ppo_refuses_the_deterministic_sampler_that_this_welcomes() -> None:
    env = make_env(eta=0.0)
    with pytest.raises(InvalidInputError, match=r"has noise \(eta is 0\).* or DiffusionNFT"):
        DiffusionPPO("UNetPolicy", env, samples_per_prompt=2)
    assert make_nft(env).learn(4).rounds == 1


def test_the_signature_shows_every_option() -> None:
    parameters = inspect.signature(DiffusionNFT).parameters
    assert {"env", "policy_kwargs", "beta", "learning_rate", "decay_rate"} <= set(parameters)
    assert parameters["beta"].default == 0.1
    assert "clip_range" in inspect.signature(DiffusionPPO).parameters


def test_predict_and_evaluate_policy_work() -> None:
    agent = make_nft()
    observation = agent.env.reset()
    actions, _ = agent.predict(observation)
    assert actions.shape == observation["latent"].shape
    mean, _ = evaluate_policy(agent, agent.env, n_eval_episodes=4, warn=False)
    assert -3 < mean < -0.5  # kB of a small JPEG, negated


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_saved_agent_is_loaded_with_both_its_weights(kind: Any, tmp_path: Path) -> None:
    agent = make_nft(policy_kwargs=kind, decay_rate=0.3, learning_rate=1e-3).learn(8)
    agent.save(tmp_path / "agent.zip")
    for env in (None, make_env(eta=0.0)):
        loaded = DiffusionNFT.load(tmp_path / "agent.zip", env=env)
        assert torch.equal(weights(loaded), weights(agent))
        assert torch.equal(old_weights(loaded), old_weights(agent))
        assert loaded.config == agent.config
    with pytest.raises(DiffusionGymError, match="expected an agent with a PPOConfig, got one with"):
        DiffusionPPO.load(tmp_path / "agent.zip", env=make_env())


@pytest.mark.parametrize(
    "kind",
    [
        {"autocast": "bfloat16"},
        {"autocast": "bfloat16", "lora_rank": 2},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "lora_rank": 2},
    ],
    ids=str,
)
def test_ways_to_save_memory(kind: dict[str, Any]) -> None:
    """Checkpointing computes the activations anew, with the weights that are trained."""
    agent = make_nft(policy_kwargs=kind, reference_coef=1e-2 if "lora_rank" in kind else 0.0)
    agent.learn(8)
    assert weights(agent).dtype == old_weights(agent).dtype == torch.float32
    assert weights(agent).isfinite().all()
    if "gradient_checkpointing" in kind:
        plain = {name: value for name, value in kind.items() if name == "lora_rank"}
        other = make_nft(policy_kwargs=plain, reference_coef=agent.config.reference_coef).learn(8)
        torch.testing.assert_close(weights(agent), weights(other), rtol=1e-4, atol=1e-6)
