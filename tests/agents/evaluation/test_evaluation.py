import dataclasses
import io
import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rich.console import Console
from safetensors.torch import load_file, save_file
from scipy import stats
from small_agents import STEPS, make_agent, make_env
from transformers import CLIPModel

from agents.evaluation.evaluation import Evaluation, evaluate, mean, paired_difference
from agents.evaluation.image_metrics import ImageMetrics
from agents.ppo import DiffusionPPO
from agents.runs.builders import load_evaluation, make_image_metrics, save_evaluation
from agents.runs.report import comparison, figures, print_comparison
from diffusion_gym import reference_policy
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.models import PromptEmbedding
from diffusion_gym.prompts import load_prompts
from diffusion_gym.rewards import RewardResult, make_reward, score
from diffusion_gym.schedules.ddim import DDIMSchedule

TRAINED_ON = "jpeg_compressibility"
COUNTS = {"samples": 2, "prompts": 3, "seed": 1}


def disturb(agent: DiffusionPPO, size: float = 0.02) -> None:
    """Moves every weight by a share of its layer's spread, as training would."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in agent.policy.trainable_parameters():
            weight += size * (weight.std(correction=0) + 0.1) * torch.randn_like(weight)


@pytest.fixture(scope="module")
def env() -> Any:
    return make_env(4, prompts=["a cat", "a dog", "a bird"])


@pytest.fixture(scope="module")
def monitor(env: Any) -> ImageMetrics:
    return make_image_metrics(env)


@pytest.fixture(scope="module")
def before(env: Any, monitor: ImageMetrics) -> Evaluation:
    return evaluate(make_agent().policy, env, **COUNTS, image_metrics=monitor)


@pytest.fixture(scope="module")
def trained() -> DiffusionPPO:
    agent = make_agent()
    disturb(agent)
    return agent


@pytest.fixture(scope="module")
def after(env: Any, monitor: ImageMetrics, trained: DiffusionPPO) -> Evaluation:
    return evaluate(trained.policy, env, **COUNTS, image_metrics=monitor)


def test_the_same_seed_draws_the_same_images_and_disturbs_nothing(
    env: Any, monitor: ImageMetrics, before: Evaluation
) -> None:
    agent = make_agent()
    state = agent.policy.generator.get_state()
    plain = evaluate(agent.policy, env, **COUNTS)  # as `before`, but without a monitor
    assert (plain.other_rewards, plain.metrics, plain.left_out) == ({}, {}, {})
    assert plain.images.shape == (3, 2, 64, 64, 3)
    assert plain.rewards.shape == plain.terms["size_kb"].shape == (3, 2)
    np.testing.assert_array_equal(plain.images, before.images)
    np.testing.assert_array_equal(plain.rewards, before.rewards)
    other = evaluate(agent.policy, env, samples=2, prompts=1, seed=2, image_metrics=monitor)
    assert (plain.images[:1] != other.images).any()
    assert (plain.images[:, 0] != plain.images[:, 1]).any()
    assert torch.equal(agent.policy.generator.get_state(), state)
    assert agent.policy.denoiser_evaluations == 0
    assert plain.prompts == list(env.unwrapped.prompts.texts)


def test_prompts_are_spread_over_a_sorted_set() -> None:
    result = evaluate(make_agent().policy, make_env(3), samples=1, prompts=3, seed=1)
    texts = load_prompts("emoji-objects").texts
    assert result.prompts == [texts[0], texts[50], texts[99]]


class Noise:
    """The noise of some images of an evaluation with seed 1: (text, number) each."""

    def __init__(self, *images: tuple[str, int]) -> None:
        digests = [sha256(f"1 {number} {text}".encode()).digest() for text, number in images]
        self.seeds = [int.from_bytes(digest[:4], "big") for digest in digests]
        self.generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def draw(self, shape: torch.Size) -> torch.Tensor:
        return torch.stack([torch.randn(shape[1:], generator=g) for g in self.generators])


def test_evaluation_draws_as_the_policy_acts(env: Any, after: Evaluation, trained: Any) -> None:
    policy = trained.policy
    noise = Noise(("a cat", 0), ("a cat", 1), ("a dog", 0), ("a dog", 1))
    options = {"prompt_ids": np.array([0, 0, 1, 1])}
    observation, _ = env.reset(seed=noise.seeds, options=options)
    for _ in range(env.unwrapped.schedule.num_steps):
        drawn = noise.draw(observation["latent"].shape)
        actions = policy.act(observation, noise=drawn).actions
        observation, rewards, _, _, infos = env.step(actions)
    images = infos["final_info"]["image"].numpy().reshape(2, 2, 64, 64, 3)
    np.testing.assert_array_equal(after.images[:2], images)
    np.testing.assert_array_equal(after.rewards[:2], rewards.reshape(2, 2))


@pytest.mark.parametrize(("lora_rank", "noisy_end"), [(0, True), (2, True), (0, False)])
@torch.no_grad()
def test_kl_to_base_by_hand(
    env: Any, monitor: ImageMetrics, lora_rank: int, noisy_end: bool
) -> None:
    agent = make_agent(policy_kwargs={"lora_rank": lora_rank})
    disturb(agent)
    base = env.unwrapped
    scheduler = DDIMScheduler.from_config(base.model.scheduler.config, set_alpha_to_one=True)
    if not noisy_end:  # the same timesteps, but the last step adds no noise
        agent.policy.schedule = DDIMSchedule.from_scheduler(scheduler, STEPS)
    schedule = agent.policy.schedule
    noisy = [0, 1, 2] if noisy_end else [0, 1]
    assert schedule.stochastic.nonzero().flatten().tolist() == noisy
    result = evaluate(agent.policy, env, samples=2, prompts=2, seed=1, image_metrics=monitor)

    denoiser = base.model.new_denoiser()
    noise = Noise(("a cat", 0), ("a cat", 1), ("a bird", 0), ("a bird", 1))
    options = {"prompt_ids": np.array([0, 0, 2, 2])}
    observation, _ = env.reset(seed=noise.seeds, options=options)
    expected = torch.zeros(4)
    for index in noisy:
        latents, embedding = observation["latent"], PromptEmbedding.observed(observation)
        outputs = [
            network(latents, schedule.timesteps[index].expand(4), embedding)
            for network in (agent.policy.denoiser, denoiser)
        ]
        own, other = (schedule.transition(output, latents, index) for output in outputs)
        distance = (own.mean - other.mean) / schedule.std[index]
        expected += distance.square().mean((1, 2, 3)) / 2 / len(noisy)
        drawn = noise.draw(latents.shape)
        observation = env.step(agent.policy.act(observation, noise=drawn).actions)[0]
    assert (expected > 1e-5).all()
    np.testing.assert_allclose(result.metrics["kl_to_base"], expected[[0, 2]], rtol=1e-3)


def test_without_noise_there_is_no_divergence(monitor: ImageMetrics) -> None:
    env = make_env(4, eta=0.0)
    agent = make_agent()
    agent.policy.schedule = env.unwrapped.schedule
    result = evaluate(agent.policy, env, samples=2, prompts=1, seed=1, image_metrics=monitor)
    assert set(result.metrics) == {"diversity/clip", "diversity/structure"}


def test_the_untrained_policy_is_the_base(before: Evaluation, after: Evaluation) -> None:
    assert before.metrics["kl_to_base"].shape == (3,)
    assert (before.metrics["kl_to_base"] < 1e-9).all()
    assert (after.metrics["kl_to_base"] > 1e-5).all()


def test_other_rewards_score_the_very_same_images(before: Evaluation) -> None:
    assert set(before.other_rewards) == {"clip_score", "scene_alignment", "house_style"}
    images = torch.from_numpy(before.images).flatten(0, 1).permute(0, 3, 1, 2) / 255
    prompts = [prompt for prompt in before.prompts for _ in range(2)]
    for name, values in before.other_rewards.items():
        expected = make_reward(name)(images, prompts).values.reshape(3, 2)
        np.testing.assert_allclose(values, expected, atol=1e-5)
    assert before.left_out == {}


def test_other_rewards_are_what_the_environment_would_have_given(
    before: Evaluation, monitor: ImageMetrics
) -> None:
    scores, _ = ImageMetrics([make_reward("jpeg_compressibility")], monitor.embed_images).scores(
        before.images, before.prompts
    )
    np.testing.assert_array_equal(scores["jpeg_compressibility"], before.rewards)
    env = make_env(4, reward="clip_score", prompts=before.prompts)
    clip = evaluate(make_agent().policy, env, **COUNTS)
    np.testing.assert_allclose(before.other_rewards["clip_score"], clip.rewards, atol=5e-3)


def test_diversity_of_a_collapsed_model_is_zero(before: Evaluation, monitor: ImageMetrics) -> None:
    assert all((before.metrics[f"diversity/{kind}"] > 0.01).all() for kind in ("clip", "structure"))
    collapsed = np.repeat(before.images[:, :1], 2, axis=1)
    for values in monitor.diversity(collapsed).values():
        np.testing.assert_allclose(values, 0, atol=1e-6)
    assert monitor.diversity(before.images[:, :1]) == {}


def test_a_reward_that_cannot_read_the_prompts_is_left_out(monitor: ImageMetrics) -> None:
    images = np.zeros((1, 2, 64, 64, 3), np.uint8)
    scores, left_out = monitor.scores(images, ["my neighbour's unicycle"])
    assert set(scores) == {"clip_score"}
    assert set(left_out) == {"scene_alignment", "house_style"}
    assert "unicycle" in left_out["house_style"]


def test_the_trained_reward_is_always_shown(env: Any) -> None:
    def names(given: list[str] | None = None, trained_on: str = TRAINED_ON) -> list[str]:
        metrics = make_image_metrics(env, given, trained_on)
        return [reward.name for reward in metrics.rewards]

    # Not the one that the environment scores in any case.
    assert names() == ["clip_score", "scene_alignment", "house_style"]
    assert names(["jpeg_incompressibility"]) == ["jpeg_incompressibility"]
    assert names(["clip_score"], "scene_alignment") == ["scene_alignment", "clip_score"]
    with pytest.raises(InvalidInputError, match="unknown reward 'beauty'"):
        names(["beauty"])


def test_saving_and_loading(before: Evaluation, tmp_path: Path) -> None:
    file = tmp_path / "before.npz"
    saved = dataclasses.replace(before, left_out={"beauty": "no eye: 'a cat'"})
    save_evaluation(saved, file)
    loaded = load_evaluation(file)
    assert list(tmp_path.iterdir()) == [file]
    assert (loaded.prompts, loaded.left_out) == (saved.prompts, saved.left_out)
    np.testing.assert_array_equal(loaded.images, saved.images)
    np.testing.assert_array_equal(loaded.rewards, saved.rewards)
    for group in ("terms", "other_rewards", "metrics"):
        was, now = getattr(saved, group), getattr(loaded, group)
        assert was
        assert list(was) == list(now)
        for name in was:
            np.testing.assert_array_equal(was[name], now[name])


def test_the_report_shows_what_was_other_rewards(before: Evaluation, after: Evaluation) -> None:
    after = dataclasses.replace(after, left_out={"beauty": "no eye [red]"})
    console = Console(width=100, record=True, file=io.StringIO())
    print_comparison(console, before, after, "jpeg_compressibility", "title")
    text = console.export_text()
    assert text.index("size_kb") < text.index("other rewards") < text.index("clip_score")
    difference = paired_difference(
        before.other_rewards["clip_score"], after.other_rewards["clip_score"]
    )
    line = next(line for line in text.splitlines() if "clip_score" in line)
    assert f"{before.other_rewards['clip_score'].mean():.3f}" in line
    assert str(difference) in line
    assert "beauty left out: it cannot read these prompts (no eye [red])" in text
    figures = comparison(before, after)
    assert figures["other_rewards"]["clip_score"]["difference"][1] == difference.mean
    assert set(figures["metrics"]) == {"diversity/clip", "diversity/structure", "kl_to_base"}
    low, middle, high = figures["metrics"]["kl_to_base"]["difference"]
    assert 0 < low < middle < high


def test_scalars_for_logs(after: Evaluation) -> None:
    scalars = after.scalars()
    assert scalars["reward"] == after.rewards.mean()
    assert scalars["other_rewards/house_style"] == after.other_rewards["house_style"].mean()
    assert scalars["kl_to_base"] == after.metrics["kl_to_base"].mean()
    assert all(np.isfinite(value) for value in scalars.values())


def test_paired_difference_is_the_t_test_over_prompts() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 12, 4))
    result = paired_difference(before, after)
    test = stats.ttest_rel(after.mean(1), before.mean(1)).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((test.low, test.high))
    assert result.mean == pytest.approx((after - before).mean())
    assert str(result) == f"{result.mean:+.3f} [{result.low:+.3f}, {result.high:+.3f}]"
    assert paired_difference(before.mean(1), after.mean(1)).low == pytest.approx(result.low)


@pytest.mark.filterwarnings("error")
def test_what_could_not_be_measured_is_left_out() -> None:
    before, after = np.zeros((3, 2)), np.ones((3, 2))
    after[0] = np.nan, 4.0
    assert paired_difference(before, after).mean == 2.0
    after[0] = np.nan  # a whole prompt, as for a fact that its caption does not state
    after[1] = 3.0
    assert paired_difference(before, after).mean == 2.0
    assert mean(after) == 2.0
    nothing = np.full((3, 2), np.nan)
    assert np.isnan(mean(nothing))
    assert np.isnan(paired_difference(before, nothing).mean)
    unscored = Evaluation(["a", "b", "c"], nothing, {}, np.zeros(0), {"r": nothing})
    assert comparison(unscored, unscored)["other_rewards"]["r"]["before"] is None


def test_what_could_be_computed_is_reported(capsys: Any) -> None:
    """One batch fails altogether, and with it its terms; then everything."""
    good, failed = np.array([[1.0, 2.0], [3.0, 4.0]]), np.full((2, 2), np.nan)
    images = np.zeros((2, 2, 8, 8, 3), np.uint8)
    before = Evaluation(["a", "b"], good, {"size": good}, images)
    half = np.array([[1.0, 2.0], [np.nan, np.nan]])
    for rewards, terms, words in (
        (half, {"size": half}, "after: the reward could not be computed for 2 of 4 images"),
        (failed, {}, "after: the reward could not be computed for 4 of 4 images"),
    ):
        after = Evaluation(["a", "b"], rewards, terms, images)
        console = Console(width=100, record=True, file=io.StringIO())
        print_comparison(console, before, after, "reward", "title")
        text = console.export_text()
        assert words in text
        assert "before: the reward" not in text
        assert "size" in text
    assert before.failures() is None


ONE = "+1.000 (one value: no interval)"


@pytest.mark.filterwarnings("error")
def test_one_prompt_has_no_interval() -> None:
    """As scipy has it: no spread can be told from one value."""
    for before, after in (
        (np.zeros((1, 2)), np.ones((1, 2))),
        (np.zeros(1), np.ones(1)),
        (np.array([[0.0], [np.nan]]), np.array([[1.0], [2.0]])),  # one of two could be measured
    ):
        result = paired_difference(before, after)
        assert result.mean == 1.0
        assert np.isnan([result.low, result.high]).all()
        assert str(result) == ONE
    console = Console(width=100, record=True, file=io.StringIO())
    single = Evaluation(["a"], np.zeros((1, 2)), {}, np.zeros((1, 2, 8, 8, 3), np.uint8))
    print_comparison(console, single, dataclasses.replace(single, rewards=np.ones((1, 2))), "r", "")
    assert ONE in console.export_text()
    found = figures(single, dataclasses.replace(single, rewards=np.ones((1, 2))), "r")
    expected = {"reward": "r", "before": 0.0, "after": 1.0, "difference": [None, 1.0, None]}
    assert json.loads(json.dumps(found, allow_nan=False)).items() >= expected.items()
    assert str(paired_difference(np.full(3, np.nan), np.ones(3))) == "not measured"


@pytest.mark.filterwarnings("error")
def test_several_prompts_that_change_alike_have_an_interval_of_no_width() -> None:
    result = paired_difference(np.zeros((3, 2)), np.ones((3, 2)))
    assert (result.low, result.mean, result.high) == (1.0, 1.0, 1.0)
    nearly = paired_difference(np.zeros(3), np.array([0.1 + 0.2, 0.3, 0.3]))
    assert 0 < nearly.high - nearly.low < 1e-15


@given(
    before=arrays.arrays(np.float64, (5, 3), elements=st.floats(-5, 5)),
    after=arrays.arrays(np.float64, (5, 3), elements=st.floats(-5, 5)),
)
def test_the_interval_is_scipys(before: Any, after: Any) -> None:
    result = paired_difference(before, after)
    spread = np.ptp((after - before).mean(1))
    assume(spread == 0 or spread > 1e-6)
    if spread == 0:
        assert result.low == pytest.approx(result.mean, abs=1e-12)
        assert result.high == pytest.approx(result.mean, abs=1e-12)
    else:
        test = stats.ttest_rel(after.mean(1), before.mean(1)).confidence_interval(0.95)
        assert (result.low, result.high) == pytest.approx((test.low, test.high), abs=1e-9)


# ------------------------------------------------------------------ noise belongs to the image

TEXTS = ["a cat", "a dog", "a bird", "a fox", "a fish"]


def drawn(texts: list[str], num_envs: int, samples: int = 2, **kwargs: Any) -> Evaluation:
    env = make_env(num_envs, prompts=texts, **kwargs)
    return evaluate(
        make_agent(env, samples_per_prompt=1, advantage="prompt").policy,
        env,
        **ALL | {"samples": samples},
    )


ALL = {"samples": 2, "prompts": 99, "seed": 3}


@pytest.fixture(scope="module")
def eight() -> Evaluation:
    return drawn(TEXTS, 8)


def assert_same(first: Any, second: Any) -> None:
    """Pictures that differ in the rounding of kernels for other batch shapes, at most."""
    difference = np.abs(first.images.astype(int) - second.images.astype(int))
    assert difference.max() <= 2
    np.testing.assert_allclose(first.rewards, second.rewards, atol=5e-3)  # a JPEG's size in kB


@pytest.mark.parametrize("num_envs", [1, 2, 3, 4])
def test_any_batch_size_draws_the_same_pictures(num_envs: int, eight: Evaluation) -> None:
    assert_same(drawn(TEXTS, num_envs), eight)


def test_other_prompts_and_more_images_change_no_picture(eight: Evaluation) -> None:
    chosen = [3, 0]  # another order, and company that is missing
    few = drawn([TEXTS[i] for i in chosen], 4)
    part = {"images": eight.images[chosen], "rewards": eight.rewards[chosen]}
    assert_same(few, dataclasses.replace(eight, **part))
    more = drawn(TEXTS, 8, samples=3)
    assert_same(
        dataclasses.replace(more, images=more.images[:, :2], rewards=more.rewards[:, :2]), eight
    )


def test_images_differ_by_seed_prompt_and_number(eight: Evaluation) -> None:
    flat = eight.images.reshape(10, -1)
    assert len({image.tobytes() for image in flat}) == 10
    env = make_env(8, prompts=TEXTS)
    other = evaluate(make_agent(env).policy, env, **ALL | {"seed": 4})
    assert (other.images != eight.images).any((2, 3, 4)).all()


def watched(act: Any, base: Any, seen: dict[str, bytes]) -> Any:
    """A policy's ``act`` that remembers each image's first latent and its first step's noise."""

    def remembering(observation: Any, noise: Any) -> Any:
        state = base.get_state()
        for row, text in enumerate(state.prompts):
            if state.step_index[row] == 0:
                both = observation["latent"][row], noise[row]
                seen[text] = b"".join(part.numpy().tobytes() for part in both)
        return act(observation, noise=noise)

    return remembering


