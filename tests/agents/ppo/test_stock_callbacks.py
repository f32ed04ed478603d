"""Stable-Baselines3's own callbacks around `DiffusionPPO`, unchanged, counted in images."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_agents import STEPS, make_agent, make_env, weights
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecMonitor

from agents.common.sb3_vec_env import SB3VecEnv
from agents.ppo import DiffusionPPO
from diffusion_gym.wrappers import UniformCreditReward

IMAGES = 4
"""Of a batch; a round is one batch unless a test says something else."""


class Recorder(BaseCallback):
    """What a user's callback reads, at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        names = ("rewards", "dones", "infos", "self", "env", "tb_log_name", "total_timesteps")
        self.seen.append(
            {name: self.locals[name] for name in names}
            | {"num_timesteps": self.num_timesteps, "n_calls": self.n_calls}
        )
        return True


def single_env() -> gym.Env[Any, Any]:
    return gym.make(
        "DiffusionT2I-v0", num_inference_steps=STEPS, reward="jpeg_compressibility", device="cpu"
    )


def test_a_step_is_a_batch_of_images() -> None:
    recorder = Recorder()
    agent = make_agent(UniformCreditReward(make_env(IMAGES)), batches_per_round=2)
    agent.learn(2 * 2 * IMAGES, callback=recorder)
    assert [seen["num_timesteps"] for seen in recorder.seen] == [4, 8, 12, 16]
    assert [seen["n_calls"] for seen in recorder.seen] == [1, 2, 3, 4]
    last = recorder.seen[-1]
    assert last["self"] is agent
    assert last["env"] is agent.env
    assert last["dones"].tolist() == [True] * IMAGES
    rows = agent.rollout_buffer.trajectories
    np.testing.assert_array_equal(last["rewards"], rows.returns[-IMAGES:].numpy())
    assert isinstance(last["infos"], list)
    for row, info in enumerate(last["infos"], start=IMAGES):
        assert info["episode"]["r"] == pytest.approx(rows.returns[row].item())
        assert info["episode"]["l"] == STEPS
        assert info["episode"]["t"] > 0
        assert info["prompt_id"] == rows.prompt_ids[row]
        assert info["image"].shape == (64, 64, 3)
        np.testing.assert_allclose(info["credit"], 1 / STEPS)
        latent = info["terminal_observation"]["latent"]
        np.testing.assert_array_equal(latent, rows.latents[row, -1].numpy())


def test_infos_are_those_of_the_adapter() -> None:
    recorder = Recorder()
    agent = make_agent()
    agent.learn(IMAGES, callback=recorder)
    agent.env.reset()
    for _ in range(STEPS):
        *_, infos = agent.env.step(np.zeros((IMAGES, *agent.action_space.shape), np.float32))
    (seen,) = recorder.seen
    assert set(seen["infos"][0]) == set(infos[0]) | {"episode"}


