import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_agents import make_agent, make_env, weights

from agents import train
from agents.common.checkpoint import save_checkpoint
from agents.common.checkpoint_folder import latest_checkpoint, prune_checkpoints
from agents.ppo import DiffusionPPO
from agents.runs.run_folder import RunFolder
from diffusion_gym.errors import DiffusionGymError

KINDS: list[dict[str, Any]] = [
    {},
    {"policy_kwargs": {"lora_rank": 2}, "advantage": "prompt"},
]


@pytest.mark.parametrize("kind", KINDS, ids=["full", "lora"])
def test_a_resumed_run_equals_the_uninterrupted_one(kind: dict[str, Any], tmp_path: Path) -> None:
    whole = make_agent(**kind).learn(12)
    first = make_agent(**kind).learn(4)
    folder = save_checkpoint(first, tmp_path / "round-000001")
    resumed = DiffusionPPO.resume(folder, make_env())
    assert (resumed.rounds, resumed.num_timesteps, resumed.reward_queries) == (1, 4, 4)
    resumed.learn(8, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.rounds == whole.rounds == 3
    assert resumed.policy.denoiser_evaluations == whole.policy.denoiser_evaluations
    assert resumed.advantage_estimator.state_dict() == whole.advantage_estimator.state_dict()


def test_a_loaded_agent_predicts_without_an_environment(tmp_path: Path) -> None:
    agent = make_agent().learn(4)
    agent.save(tmp_path / "agent.zip")
    loaded = DiffusionPPO.load(tmp_path / "agent.zip")
    observation = agent.env.reset()
    for deterministic in (True,):
        ours, theirs = (
            a.predict(observation, deterministic=deterministic)[0] for a in (agent, loaded)
        )
        assert (ours == theirs).all()


def test_an_agent_refuses_an_environment_of_another_model(tmp_path: Path) -> None:
    agent = make_agent()
    agent.model_spec["weights_hash"] = "0" * 64
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(DiffusionGymError, match="was trained on"):
        DiffusionPPO.load(tmp_path / "agent.zip", env=make_env())


def test_a_damaged_agent_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "agent.zip"
    make_agent(policy_kwargs={"lora_rank": 2}).save(file)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(DiffusionGymError, match="cannot load an agent from"):
        DiffusionPPO.load(file)


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    for text in ("{", '{"colour": "red"}'):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(DiffusionGymError, match="expected the settings of a training run"):
            train.main(["--resume", str(tmp_path)])


def test_old_checkpoints_go_and_partial_ones_are_never_seen(tmp_path: Path) -> None:
    for name in ("round-000001", "round-000002", "round-000003", ".round-000004.partial"):
        (tmp_path / name).mkdir()
    assert latest_checkpoint(tmp_path).name == "round-000003"
    prune_checkpoints(tmp_path, keep=2)
    assert latest_checkpoint(tmp_path).name == "round-000003"
    assert not (tmp_path / "round-000001").exists()
    with pytest.raises(DiffusionGymError, match="found none"):
        latest_checkpoint(tmp_path / "nowhere")


# ------------------------------------------------------------------ killed from outside

COMMAND = (
    "--images 16 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 3 --batch-size 6 "
    "--reward jpeg_compressibility --eval-prompts 2 --eval-samples 1 --checkpoint-every 1 --seed 7"
).split()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return final_weights(run_to_the_end(tmp_path_factory.mktemp("runs") / "whole"))


def run_to_the_end(folder: Path) -> Path:
    assert train.main([*COMMAND, "--output", str(folder)]) == 0
    return folder


def final_weights(folder: Path) -> torch.Tensor:
    agent = DiffusionPPO.load(RunFolder.open(folder).agent_file)
    assert agent.rounds == 4
    return weights(agent)


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "agents.train", *COMMAND, "--output", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no {path.name}: {process.communicate()}")
        time.sleep(0.0005)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [".round-000002.partial", "round-000001"])
def test_a_killed_run_resumes_to_the_same_weights(
    moment: str, uninterrupted: torch.Tensor, tmp_path: Path
) -> None:
    """Killed while a checkpoint is being written, and in the middle of a round."""
    folder = tmp_path / "killed"
    process = start(folder)
    wait_for(folder / "checkpoints" / moment, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    assert train.main(["--resume", str(folder)]) == 0
    assert torch.equal(final_weights(folder), uninterrupted)
    rounds = [row["count/rounds"] for row in RunFolder.open(folder).metrics()]
    assert rounds == [1, 2, 3, 4]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(uninterrupted: torch.Tensor, tmp_path: Path) -> None:
    folder = tmp_path / "interrupted"
    process = start(folder)
    wait_for(folder / "checkpoints" / "round-000001", process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"--resume" in output
    assert b"Traceback" not in errors
    assert train.main(["--resume", str(folder)]) == 0
    assert torch.equal(final_weights(folder), uninterrupted)
