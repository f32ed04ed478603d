"""Runs with another agent than PPO: their settings, and the commands on them."""

import json
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agents import evaluate, sample, train
from agents.nft import DiffusionNFT
from agents.nft.config import NFTConfig
from agents.runs import cli
from agents.runs.algorithms import ALGORITHMS
from agents.runs.callbacks import StopOnSignal
from agents.runs.presets import FOLDER
from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from agents.runs.training import Training
from diffusion_gym.errors import DiffusionGymError, InvalidInputError

QUICK = (
    "--algorithm nft --images 12 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 3 "
    "--eval-prompts 3 --eval-samples 2 --lora-rank 2 --reward jpeg_compressibility"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert train.main([*QUICK, "--eval-every", "2", "--output", str(folder)]) == 0
    return folder


def test_a_run_leaves_what_it_promises(run: Path) -> None:
    names = {entry.name for entry in run.iterdir()}
    assert names >= {
        *("settings.json", "record.json", "metrics.csv", "summary.json", "before.npz"),
        *("before_after.png", "reward_curve.png", "checkpoints", "exported", "tensorboard"),
    }
    assert "credit_per_step.png" not in names  # no steps are trained
    settings = json.loads((run / "settings.json").read_text())
    assert settings["algorithm"] == "nft"
    assert settings["beta"] == NFTConfig.beta
    assert "clip_range" not in settings
    assert RunFolder(run).settings.run.algorithm == "nft"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["images"] == 12
    drift = summary["metrics"]["kl_to_base"]
    assert drift["before"] < 1e-9 < drift["after"]
    rows = RunFolder(run).metrics()
    assert [row["count/rounds"] for row in rows] == [1, 2, 3]
    assert all(row["train/old_deviation"] >= 0 for row in rows)
    # Drawing, then three noise levels of each image by two networks.
    assert rows[-1]["count/denoiser_evaluations"] == 12 * 3 + 12 * 3 * 2


def test_the_commands_read_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = []
    for extra in ([], ["--base"]):
        output = tmp_path / f"{len(pictures)}.png"
        arguments = [str(run), "--prompt", "a cat", "--samples", "2", *extra]
        assert sample.main([*arguments, "--output", str(output)]) == 0
        with Image.open(output) as picture:
            pictures.append(np.asarray(picture))
    assert (pictures[0] != pictures[1]).any()
    figures = tmp_path / "figures.json"
    assert evaluate.main([str(run), "--count", "3", "--samples", "2", "--json", str(figures)]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert json.loads(figures.read_text())["after"] == pytest.approx(
        summary["reward_after"], abs=1e-5
    )
    capsys.readouterr()


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def ask(callback: StopOnSignal) -> None:
        rounds.append(1)
        callback.asked = len(rounds) > 1
        original(callback)

    original = StopOnSignal._on_rollout_start
    arguments = [*QUICK, "--eval-every", "2", "--output", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "_on_rollout_start", ask)
        assert train.main(arguments) == 130
    stopped = RunFolder(tmp_path / "run")
    assert len(stopped.metrics()) == 1
    assert train.main(["--resume", str(stopped.path)]) == 0
    whole = RunFolder(run)
    for ours, theirs in zip(stopped.metrics(), whole.metrics(), strict=True):
        assert {k: v for k, v in ours.items() if k[:5] != "time/"} == pytest.approx(
            {k: v for k, v in theirs.items() if k[:5] != "time/"}, nan_ok=True, rel=0, abs=0
        )
    exported = [folder.exported / "pytorch_lora_weights.safetensors" for folder in (stopped, whole)]
    assert exported[0].read_bytes() == exported[1].read_bytes()


def test_the_sampler_may_be_deterministic(tmp_path: Path) -> None:
    arguments = [*QUICK, "--eta", "0", "--images", "4", "--output", str(tmp_path / "run")]
    assert train.main(arguments) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "kl_to_base" not in summary["metrics"]  # no step has a density


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithm", "nft", "--clip-range", "1e-3"], "clip_range belongs to the algorithm ppo"),
        (["--algorithm", "nft", "--kl-coef=1"], "kl_coef belongs to .* expected none with .*'nft'"),
        (["--beta", "1"], "beta belongs to the algorithm nft: expected none with algorithm='ppo'"),
        (["--algorithm", "ppo", "--preset", "nft-pickscore"], "belongs to the algorithm nft"),
        (["--algorithm", "grpo"], "unknown algorithm 'grpo'; known: nft, ppo"),
        ([*QUICK, "--shaping", "coca"], "trains on final images.* got CoCAReward"),
        ([*QUICK, "--guidance", "2"], "expected guidance=1"),
        (
            [*QUICK, "--eta", "0", "--max-kl", "1", "--eval-every", "1"],
            "expected steps with noise, .* got max_kl=1 although eta is 0",
        ),
    ],
)
def test_what_belongs_to_another_algorithm_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiffusionGymError, match=message):
        train.main(arguments)
    assert not list(tmp_path.iterdir())