def test_the_initial_noise_is_exactly_the_images_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[int, dict[str, bytes]] = {}
    for num_envs in (1, 2, 4):
        env = make_env(num_envs, prompts=TEXTS)
        policy = make_agent(env, samples_per_prompt=1, advantage="prompt").policy
        seen: dict[str, bytes] = {}
        act = policy.act

        def watched(
            observation: Any, noise: Any, act: Any = act, seen: Any = seen, env: Any = env
        ) -> Any:
            state = env.unwrapped.get_state()
            for row, text in enumerate(state.prompts):
                if state.step_index[row] == 0:
                    both = observation["latent"][row], noise[row]
                    seen[text] = b"".join(part.numpy().tobytes() for part in both)
            return act(observation, noise=noise)

        monkeypatch.setattr(policy, "act", watched)
        evaluate(policy, env, samples=1, prompts=99, seed=0)
        found[num_envs] = seen
    assert found[1] == found[2] == found[4]
    assert len(set(found[1].values())) == len(TEXTS)


def test_a_policy_of_another_model_is_refused(sd1_folder: Path) -> None:
    env = make_env(2, model=str(sd1_folder), prompts=["a cat"])
    with pytest.raises(
        InvalidInputError, match=r"the policy draws for the model 'emoji-64' .*/sd1'"
    ):
        evaluate(make_agent().policy, env, **ALL)