@pytest.mark.parametrize("as_option", [True, False])
def test_the_progress_bar_counts_images(as_option: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    def keep(self: ProgressBarCallback) -> None:
        bars.append((self.pbar.n, self.pbar.total))
        end(self)

    end = ProgressBarCallback._on_training_end
    monkeypatch.setattr(ProgressBarCallback, "_on_training_end", keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm's notice that its rich bars are new
        if as_option:
            make_agent().learn(2 * IMAGES, progress_bar=True)
        else:
            make_agent().learn(2 * IMAGES, callback=ProgressBarCallback())
    assert bars == [(8, 8)]


def test_checkpoints_are_named_by_images_and_load(tmp_path: Path) -> None:
    agent = make_agent()
    agent.learn(3 * IMAGES, callback=CheckpointCallback(save_freq=2, save_path=str(tmp_path)))
    assert [file.name for file in tmp_path.iterdir()] == ["rl_model_8_steps.zip"]
    loaded = DiffusionPPO.load(tmp_path / "rl_model_8_steps.zip", env=make_env())
    assert loaded.num_timesteps == 8
    assert not loaded.stopping
    loaded.learn(IMAGES, reset_num_timesteps=False)
    assert loaded.num_timesteps == 12


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped with a ``Monitor``")
@pytest.mark.parametrize("kind", ["single", "vector", "monitored"])
def test_evaluations_come_once_a_batch_and_cost_training_nothing(kind: str, tmp_path: Path) -> None:
    env: Any = single_env() if kind == "single" else SB3VecEnv(make_env(2))
    if kind == "monitored":
        env = VecMonitor(env)
    callback = EvalCallback(env, eval_freq=1, n_eval_episodes=2, log_path=str(tmp_path), verbose=0)
    agent, plain = make_agent(), make_agent()
    agent.learn(2 * IMAGES, callback=callback)
    plain.learn(2 * IMAGES)
    results = np.load(tmp_path / "evaluations.npz")
    assert results["timesteps"].tolist() == [4, 8]
    assert results["ep_lengths"].tolist() == [[STEPS] * 2] * 2
    assert (results["results"] < 0).all()
    assert agent.policy.denoiser_evaluations == plain.policy.denoiser_evaluations
    assert agent.reward_queries == plain.reward_queries
    assert torch.equal(weights(agent), weights(plain))


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
def test_a_reward_threshold_stops_training(tmp_path: Path) -> None:
    callback = EvalCallback(
        single_env(),
        callback_on_new_best=StopTrainingOnRewardThreshold(-100.0),
        eval_freq=2,
        n_eval_episodes=1,
        best_model_save_path=str(tmp_path),
        verbose=0,
        warn=False,
    )
    agent = make_agent().learn(100 * IMAGES, callback=callback)
    assert agent.num_timesteps == 8
    assert agent.rounds == 1  # the second was stopped before its update
    assert (tmp_path / "best_model.zip").exists()


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
def test_no_improvement_stops_training() -> None:
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=0, min_evals=1)
    callback = EvalCallback(
        SB3VecEnv(make_env(1, reward="constant_reward")),
        callback_after_eval=stop,
        eval_freq=1,
        n_eval_episodes=1,
        verbose=0,
        warn=False,
    )
    agent = make_agent().learn(100 * IMAGES, callback=callback)
    assert agent.num_timesteps == 8


def constant_reward(device: str) -> Any:
    return lambda images, prompts: torch.ones(len(images))


@pytest.fixture(autouse=True)
def registered() -> None:
    from diffusion_gym.rewards import register_reward

    register_reward("constant_reward")(constant_reward)


def test_episodes_are_images() -> None:
    stop = StopTrainingOnMaxEpisodes(max_episodes=3)
    agent = make_agent().learn(100 * IMAGES, callback=stop)
    assert stop.n_episodes == agent.num_timesteps == 3 * IMAGES
    assert agent.rounds == 2


def test_every_so_many_images() -> None:
    recorder = Recorder()
    make_agent().learn(6 * IMAGES, callback=EveryNTimesteps(2 * IMAGES, recorder))
    assert [seen["num_timesteps"] for seen in recorder.seen] == [8, 16, 24]


def test_logging_every_so_many_images_is_in_step_with_the_rounds() -> None:
    steps: list[int] = []

    class Steps(KVWriter):
        def write(self, key_values: Any, key_excluded: Any, step: int = 0) -> None:
            assert {"rollout/reward_mean", "train/loss"} <= set(key_values)
            steps.append(step)

    agent = make_agent()
    agent.set_logger(Logger(None, [Steps()]))
    agent.learn(2 * IMAGES, callback=LogEveryNTimesteps(IMAGES))
    assert steps == [4, 8]


def test_a_list_and_a_function_are_callbacks() -> None:
    recorder, calls = Recorder(), []
    agent = make_agent()
    agent.learn(2 * IMAGES, callback=[recorder, CallbackList([Recorder()])])
    agent.learn(2 * IMAGES, callback=lambda variables, _: calls.append(variables["infos"]) is None)
    assert len(recorder.seen) == len(calls) == 2


def test_training_goes_on_after_it_was_stopped_in_the_middle_of_a_round() -> None:
    agent = make_agent(batches_per_round=3)
    before = weights(agent)
    agent.learn(3 * IMAGES, callback=lambda variables, _: variables["self"].num_timesteps < 8)
    assert (agent.num_timesteps, agent.rounds, agent.reward_queries) == (8, 0, 8)
    assert torch.equal(weights(agent), before)
    agent.learn(3 * IMAGES, reset_num_timesteps=False)
    assert (agent.num_timesteps, agent.rounds) == (8 + 12, 1)
    assert not torch.equal(weights(agent), before)


class StopsAtStart(BaseCallback):
    """Stops before anything of the second round is drawn."""

    def _on_rollout_start(self) -> None:
        self.model.stopping = self.model.rounds == 1

    def _on_step(self) -> bool:
        return True


def test_a_callback_can_stop_before_a_round() -> None:
    agent = make_agent()
    agent.learn(3 * IMAGES, callback=StopsAtStart())
    assert agent.num_timesteps == agent.env.base_env.images_scored == IMAGES
    assert agent.rounds == 1
    agent.learn(IMAGES)  # a stop is for one `learn`
    assert agent.rounds == 2
