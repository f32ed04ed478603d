"""Published recipes: their numbers, and runs of them at toy scale."""

import json
import re
import tomllib
import typing
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from agents import train
from agents.common.checkpoint import load_policy
from agents.common.checkpoint_folder import read_checkpoint
from agents.runs.builders import base_env, make_env
from agents.runs.methods import RunLength, ShapingConfig, shape_rewards
from agents.runs.presets import FOLDER, preset_names
from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.prompts import load_prompts
from diffusion_gym.wrappers import CoCAReward
from diffusion_gym.wrappers.b2 import trained_steps

# Written from the papers and their released code, not from the files.
EVERY = {
    "model": "CompVis/stable-diffusion-v1-4",
    "dtype": "float16",
    "eta": 1.0,
    "guidance": 5.0,
    "lora_rank": 4,
    "max_grad_norm": 1.0,
}
TRACKED = {
    "num_inference_steps": 50,
    "advantage": "prompt",
    "statistics_min_count": 16,
    "n_epochs": 1,
}
DDPO = EVERY | TRACKED | {"shaping": "sparse", "learning_rate": 3e-4, "clip_range": 1e-4}
COCA = EVERY | TRACKED | {"shaping": "coca", "standardise_steps": "center", "learning_rate": 1e-4}
B2 = EVERY | {
    "num_inference_steps": 20,
    "shaping": "b2",
    "b2_start": 14,
    "samples_per_prompt": 5,
    "n_epochs": 2,
    "learning_rate": 1e-4,
    "clip_range": 0.1,
    "reward": "clip_score",
    "reward_options": {
        "clip_score": {"architecture": "ViT-H-14", "pretrained": "laion2b_s32b_b79k"}
    },
}

# Method, reward, prompts, rounds, images a round, updates a pass, buffer of rewards, clip range.
TABLE: dict[str, tuple[dict[str, Any], str, str, int, int, int, int, float]] = {
    "ddpo-compressibility": (
        DDPO,
        "jpeg_compressibility",
        "imagenet-animals",
        100,
        256,
        4,
        16,
        1e-4,
    ),
    "ddpo-incompressibility": (
        *(DDPO, "jpeg_incompressibility", "imagenet-animals", 100, 256, 4, 16, 1e-4),
    ),
    "ddpo-aesthetic": (DDPO, "aesthetic", "animals", 200, 256, 2, 32, 1e-4),
    "coca-aesthetic": (COCA, "aesthetic", "animals", 100, 256, 100, 32, 5e-5),
    "coca-pickscore": (COCA, "pickscore", "animals", 100, 256, 4, 32, 1e-4),
    "coca-imagereward": (COCA, "imagereward", "animals", 100, 256, 4, 32, 1e-4),
    "coca-hpsv2": (COCA, "hpsv2", "animals", 100, 256, 4, 32, 1e-4),
    "b2-activities": (B2, "clip_score", "b2-activities", 100, 5 * 256, 3, 32, 0.1),
    "b2-colours": (B2, "clip_score", "b2-colours", 100, 5 * 256, 3, 32, 0.1),
    "b2-relations": (B2, "clip_score", "b2-relations", 100, 5 * 256, 3, 32, 0.1),
}

TINY = (
    "--model emoji-64 --dtype float32 --autocast float32 --num-inference-steps 3 --eval-prompts 2 "
    "--eval-samples 1 --batches-per-round 2"
).split()


OWN = ("noise-aware-sd15", "noise-aware-sd3")


def test_every_preset_has_its_row() -> None:
    # test_algorithms.py has the last.
    assert preset_names() == sorted([*TABLE, *OWN, "nft-pickscore"])


@pytest.mark.parametrize("name", TABLE)
def test_presets_have_the_published_numbers(name: str) -> None:
    method, reward, prompts, rounds, images, updates, buffer, clip = TABLE[name]
    settings = TrainSettings.of(preset=name)
    flat = settings.flat()
    expected = method | {"clip_range": clip, "reward": reward, "prompts": prompts}
    assert {key: flat[key] for key in expected} == expected
    assert (settings.rounds, settings.run.images) == (rounds, rounds * images)
    assert settings.run.num_envs * settings.ppo.batches_per_round == images
    assert settings.run.num_envs % settings.ppo.samples_per_prompt == 0
    assert settings.ppo.updates_per_round == updates
    if settings.ppo.advantage == "prompt":
        assert settings.ppo.samples_per_prompt == 1
        assert settings.ppo.statistics_buffer_size == buffer
    assert len(load_prompts(prompts)) in (398, 45, 40)