# ------------------------------------------------------------------ rewards of others


class Named:
    """A reward whose terms have the names of other things; it fails for the prompts named."""

    name, version = "named", "1"

    def __init__(self, failing: tuple[str, ...] = ()) -> None:
        self.failing = failing

    def __call__(self, images: torch.Tensor, prompts: Any) -> RewardResult:
        if any(prompt in self.failing for prompt in prompts):
            raise RuntimeError("no score")
        values = images.mean((1, 2, 3)).cpu()
        terms = {"reward": values + 100, "image": values + 200, "kl_to_base": values + 300}
        return RewardResult(values, torch.ones(len(values), dtype=torch.bool), terms)


def evaluated_with(reward: Any, num_envs: int = 2) -> Evaluation:
    env = make_env(num_envs, prompts=TEXTS[:3])
    env.unwrapped.reward_function = reward
    score(reward, torch.rand(1, 3, 8, 8), ["another"])  # one that never answered is an error
    return evaluate(make_agent(env).policy, env, **ALL)


def test_terms_may_have_any_name() -> None:
    result = evaluated_with(Named())
    assert list(result.terms) == ["reward", "image", "kl_to_base"]
    for shift, name in enumerate(result.terms, 1):
        np.testing.assert_allclose(result.terms[name], result.rewards + 100 * shift, rtol=1e-5)
    assert result.images.dtype == np.uint8
    np.testing.assert_allclose(result.rewards, result.images.mean((2, 3, 4)) / 255, atol=0.01)


