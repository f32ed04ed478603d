"""Published recipes: their numbers, and runs of them at toy scale."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agents import train
from agents.ppo import DiffusionPPO
from agents.runs.builders import make_env
from agents.runs.methods import Course, shape_rewards
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
    "autocast": "float16",
    "eta": 1.0,
    "guidance": 5.0,
    "lora_rank": 4,
    "max_grad_norm": 1.0,
}
TRACKED = {
    "num_inference_steps": 50,
    "advantage": "prompt",
    "statistics_min_count": 16,
    "epochs": 1,
}
DDPO = EVERY | TRACKED | {"shaping": "sparse", "learning_rate": 3e-4, "clip_range": 1e-4}
COCA = EVERY | TRACKED | {"shaping": "coca", "standardise_steps": "center", "learning_rate": 1e-4}
B2 = EVERY | {
    "num_inference_steps": 20,
    "shaping": "b2",
    "b2_start": 14,
    "samples_per_prompt": 5,
    "epochs": 2,
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


def test_every_preset_has_its_row() -> None:
    assert preset_names() == sorted(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_presets_have_the_published_numbers(name: str) -> None:
    method, reward, prompts, rounds, images, updates, buffer, clip = TABLE[name]
    settings = TrainSettings.from_options({"preset": name})
    expected = method | {"clip_range": clip}
    assert {key: getattr(settings, key) for key in expected} == expected
    assert (settings.reward, settings.prompts) == (reward, prompts)
    assert (settings.rounds, settings.images) == (rounds, rounds * images)
    assert settings.num_envs * settings.batches_per_round == images
    assert settings.num_envs % settings.samples_per_prompt == 0
    assert settings.updates_per_round == updates
    if settings.advantage == "prompt":
        assert settings.samples_per_prompt == 1
        baseline = {"buffer_size": buffer, "min_count": 16}
        assert settings.agent_kwargs()["advantage_kwargs"] == baseline
    assert len(load_prompts(prompts)) in (398, 45, 40)


def test_presets_say_where_their_numbers_come_from() -> None:
    for name in preset_names():
        text = (FOLDER / f"{name}.toml").read_text()
        assert "arXiv 2" in text
        assert "What is not expressed exactly" in text
        values = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
        assert len(values) == len(tomllib.loads(text))
        silent = [line for line in values if "  # " not in line]
        assert all(line.startswith("reward_options") for line in silent), silent


def test_b2_trains_the_released_steps_in_every_round() -> None:
    env = make_env(TrainSettings(num_envs=10, num_inference_steps=20))
    settings = TrainSettings.from_options({"preset": "b2-relations"})
    course = Course(settings.rounds, settings.batches_per_round, settings.b2_start)
    shaped: Any = shape_rewards(env, settings.shaping, course)
    assert shaped.branches == 5
    assert (shaped.positive, shaped.negative) == (0.5, -0.5)
    for stage in range(100):
        first_batch = stage * settings.batches_per_round
        assert trained_steps(first_batch, shaped.stages, shaped.start, 20) == 14 + 7 * stage // 100
    assert trained_steps(0, 800, 14, 20) == 14
    unset: Any = shape_rewards(env, "b2", Course(rounds=3))
    assert (unset.start, unset.stages) == (14, 3)


def test_coca_has_windows_of_five_steps() -> None:
    env = make_env(TrainSettings(num_envs=1, num_inference_steps=50))
    shaped = shape_rewards(env, "coca", Course(rounds=100))
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
    assert settings.preset == "ddpo-compressibility"
    assert (settings.learning_rate, settings.guidance, settings.lora_rank) == (3e-4, 5.0, 4)
    assert (settings.dtype, settings.autocast, settings.images) == ("float16", "float16", 8)
    (row,) = run.metrics()
    assert row["train/gradient_norm"] > 0
    agent = DiffusionPPO.load(run.agent_file)
    assert (agent.advantage_estimator.buffer_size, agent.advantage_estimator.min_count) == (16, 2)
    assert agent.policy.lora.rank == 4
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


def test_b2_at_toy_scale(tmp_path: Path) -> None:
    preset = ["--preset", "b2-relations", *TINY, "--reward", "jpeg_compressibility"]
    counts = ["--images", "20", "--num-envs", "10", "--b2-start", "2"]
    assert train.main([*preset, *counts, "--output", str(tmp_path / "run")]) == 0
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert row["train/clip_range"] == 0.1
    assert row["count/reward_queries"] == 2 * 10  # two batches of two roots, five branches each


def test_another_reward_drops_the_options_of_the_presets() -> None:
    assert TrainSettings.from_options({"preset": "coca-hpsv2"}).reward_options == {
        "hpsv2": {"release": "v2.0"}
    }
    options = {"preset": "coca-hpsv2", "reward": "clip_score"}
    assert TrainSettings.from_options(options).reward_options is None
    own = {"clip_score": {"batch_size": 4}}
    assert TrainSettings.from_options(options | {"reward_options": own}).reward_options == own


def test_options_override_presets_in_any_order() -> None:
    parser = train._parser()
    for arguments in (
        ["--images", "512", "--preset", "b2-colours", "--lora-rank", "0"],
        ["--preset", "b2-colours", "--lora-rank", "0", "--images", "512"],
    ):
        given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if k != "resume"}
        settings = TrainSettings.from_options(given)
        assert (settings.images, settings.prompts, settings.clip_range) == (512, "b2-colours", 0.1)
        assert settings.policy_kwargs()["lora_rank"] is None


def test_standardisation_can_be_switched_off() -> None:
    control = TrainSettings.from_options(
        {"preset": "coca-aesthetic", "shaping": "sparse", "standardise_steps": "none"}
    )
    assert control.agent_kwargs()["standardise_steps"] is None
    assert TrainSettings(shaping="coca").agent_kwargs()["standardise_steps"] == "center"


def test_a_file_is_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'model = "some/where"\nlearning_rate = 1\nlora_targets = ["to_q"]\ncompile = true\n'
        '[model_options]\nvae_slicing = true\n[reward_options.clip_score]\nfolder = "clip"\n'
    )
    settings = TrainSettings.from_options({"preset": str(file), "seed": 3})
    assert (settings.preset, settings.seed, settings.learning_rate) == (str(file), 3, 1)
    assert settings.env_kwargs()["model_options"] == {"vae_slicing": True}
    assert settings.env_kwargs()["reward_options"] == {"clip_score": {"folder": "clip"}}
    assert settings.policy_kwargs()["lora_targets"] == ["to_q"]
    assert settings.policy_kwargs()["compile"] is True


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("images = ", "not valid TOML"),
        ("imges = 4", "unknown setting 'imges'; known: .*images"),
        ('images = "many"', "expected images to be of the type int, got 'many'"),
        ("images = true", "expected images to be of the type int, got True"),
        ("compile = 1", "expected compile to be of the type bool, got 1"),
        ("model_options = 3", "model_options to be of the type Mapping, got 3"),
        ('lora_targets = "to_q"', "lora_targets to be of the type Sequence"),
        ('preset = "ddpo-aesthetic"', "unknown setting 'preset'"),
    ],
)
def test_bad_preset_files_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(InvalidInputError, match=reason) as error:
        TrainSettings.from_options({"preset": str(file)})
    assert str(file) in str(error.value)


def test_unknown_presets_list_the_known() -> None:
    known = "b2-activities, .*ddpo-incompressibility, or the path of a .toml file"
    with pytest.raises(InvalidInputError, match=f"unknown preset 'ddpo'; known: {known}"):
        TrainSettings.from_options({"preset": "ddpo"})
    with pytest.raises(InvalidInputError, match=r"nowhere\.toml does not exist"):
        TrainSettings.from_options({"preset": "nowhere.toml"})


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
    options = vars(train._parser().parse_args(given))
    settings = TrainSettings.from_options({k: v for k, v in options.items() if k != "resume"})
    assert settings.model_options == {"vae_slicing": True, "variant": "fp16"}
    assert settings.lora_targets == ["to_q", "to_k"]
    run = RunFolder.create(settings)
    assert run.settings == settings
    assert run.settings.reward_options == {"clip_score": {"sizes": [1, 2]}}
    assert run.settings.policy_kwargs()["gradient_checkpointing"] is True
    assert run.settings.env_kwargs()["sampler"] == "ddim"
    assert json.loads(run.settings_file.read_text())["lora_targets"] == ["to_q", "to_k"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model-options", "{"], "argument --model-options: expected JSON, got '{'"),
        (["--reward-options", "[1]"], "expected a JSON object .*got '\\[1\\]'"),
        (["--lora-targets", "to_q,,"], "expected names with commas between them"),
    ],
)
def test_malformed_options_end_with_usage(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.main(arguments)
    message = capsys.readouterr().err
    assert re.search(reason, " ".join(message.split()))


def test_checkpoints_get_the_published_setting() -> None:
    settings = TrainSettings(model="some/where", device="cuda")
    assert settings.prompts == "animals"
    assert (settings.lora_rank, settings.learning_rate, settings.clip_range) == (4, 3e-4, 1e-4)
    assert (settings.guidance, settings.autocast, settings.rounds) == (5.0, "float16", 100)
    assert settings.num_envs * settings.batches_per_round == 256
    assert TrainSettings(model="some/where", device="cpu").autocast == "float32"
    assert TrainSettings(model="some/where", dtype="bfloat16").autocast == "bfloat16"
    assert TrainSettings(model="some/where", shaping="coca").learning_rate == 1e-4
    embedded = TrainSettings()
    assert (embedded.lora_rank, embedded.guidance, embedded.autocast) == (0, 1.0, "float32")
    assert embedded.policy_kwargs()["lora_rank"] is None
    with pytest.raises(InvalidInputError, match="lora_rank to be at least 0, got -1"):
        TrainSettings(lora_rank=-1)