def test_presets_say_where_their_numbers_come_from() -> None:
    for name in preset_names():
        text = (FOLDER / f"{name}.toml").read_text()
        assert "arXiv 2" in text
        told = "NOT YET RUN ON REAL WEIGHTS" if name in OWN else "What is not expressed exactly"
        assert told in text
        values = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
        assert len(values) == len(tomllib.loads(text))
        silent = [line for line in values if "  # " not in line]
        assert all(line.startswith("reward_options") for line in silent), silent


@pytest.mark.parametrize(
    ("name", "published", "changed"),
    [
        (
            "noise-aware-sd15",
            "ddpo-compressibility",
            {"shaping", "samples_per_prompt", "advantage", "learning_rate"},
        ),
        ("noise-aware-sd3", None, set()),
    ],
)
def test_own_presets_differ_where_they_say_so(
    name: str, published: str | None, changed: set[str]
) -> None:
    settings = TrainSettings.of(preset=name)
    assert settings.shaping.shaping == "noise-aware"
    assert settings.run.num_envs % settings.ppo.samples_per_prompt == 0
    assert settings.rounds == 100
    if published is not None:
        theirs = TrainSettings.of(preset=published).flat()
        unused = {"preset", "statistics_buffer_size", "statistics_min_count"}
        own = settings.flat()
        assert {key for key in own if own[key] != theirs[key]} - unused == changed


@pytest.mark.slow
def test_noise_aware_at_toy_scale(sd1_folder: Path, sd3_folder: Path, tmp_path: Path) -> None:
    """Both presets on small models of the very architectures, but for what makes them large."""
    small = "--images 8 --num-envs 4 --batches-per-round 2 --samples-per-prompt 2".split()
    few = "--eval-prompts 2 --eval-samples 1 --reward jpeg_compressibility".split()
    steps = {"sd15": ["--num-inference-steps", "6"], "sd3": ["--model-options", "{}"]}
    for name, model in (("sd15", sd1_folder), ("sd3", sd3_folder)):
        run = tmp_path / name
        preset = ["--preset", f"noise-aware-{name}", "--model", str(model), *steps[name]]
        assert train.main([*preset, *small, *few, "--output", str(run)]) == 0
        (row,) = RunFolder(run).metrics()
        shares = [v for k, v in row.items() if k.startswith("credit/step_")]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert len(set(shares)) > 1
        assert row["train/gradient_norm"] > 0


def test_b2_trains_the_released_steps_in_every_round() -> None:
    env = make_env(TrainSettings.of(num_envs=10, num_inference_steps=20))
    settings = TrainSettings.of(preset="b2-relations")
    shaped: Any = shape_rewards(env, settings.shaping, settings.length)
    assert shaped.branches == 5
    assert (shaped.positive, shaped.negative) == (0.5, -0.5)
    for stage in range(100):
        first_batch = stage * settings.ppo.batches_per_round
        assert trained_steps(first_batch, shaped.stages, shaped.start, 20) == 14 + 7 * stage // 100
    assert trained_steps(0, 800, 14, 20) == 14
    unset: Any = shape_rewards(env, ShapingConfig("b2"), RunLength(rounds=3))
    assert (unset.start, unset.stages) == (14, 3)


def test_coca_has_windows_of_five_steps() -> None:
    env = make_env(TrainSettings.of(num_envs=1, num_inference_steps=50))
    shaped = shape_rewards(env, ShapingConfig("coca"), RunLength(rounds=100))
    assert isinstance(shaped, CoCAReward)
    assert (shaped.window, shaped.windows, shaped.alpha) == (5, 10, 0)