@pytest.mark.filterwarnings("ignore:reward 'named' raised")
@pytest.mark.parametrize("failing", [("a dog",), ("a dog", "a bird")])
def test_a_batch_without_any_score_costs_its_own_figures(failing: tuple[str, ...]) -> None:
    """Batches are of one prompt here: all images of one cannot be scored.

    A reward that fails for the very first batch is raised, and no evaluation begins.
    """
    whole, result = evaluated_with(Named()), evaluated_with(Named(failing))
    scored = [text not in failing for text in result.prompts]
    np.testing.assert_array_equal(result.images, whole.images)
    np.testing.assert_array_equal(result.rewards[scored], whole.rewards[scored])
    assert np.isnan(result.rewards[~np.array(scored)]).all()
    assert set(result.terms) == set(whole.terms)
    for name, values in result.terms.items():
        np.testing.assert_array_equal(values[scored], whole.terms[name][scored])
        assert np.isnan(values[~np.array(scored)]).all()
    assert result.failures() == (
        f"the reward could not be computed for {2 * scored.count(False)} of 6 images"
    )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_reference_policy_is_evaluated_as_the_untrained_agent_is(guidance: float) -> None:
    """From the same noise the same pictures, and no divergence from itself."""
    env = make_env(4, prompts=["a cat", "a dog", "a bird"])
    watched = make_image_metrics(env)
    reference = reference_policy(env, guidance)
    results = [
        evaluate(policy, env, **COUNTS, image_metrics=watched)
        for policy in (make_agent(policy_kwargs={"guidance": guidance}).policy, reference)
    ]
    agents, references = results
    assert np.abs(agents.images.astype(int) - references.images).max() <= 1
    np.testing.assert_allclose(agents.rewards, references.rewards, atol=0.02)
    assert (references.metrics["kl_to_base"] == 0).all()
    assert references.prompts == agents.prompts


