"""Negative prompts of single prompts, in training, evaluation, checkpoints, runs and pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_agents import make_agent, make_env, weights

from agents import evaluate as evaluate_command
from agents import sample, train
from agents.common import load_policy, save_checkpoint
from agents.evaluation import evaluate
from agents.ppo import DiffusionPPO
from agents.runs.builders import base_policy
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import load_model

PAIRS = {"a cat": "a dog on a white background", "a dog": "a red circle", "a bird": ""}
PROMPTS = [{"prompt": prompt, "negative_prompt": negative} for prompt, negative in PAIRS.items()]
GUIDED: dict[str, Any] = {"policy_kwargs": {"guidance": 3.0}, "batch_size": 12}
COUNTS: dict[str, Any] = {"samples": 2, "prompts": 3, "seed": 1}


def test_before_the_first_update_every_ratio_is_one() -> None:
    """The update is guided away from what the rollout was guided away from."""
    agent = make_agent(make_env(prompts=PROMPTS), updates_per_round=1, n_epochs=2, **GUIDED)
    agent.learn(4)
    recorded = agent.logger.name_to_value
    assert agent.log_probs_recomputed == 0
    assert recorded["train/initial_ratio_deviation"] < 1e-5


def test_one_prompt_at_a_time_gives_what_a_models_negative_prompt_gives() -> None:
    together = evaluate(
        make_agent(make_env(prompts=PROMPTS), **GUIDED).policy, make_env(prompts=PROMPTS), **COUNTS
    )
    plain = evaluate(make_agent(**GUIDED).policy, make_env(prompts=list(PAIRS)), **COUNTS)
    for number, (prompt, negative) in enumerate(PAIRS.items()):
        options = {"model_options": {"negative_prompt": negative}} if negative else {}
        env = make_env(prompts=[prompt], **options)
        alone = evaluate(make_agent(env, **GUIDED, samples_per_prompt=4).policy, env, **COUNTS)
        difference = np.abs(alone.images[0].astype(int) - together.images[number])
        assert difference.max() <= 2
        changed = np.abs(plain.images[number].astype(int) - together.images[number]).max()
        assert (changed > 10) == bool(negative)


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = make_agent(make_env(prompts=PROMPTS), **GUIDED)
    whole.learn(8)
    first = make_agent(make_env(prompts=PROMPTS), **GUIDED)
    first.learn(4)
    save_checkpoint(first, tmp_path / "saved")
    resumed = DiffusionPPO.resume(tmp_path / "saved", make_env(prompts=PROMPTS))
    resumed.learn(4, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(whole))
    plain = make_agent(make_env(prompts=list(PAIRS)), **GUIDED)
    plain.learn(8)
    assert not torch.equal(weights(plain), weights(whole))


def test_a_loaded_policy_predicts_from_such_observations(tmp_path: Path) -> None:
    agent = make_agent(make_env(prompts=PROMPTS), **GUIDED)
    observation, _ = agent.base_env.reset(seed=0)
    save_checkpoint(agent, tmp_path / "saved")
    policy = load_policy(tmp_path / "saved", device="cpu")
    arrays = {name: part.numpy() for name, part in observation.items()}
    policy.generator.manual_seed(0)
    agent.policy.generator.manual_seed(0)
    for deterministic in (False, True):
        ours, theirs = (
            p.predict(arrays, deterministic=deterministic)[0] for p in (policy, agent.policy)
        )
        np.testing.assert_array_equal(ours, theirs)


def test_without_guidance_they_are_refused() -> None:
    message = "guidance other than 1 for prompts that have negative prompts"
    with pytest.raises(InvalidInputError, match=message):
        make_agent(make_env(prompts=PROMPTS))
    policy = make_agent().policy
    with pytest.raises(InvalidInputError, match=message):
        evaluate(policy, make_env(prompts=PROMPTS), **COUNTS)


@pytest.mark.parametrize("freed", [False, True])
def test_text_encoders_may_be_freed(freed: bool) -> None:
    env = make_env(prompts=PROMPTS, model_options={"free_text_encoders": freed})
    embedding = env.prompt_embedding([1, 2, 0])
    model = load_model()
    assert embedding.negative is not None
    expected = [model.encode_negative([PAIRS["a dog"]]), model.null_embedding]
    for row, one in enumerate(expected):
        assert torch.equal(embedding.negative.tokens[row : row + 1], one.tokens)
    # A prompt met later has none of its own.
    if not freed:
        observation, _ = env.reset(options={"prompts": ["a gnu", "a cat", "a gnu", "a dog"]})
        negative = observation["negative_prompt_embedding"]
        assert torch.equal(negative[:1], model.null_embedding.tokens)
        assert not torch.equal(negative[:1], negative[1:2])


@pytest.mark.slow
def test_a_run_records_resumes_evaluates_and_draws_with_them(tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,negative_prompt\na cat,a dog\na dog,a cat\n")
    quick = (
        "--num-envs 4 --samples-per-prompt 2 --num-inference-steps 2 --eval-prompts 2 "
        "--eval-samples 1 --lora-rank 2 --reward jpeg_compressibility --guidance 3"
    ).split()
    run = str(tmp_path / "run")
    arguments = [*quick, "--prompts", str(file), "--output", run]
    assert train.main([*arguments, "--images", "4"]) == 0
    assert train.main(["--resume", run, "--images", "8"]) == 0
    assert evaluate_command.main([run, "--samples", "1", "--json", str(tmp_path / "e.json")]) == 0
    drift = json.loads((tmp_path / "e.json").read_text())["metrics"]["kl_to_base"]
    assert drift["before"] < 1e-6 < drift["after"]

    # Other negative prompts are another run.
    file.write_text("prompt,negative_prompt\na cat,a dog\na dog,\n")
    with pytest.raises(InvalidInputError, match="prompts_sha256"):
        train.main(["--resume", run, "--images", "12"])

    pictures = []
    for extra in ([], ["a dog"], ["a dog", "a cat"]):
        negatives = [word for text in extra for word in ("--negative-prompt", text)]
        output = str(tmp_path / f"{len(extra)}.png")
        prompts = ["--prompt", "a cat", "--prompt", "a dog"]
        assert sample.main([run, *prompts, *negatives, "--samples", "1", "--output", output]) == 0
        with Image.open(output) as picture:
            pictures.append(np.asarray(picture).astype(int))
    upper = [picture[: len(picture) // 2] for picture in pictures]
    lower = [picture[len(picture) // 2 :] for picture in pictures]
    assert np.abs(upper[0] - upper[1]).max() > 10
    assert np.abs(upper[1] - upper[2]).max() <= 2
    assert np.abs(lower[1] - lower[2]).max() > 10
    with pytest.raises(InvalidInputError, match=r"one for each of 1 prompts, got 2"):
        sample.main([run, "--prompt", "a cat", *negatives])


def test_the_base_policy_reads_them_as_well() -> None:
    agent = make_agent(make_env(prompts=PROMPTS), **GUIDED)
    policies = (agent.policy, base_policy(agent.policy))
    images = [evaluate(each, make_env(prompts=PROMPTS), **COUNTS).images for each in policies]
    np.testing.assert_array_equal(*images)