def test_ddpo_on_a_small_stable_diffusion_in_its_own_precision(
    sd1_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    preset = ["--preset", "ddpo-compressibility", "--model", str(sd1_folder)]
    counts = "--images 8 --num-envs 4 --batches-per-round 2 --num-inference-steps 3".split()
    few = "--eval-prompts 2 --eval-samples 1 --statistics-min-count 2".split()
    assert train.main([*preset, *counts, *few, "--output", str(folder)]) == 0
    run = RunFolder(folder)
    settings = run.settings
    assert settings.run.preset == "ddpo-compressibility"
    assert settings.ppo.learning_rate == 3e-4
    assert (settings.policy.guidance, settings.policy.lora_rank) == (5.0, 4)
    assert (settings.env.dtype, settings.run.images) == ("float16", 8)
    (row,) = run.metrics()
    assert row["train/gradient_norm"] > 0
    arguments = read_checkpoint(run.checkpoint).agent["arguments"]
    assert (arguments["statistics_buffer_size"], arguments["statistics_min_count"]) == (16, 2)
    policy = load_policy(run.checkpoint)
    assert (policy.config.lora_rank, policy.precision.name) == (4, "float16")
    assert train.main(["--resume", str(folder)]) == 0
    assert run.settings == settings
    with pytest.raises(InvalidInputError, match=r"resumed run keeps its settings.*--preset"):
        train.main(["--resume", str(folder), "--preset", "ddpo-aesthetic"])


def test_coca_at_toy_scale(tmp_path: Path) -> None:
    preset = ["--preset", "coca-aesthetic", *TINY, "--reward", "jpeg_compressibility"]
    counts = ["--images", "8", "--num-envs", "4", "--updates-per-round", "2"]
    assert train.main([*preset, *counts, "--output", str(tmp_path / "run")]) == 0
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert row["train/clip_range"] == 5e-5
    assert row["train/n_updates"] == 2
    assert "rollout/wrong_signs" in row
    assert sum(v for k, v in row.items() if k.startswith("credit/step_")) == pytest.approx(1)


@pytest.mark.slow
def test_b2_at_toy_scale(tmp_path: Path) -> None:
    preset = ["--preset", "b2-relations", *TINY, "--reward", "jpeg_compressibility"]
    counts = ["--images", "20", "--num-envs", "10", "--b2-start", "2"]
    assert train.main([*preset, *counts, "--output", str(tmp_path / "run")]) == 0
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert row["train/clip_range"] == 0.1
    assert row["count/reward_queries"] == 2 * 10  # two batches of two roots, five branches each


def test_another_reward_drops_the_options_of_the_presets() -> None:
    options = {"preset": "coca-hpsv2"}
    assert TrainSettings.of(**options).env.reward_options == {"hpsv2": {"release": "v2.0"}}
    options["reward"] = "clip_score"
    assert TrainSettings.of(**options).env.reward_options is None
    own = {"clip_score": {"batch_size": 4}}
    assert TrainSettings.of(**options, reward_options=own).env.reward_options == own


def test_options_override_presets_in_any_order() -> None:
    for arguments in (
        ["--images", "512", "--preset", "b2-colours", "--lora-rank", "0"],
        ["--preset", "b2-colours", "--lora-rank", "0", "--images", "512"],
    ):
        settings = train.read_settings(arguments)
        assert (settings.run.images, settings.env.prompts) == (512, "b2-colours")
        assert (settings.ppo.clip_range, settings.policy.lora_rank) == (0.1, 0)


def test_standardisation_can_be_switched_off() -> None:
    options = {"preset": "coca-aesthetic", "shaping": "sparse"}
    control = TrainSettings.of(**options, standardise_steps="none")
    assert control.ppo.standardise_steps == "none"
    assert TrainSettings.of(shaping="coca").ppo.standardise_steps == "center"


def test_a_file_is_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'model = "some/where"\nlearning_rate = 1\nlora_targets = ["to_q"]\ncompile = true\n'
        '[model_options]\nvae_slicing = true\n[reward_options.clip_score]\nfolder = "clip"\n'
    )
    settings = TrainSettings.of(preset=str(file), seed=3)
    assert (settings.run.preset, settings.run.seed) == (str(file), 3)
    assert settings.ppo.learning_rate == 1
    assert settings.env.model_options == {"vae_slicing": True}
    assert settings.env.reward_options == {"clip_score": {"folder": "clip"}}
    assert settings.policy.lora_targets == ("to_q",)
    assert settings.policy.compile is True


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("images = ", "not valid TOML"),
        ("imges = 4", "unknown setting 'imges'; known: .*images"),
        ('images = "many"', "expected images to be a whole number of at least 1.*, got 'many'"),
        ("images = true", "expected images to be a whole number of at least 1.*, got True"),
        ("images = 0", "expected images to be a whole number of at least 1.*, got 0"),
        ("learning_rate = nan", "expected learning_rate to be a number.* above 0, got nan"),
        ("compile = 1", "expected compile to be True or False, got 1"),
        ("model_options = 3", "model_options to be a mapping from names to values or None, got 3"),
        ('lora_targets = "to_q"', "expected lora_targets to be a list"),
        ("images = " + "[" * 9000, "not valid TOML"),
        ('preset = "ddpo-aesthetic"', "unknown setting 'preset'"),
    ],
)
def test_bad_preset_files_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(InvalidInputError, match=reason) as error:
        TrainSettings.of(preset=str(file))
    assert str(file) in str(error.value)