def test_help_shows_the_options_of_the_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    for name, kind in ALGORITHMS.items():
        with pytest.raises(SystemExit):
            train.main(["--algorithm", name, "--help"])
        text = capsys.readouterr().out
        for other, theirs in ALGORITHMS.items():
            for option in set(typing.get_type_hints(theirs.config)):
                flag = f"--{option.replace('_', '-')}"
                shown = f"{flag} " in text or f"{flag}," in text
                assert shown == (option in typing.get_type_hints(kind.config)), (name, other)
        assert set(cli.explanations(kind.config)) == set(typing.get_type_hints(kind.config))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_settings_go_through_a_flat_dictionary(name: Any) -> None:
    settings = TrainSettings.of(algorithm=name, seed=7, stochastic_steps=[1, 2])
    flat = json.loads(json.dumps(settings.flat()))
    assert TrainSettings.from_flat(flat) == settings
    homes = [set(typing.get_type_hints(part)) for part in TrainSettings.parts(name).values()]
    assert sum(map(len, homes)) == len(set().union(*homes))
    assert type(settings.agent) is ALGORITHMS[name].config


def test_settings_of_before_there_was_a_choice_are_ppos() -> None:
    flat = TrainSettings.of().flat()
    del flat["algorithm"]
    assert TrainSettings.from_flat(flat) == TrainSettings.of()
    with pytest.raises(InvalidInputError, match="expected the settings of a run with PPO, got 'nf"):
        _ = TrainSettings.of(algorithm="nft").ppo
    assert TrainSettings.of(algorithm="nft").differences(TrainSettings.of())[0] == "algorithm"


# Written from the released code's configuration, not from the file.
RELEASED = {
    "model": "stabilityai/stable-diffusion-3.5-medium",
    "model_options": {"resolution": 512},
    "reward": "pickscore",
    "dtype": "float16",
    "num_inference_steps": 10,
    "eta": 0.0,
    "guidance": 1.0,
    "lora_rank": 32,
    "lora_alpha": 64.0,
    "learning_rate": 3e-4,
    "loss": "nft",
    "beta": 1.0,
    "reference_coef": 1e-4,
    "decay_after": 0,
    "decay_rate": 1e-3,
    "decay_limit": 0.5,
    "advantage": "group",
    "advantage_clip": 5.0,
    "timesteps": "sampler",
    "timesteps_per_image": 9,
    "updates_per_round": 1,
    "n_epochs": 1,
    "max_grad_norm": 1.0,
    "samples_per_prompt": 24,
}


def test_the_preset_has_the_published_numbers() -> None:
    settings = TrainSettings.of(preset="nft-pickscore")
    flat = settings.flat()
    assert {name: flat[name] for name in RELEASED} == RELEASED
    assert settings.run.num_envs * settings.agent.batches_per_round == 48 * 24
    assert settings.run.num_envs % settings.agent.samples_per_prompt == 0
    assert "Not run here on real weights" in (FOLDER / "nft-pickscore.toml").read_text()


def test_the_preset_runs_at_toy_scale(tmp_path: Path) -> None:
    tiny = (
        "--preset nft-pickscore --model emoji-64 --reward jpeg_compressibility --dtype float32 "
        "--model-options {} "
        "--prompts emoji-objects --num-inference-steps 3 --timesteps-per-image 2 --num-envs 4 "
        "--samples-per-prompt 2 --batches-per-round 2 --images 8 --eval-prompts 2 --eval-samples 1"
    ).split()
    assert train.main([*tiny, "--output", str(tmp_path / "run")]) == 0
    (row,) = RunFolder(tmp_path / "run").metrics()
    assert row["train/reference_deviation"] >= 0
    assert row["train/decay"] == 0.001


def test_the_embedded_model_has_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings.of(algorithm="nft", reward="jpeg_compressibility")
    assert settings.agent.learning_rate == 1e-4
    assert settings.env.prompts == "emoji-objects"
    assert settings.policy.lora_rank == 0
    other = TrainSettings.of(algorithm="nft", model="some/where", device="cpu")
    assert (other.policy.lora_rank, other.policy.guidance, other.env.eta) == (32, 1.0, 0.0)
    assert other.env.dtype == "float32"


@pytest.mark.parametrize("recipe", [{"model": "some/where"}, {"preset": "nft-pickscore"}], ids=str)
def test_the_other_loss_and_all_weights_need_no_more_options(recipe: dict[str, Any]) -> None:
    """What is recommended for DiffusionNFT's loss, or with LoRA, is left out where it is vain."""
    recommended = TrainSettings.of(algorithm="nft", **recipe).flat()
    assert (recommended["beta"], recommended["reference_coef"]) == (1.0, 1e-4)
    awm = TrainSettings.of(algorithm="nft", loss="awm", awm_time_power=1, **recipe).flat()
    assert (awm["beta"], awm["reference_coef"]) == (NFTConfig.beta, 1e-4)
    whole = TrainSettings.of(algorithm="nft", lora_rank=0, **recipe).flat()
    assert (whole["beta"], whole["reference_coef"]) == (1.0, 0.0)
    with pytest.raises(InvalidInputError, match="beta belongs to loss='nft'"):
        TrainSettings.of(algorithm="nft", loss="awm", beta=0.5, **recipe)
    asked = TrainSettings.of(algorithm="nft", lora_rank=0, reference_coef=1e-3, **recipe)
    assert asked.flat()["reference_coef"] == 1e-3  # which the agent refuses, and says why


def test_training_builds_the_agent_that_is_named(tmp_path: Path) -> None:
    from rich.console import Console

    output = str(tmp_path / "run")
    options = {"num_envs": 4, "samples_per_prompt": 2, "num_inference_steps": 2, "lora_rank": 2}
    settings = TrainSettings.of(algorithm="nft", output=output, **options)
    training = Training(settings, Console(quiet=True))
    assert type(training.agent) is DiffusionNFT
    assert training.agent.config == settings.agent