def test_diversity_by_a_clip_of_ones_own(env: Any, before: Evaluation, tmp_path: Path) -> None:
    """Its distances are those of that CLIP's embeddings, by transformers' own model."""
    folder = tmp_path / "clip"
    shutil.copytree(emoji64_folder() / "clip", folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"].flip(0) ** 3
    save_file(tensors, file, metadata={"format": "pt"})
    own = make_image_metrics(env, diversity_clip=str(folder))
    found = own.diversity(before.images)["diversity/clip"]
    assert np.abs(found - before.metrics["diversity/clip"]).min() > 1e-3

    model = CLIPModel.from_pretrained(folder)
    size = model.config.vision_config.image_size
    pixels = torch.from_numpy(before.images).flatten(0, 1).permute(0, 3, 1, 2) / 255
    assert pixels.shape[-1] == size
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=2 * pixels - 1).pooler_output
        embedded = model.visual_projection(pooled).view(*before.images.shape[:2], -1)
    cosine = torch.cosine_similarity(embedded[:, 0], embedded[:, 1], dim=1)
    np.testing.assert_allclose(found, 1 - cosine, atol=1e-4)
    with pytest.raises(ModelLoadError, match=r"diversity_clip needs config.json, looked for at"):
        make_image_metrics(env, diversity_clip="no-such-folder")