def test_unknown_presets_list_the_known() -> None:
    known = "b2-activities, .*noise-aware-sd3, or the path of a .toml file"
    with pytest.raises(InvalidInputError, match=f"unknown preset 'ddpo'; known: {known}"):
        TrainSettings.of(preset="ddpo")
    with pytest.raises(InvalidInputError, match=r"nowhere\.toml does not exist"):
        TrainSettings.of(preset="nowhere.toml")
    for nowhere in ("~nobody-here/x.toml", "x" * 5000 + ".toml"):
        with pytest.raises(InvalidInputError, match="cannot be read as a path"):
            TrainSettings.of(preset=nowhere)


def test_help_lists_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = "".join(capsys.readouterr().out.split())
    for name in preset_names():
        assert name in text


def test_nested_settings_survive_the_run_folder(tmp_path: Path) -> None:
    given = [
        *("--model-options", '{"vae_slicing": true, "variant": "fp16"}'),
        *("--reward-options", '{"clip_score": {"sizes": [1, 2]}}'),
        *("--lora-targets", "to_q, to_k", "--gradient-checkpointing", "--optimizer", "adamw_fused"),
        *("--sampler", "ddim", "--output", str(tmp_path / "run")),
    ]
    settings = train.read_settings(given)
    assert settings.env.model_options == {"vae_slicing": True, "variant": "fp16"}
    assert settings.policy.lora_targets == ("to_q", "to_k")
    run = RunFolder.create(settings)
    assert run.settings == settings
    assert run.settings.env.reward_options == {"clip_score": {"sizes": [1, 2]}}
    assert run.settings.policy.gradient_checkpointing is True
    assert run.settings.env.sampler == "ddim"
    assert json.loads(run.settings_file.read_text())["lora_targets"] == ["to_q", "to_k"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model-options", "{"], "parsing --model-options: expected model_options as JSON"),
        (["--model-options", "{" * 9000], "parsing --model-options: expected model_options as"),
        (["--reward-options", "[1]"], "reward_options to be a mapping .*got \\[1\\]"),
        (["--lora-targets", "to_q,,"], "names with commas between"),
        (["--images", "0"], "expected images to be a whole number of at least 1.*, got 0"),
        (["--images", "1.5"], "expected images to be a whole number of at least 1.*, got 1.5"),
        (["--learning-rate", "inf"], "learning_rate to be a number.* above 0, got inf"),
        (["--kl-coef", "nan"], "expected kl_coef to be a number of at least 0, got nan"),
        (["--eval-every", "-1"], "expected eval_every to be a whole number of at least 0, got -1"),
        (["--lora-rank", "-1"], "expected lora_rank to be a whole number of at least 0 .*got -1"),
        (["--lora-alpha", "0"], "expected lora_alpha to be a number above 0"),
        (["--seed", "4294967296"], "expected seed to be a whole number .*at most 4294967295"),
        (["--advantage", "best"], "invalid choice 'best' for argument '--advantage'"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_malformed_options_end_with_usage(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.main(arguments)
    message = capsys.readouterr().err.replace("│", " ")
    assert re.search(reason, " ".join(message.split()))


def test_checkpoints_get_the_published_setting() -> None:
    settings = TrainSettings.of(model="some/where", device="cuda")
    assert (settings.policy.lora_rank, settings.policy.guidance, settings.rounds) == (4, 5.0, 100)
    assert (settings.ppo.learning_rate, settings.ppo.clip_range) == (3e-4, 1e-4)
    assert settings.env.dtype == "float16"
    assert settings.run.num_envs * settings.ppo.batches_per_round == 256
    assert TrainSettings.of(model="some/where", device="cpu").env.dtype == "float32"
    assert TrainSettings.of(model="some/where", shaping="coca").ppo.learning_rate == 1e-4
    embedded = TrainSettings.of()
    assert (embedded.policy.lora_rank, embedded.policy.guidance) == (0, 1.0)
    assert embedded.env.dtype == "float32"


def test_steps_that_nobody_names_are_the_models_own(sd3_folder: Path) -> None:
    settings = TrainSettings.of(model=str(sd3_folder), reward="jpeg_compressibility", num_envs=1)
    envs = make_env(settings)
    single = gym.make("DiffusionT2I-v0", model=str(sd3_folder), reward="jpeg_compressibility")
    assert settings.env.num_inference_steps is None
    assert base_env(envs).config.num_inference_steps == single.unwrapped.config.num_inference_steps


def test_settings_go_through_a_flat_dictionary() -> None:
    settings = TrainSettings.of(shaping="b2", lora_targets=["to_q"], eta=0.5, seed=7)
    flat = json.loads(json.dumps(settings.flat()))
    assert TrainSettings.from_flat(flat) == settings
    homes = [set(typing.get_type_hints(part)) for part in TrainSettings.parts().values()]
    assert sum(map(len, homes)) == len(set().union(*homes))  # no name has two homes
    with pytest.raises(InvalidInputError, match="unknown setting 'imges'"):
        TrainSettings.of(imges=4)


def test_differences_name_what_was_asked_for_and_is_otherwise() -> None:
    recorded = TrainSettings.of(num_inference_steps=10, sampler="ddim", seed=1)
    assert TrainSettings.of(seed=1).differences(recorded) == []
    assert TrainSettings.of(seed=2, sampler="flow_sde").differences(recorded) == ["seed", "sampler"]


def test_steps_with_noise_are_named_on_the_command_line() -> None:
    settings = train.read_settings(["--stochastic-steps", "0, 3,1"])
    assert settings.env.stochastic_steps == (0, 3, 1)
    assert train.read_settings([]).env.stochastic_steps is None
    assert base_env(
        make_env(TrainSettings.of(stochastic_steps=[3, 1]))
    ).config.stochastic_steps == (*(1, 3),)
    with pytest.raises(InvalidInputError, match="to be a list of whole numbers or None, got"):
        TrainSettings.of(stochastic_steps=["one"])


@pytest.mark.parametrize(
    ("options", "shaping", "images"),
    [
        ({}, "noise-aware", 256),
        ({"reward": "house_style"}, "noise-aware", 256),
        ({"reward": {"house_style": 1.0}}, "sparse", 1216),
        ({"reward": "jpeg_compressibility"}, "noise-aware", 512),
        ({"reward": "jpeg_compressibility", "shaping": "sparse"}, "sparse", 1216),
        ({"reward": "scene_alignment"}, "sparse", 1216),
        ({"reward": "scene_alignment", "shaping": "noise-aware"}, "noise-aware", 384),
        ({"algorithm": "nft"}, "sparse", 1216),
        ({"model": "some/where"}, "sparse", 25_600),
        ({"model": "some/where", "reward": "house_style"}, "sparse", 25_600),
        ({"shaping": "uniform"}, "uniform", 1216),
        (
            {"preset": "ddpo-aesthetic", "model": "emoji-64", "reward": "house_style"},
            "sparse",
            None,
        ),
    ],
)
def test_step_weights_are_recommended_where_they_were_measured(
    options: dict[str, Any], shaping: str, images: int | None
) -> None:
    settings = TrainSettings.of(**options)
    assert settings.shaping.shaping == shaping
    assert images in (None, settings.run.images)
