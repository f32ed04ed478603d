"""Rewards computed while the next batch is drawn: the same training, and nothing left running."""

import itertools
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError
from gymnasium.wrappers.vector import TransformReward
from reward_servers import started as served_by_a_process
from small_agents import STEPS, make_agent, make_env, weights
from small_nft import make_nft
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from torch import Tensor

from agents.common.checkpoint import save_checkpoint
from agents.common.image_algorithm import ImageAlgorithm, RewardFailureError
from agents.nft import DiffusionNFT
from agents.ppo import DiffusionPPO
from agents.ppo.config import PPOConfig
from agents.runs.methods import METHODS, RunLength, ShapingConfig, shape_rewards
from agents.train import read_settings
from diffusion_gym import register_reward
from diffusion_gym.errors import InvalidInputError, RewardServerError
from diffusion_gym.rewards.base import RewardResult
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    CreditReward,
    SparseReward,
    UniformCreditReward,
    VectorNoiseAwareReward,
    VectorShaping,
)

IMAGES, BATCHES = 2, 3
ROUND = IMAGES * BATCHES
OVERLAPPED = [name for name in METHODS if "b2" not in name]
SECONDS = 60
"""Longer than any test waits where nothing is wrong."""


class Judge:
    """Scores by brightness and chance, has terms, and of some images no score: NaN, or an error."""

    name, version = "judge", "1"

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.running = threading.Lock()

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        assert self.running.acquire(blocking=False), "asked twice at once"
        try:
            self.states.append((torch.get_num_threads(), np.geterr(), torch.is_grad_enabled()))
            warnings.warn(f"a judge warns of {len(images)} images", stacklevel=2)
            means = images.mean((1, 2, 3))
            chance = torch.rand(len(images)) + float(np.random.rand()) + random.random()
            lot = (means * 1e5).long() % 8
            if (lot == 3).any():
                raise ValueError("a bad day")
            values = (means + 0.1 * chance).masked_fill(lot == 5, torch.nan)
            return RewardResult.from_values(values, {"mean": means, "chance": chance})
        finally:
            self.running.release()


class Seen(BaseCallback):
    """All that a callback is told of each batch, and of what runs beside it."""

    def __init__(self, judge: Any = None, last: int = 0) -> None:
        super().__init__()
        self.judge, self.last = judge, last
        self.batches: list[Any] = []

    def _on_step(self) -> bool:
        assert self.judge is None or not self.judge.running.locked()
        assert self.model.base_env._unscored is None
        counted = (self.num_timesteps, self.n_calls, self.model.reward_queries)
        infos = [_plain(info) for info in self.locals["infos"]]
        self.batches.append((counted, self.locals["rewards"].tolist(), infos, torch.rand(())))
        return len(self.batches) != self.last


class Rows(KVWriter):
    """What was logged, but for times."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        del key_excluded, step
        row = {k: v for k, v in key_values.items() if not k.startswith("time/")}
        self.rows.append(row)

    def close(self) -> None:
        pass


def _plain(info: Any) -> Any:
    """An info as lists and numbers, but for the time."""
    if isinstance(info, dict):
        return {key: _plain(value) for key, value in info.items() if key != "t"}
    return info.tolist() if isinstance(info, np.ndarray | np.generic) else info


def same(one: Any, other: Any) -> bool:
    """Whether two outcomes are the same, where NaN is NaN."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))
    return bool(one == other or (one != one and other != other))


def learned(agent: ImageAlgorithm, rounds: int) -> dict[str, Any]:
    """Trains, and returns all that came of it."""
    judge, rows = agent.base_env.reward_function, Rows()
    seen = Seen(judge if isinstance(judge, Judge) else None)
    agent.set_logger(Logger(None, [rows]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent.learn(rounds * ROUND, callback=seen)
    outcome = {
        "weights": weights(agent),
        "episodes": vars(agent.rollout_buffer.episodes),
        "batches": seen.batches,
        "logged": rows.rows,
        "warned": [str(each.message) for each in caught],
        "counters": {k: getattr(agent, k) for k in agent.COUNTERS if k != "seconds"},
        "evaluations": agent.policy.denoiser_evaluations,
        "statistics": agent.advantage_estimator.state_dict(),
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
        "own": (agent.prompt_rng.random(), agent.policy.generator.get_state()),
        "states": judge.states if isinstance(judge, Judge) else [],
    }
    assert agent.base_env._unscored is None
    assert not scorers()
    return outcome


def judged(judge: Any = None, **options: Any) -> Any:
    """An environment with this reward, or a new judge."""
    register_reward("judge")(lambda device: judge or Judge())
    return make_env(IMAGES, **{"reward": "judge"} | options)


def scorers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rewards")]


def shaped(env: Any, name: str) -> Any:
    return shape_rewards(env, ShapingConfig(shaping=name), RunLength(2, BATCHES))


def ppo(env: Any, **options: Any) -> ImageAlgorithm:
    return make_agent(env, **{"batches_per_round": BATCHES, "overlap_rewards": True} | options)


def nft(env: Any, **options: Any) -> ImageAlgorithm:
    return make_nft(env, **{"batches_per_round": BATCHES, "overlap_rewards": True} | options)


# ------------------------------------------------------------------------- the same training


def assert_same(make: Callable[..., ImageAlgorithm], rounds: int = 1) -> dict[str, Any]:
    """Trains with overlapping and without, and returns what came of both."""
    with_it, without = (learned(make(overlap_rewards=each), rounds) for each in (True, False))
    for what, value in without.items():
        assert same(with_it[what], value), what
    return without


@pytest.fixture
def tolerant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of images may have no reward."""
    monkeypatch.setattr("agents.common.image_algorithm.MOST_FAILED_OF", 1)


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("shaping", OVERLAPPED)
def test_ppo_trains_as_without_overlapping(shaping: str) -> None:
    with np.errstate(over="raise"):
        both = assert_same(lambda **options: ppo(shaped(judged(), shaping), **options))
    assert len(both["batches"]) == BATCHES
    assert both["logged"][0]["rollout/failed_rewards"] >= 1
    assert "a bad day" in " ".join(both["warned"])
    assert f"a judge warns of {IMAGES} images" in both["warned"]
    assert not both["episodes"]["step_mask"][~both["episodes"]["valid"]].any()


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("loss", ["nft", "awm"])
def test_nft_trains_as_without_overlapping(loss: str) -> None:
    def make(**options: Any) -> ImageAlgorithm:
        return nft(SparseReward(judged(eta=0.0)), loss=loss, **options)

    assert_same(make)


@pytest.mark.slow
@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("make", [ppo, nft])
def test_rewards_of_a_sum_are_normalised_as_without_overlapping(
    make: Callable[..., ImageAlgorithm],
) -> None:
    def with_two(**options: Any) -> ImageAlgorithm:
        both = {"judge": 1.0, "jpeg_compressibility": 0.5}
        env = judged(reward=both, **({"eta": 0.0} if make is nft else {}))
        statistics = {"advantage": "prompt", "statistics_min_count": 2}
        gdpo = {"multi_objective_aggregation": "normalize_then_sum"}
        return make(env, **gdpo, **statistics, **options)

    outcome = assert_same(with_two, rounds=2)
    assert {"judge", "judge/chance"} < outcome["episodes"]["reward_terms"].keys()


@pytest.mark.usefixtures("tolerant")
def test_a_resumed_run_goes_on_as_without_overlapping(tmp_path: Path) -> None:
    def halves() -> ImageAlgorithm:
        agent = ppo(shaped(judged(), "coca"))
        agent.learn(ROUND)
        checkpoint = save_checkpoint(agent, tmp_path / "checkpoint")
        resumed = DiffusionPPO.resume(checkpoint, shaped(judged(), "coca"))
        assert resumed.config == agent.config
        return resumed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = ppo(shaped(judged(), "coca"), overlap_rewards=False).learn(2 * ROUND)
        resumed = halves().learn(ROUND, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(whole))


# ----------------------------------------------------------------------- while it is drawn


def passes(agent: ImageAlgorithm, told: Callable[[], None]) -> None:
    """Tells of every pass of the denoiser that draws."""
    nft = isinstance(agent, DiffusionNFT)
    drawing = agent.old._denoiser if nft else agent.policy.denoiser
    drawing.register_forward_hook(lambda *_: told())


class Patient(Judge):
    """Scores a batch once so many passes of the denoiser were seen, or it has waited too long."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most, self.passes, self.asked = most, 0, 0
        self.saw: list[bool] = []
        self.changed = threading.Condition()

    def count(self) -> None:
        with self.changed:
            self.passes += 1
            self.changed.notify()

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        self.asked += 1
        if self.asked < BATCHES:
            both = (self.asked + 1) * STEPS
            with self.changed:
                self.saw.append(self.changed.wait_for(lambda: self.passes >= both, self.most))
                # No third batch is drawn while two are here.
                assert not self.changed.wait_for(lambda: self.passes > both, 0.1)
        return RewardResult.from_values(images.mean((1, 2, 3)))


@pytest.mark.parametrize("make", [ppo, nft])
@pytest.mark.parametrize("overlap", [True, False])
def test_the_next_batch_is_drawn_meanwhile(
    overlap: bool, make: Callable[..., ImageAlgorithm]
) -> None:
    patient = Patient(SECONDS if overlap else 0.1)
    env = judged(patient, **({"eta": 0.0} if make is nft else {}))
    agent = make(env, overlap_rewards=overlap)
    passes(agent, patient.count)
    agent.collect_rollouts(agent.env, started(agent, Seen()), agent.rollout_buffer, 1)
    assert patient.saw == [overlap] * (BATCHES - 1)
    assert patient.passes == BATCHES * STEPS


def started(agent: ImageAlgorithm, callback: BaseCallback) -> BaseCallback:
    """A callback as `learn` would hand it to a rollout."""
    _, callback = agent._setup_learn(ROUND, callback)
    return callback


SLOW_SERVER = """
import time

import diffusion_gym
from diffusion_gym.rewards import make_reward


@diffusion_gym.register_reward("slow_style")
def make(device):
    judge = make_reward("house_style", device=device)

    def slow_style(images, prompts):
        time.sleep(1)
        return judge(images, prompts)

    return slow_style
"""


@pytest.mark.slow
def test_a_slow_served_reward_is_waited_for_less(tmp_path: Path) -> None:
    (tmp_path / "slow_server.py").write_text(SLOW_SERVER)
    options = ("--import", "slow_server", "--reward", "slow_style", "--port", "0")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    seconds: dict[bool, list[float]] = {False: [], True: []}
    drawn: dict[bool, list[Tensor]] = {False: [], True: []}
    with served_by_a_process(*options, env=os.environ | {"PYTHONPATH": paths}) as (url, _):
        env = {"num_inference_steps": 10, "reward": {"remote": url}, "prompts": "emoji-objects"}
        agents = {
            overlap: ppo(make_env(4, **env), batches_per_round=4, overlap_rewards=overlap)
            for overlap in seconds
        }
        for _ in range(2):  # by turns, since other work on the machine comes and goes
            for overlap, agent in agents.items():
                start = time.perf_counter()
                agent.collect_rollouts(agent.env, started(agent, Seen()), agent.rollout_buffer, 1)
                seconds[overlap].append(time.perf_counter() - start)
                drawn[overlap].append(agent.rollout_buffer.episodes.returns)
    print(f"seconds a round: waiting {seconds[False]}, overlapped {seconds[True]}")
    assert all(map(torch.equal, drawn[False], drawn[True]))
    assert min(seconds[True]) < min(seconds[False])


# --------------------------------------------------------------------- what ends it early


class Failing(Judge):
    """Scores the first batch."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        if self.states:
            raise RewardServerError("no server is left")
        return super().__call__(images, prompts)


@pytest.mark.filterwarnings("ignore:a judge warns")
@pytest.mark.parametrize("overlap", [True, False])
def test_what_a_reward_raises_ends_the_round(overlap: bool) -> None:
    agent = ppo(judged(Failing()), overlap_rewards=overlap)
    before, seen = weights(agent), Seen()
    with pytest.raises(RewardServerError, match=r"^no server is left$"):
        agent.learn(ROUND, callback=seen)
    assert_at_rest(agent, before, batches=1)
    assert len(seen.batches) == 1


def test_a_reward_that_fails_for_all_says_so_here() -> None:
    class Broken(Judge):
        def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
            raise ValueError("out of order")

    agent = ppo(judged(Broken()))
    before = weights(agent)
    with pytest.raises(InvalidInputError, match="out of order"):
        agent.learn(ROUND)
    assert_at_rest(agent, before, batches=0)


@pytest.mark.filterwarnings("ignore:.*judge")
def test_a_round_of_too_many_failures_is_refused_as_ever() -> None:
    agent = ppo(judged())
    before = weights(agent)
    with pytest.raises(RewardFailureError):
        agent.learn(ROUND)
    assert_at_rest(agent, before, batches=BATCHES)


def assert_at_rest(agent: ImageAlgorithm, before: Tensor, batches: int) -> None:
    """Nothing was trained, nothing runs, and the environment scores as usual."""
    assert torch.equal(weights(agent), before)
    assert agent.num_timesteps == agent.reward_queries == batches * IMAGES
    assert not scorers()
    assert agent.base_env._unscored is None


class Slow(Judge):
    """Notes when it has done a batch."""

    done = 0

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        time.sleep(0.3)
        self.done += 1
        return RewardResult.from_values(images.mean((1, 2, 3)))


def test_an_interruption_waits_for_the_score_under_way_and_leaves_nothing_running() -> None:
    slow = Slow()
    agent = ppo(judged(slow))
    before, drawn = weights(agent), itertools.count(1)

    def interrupt() -> None:
        if next(drawn) == STEPS + 1:  # of the second batch, while the first is scored
            raise KeyboardInterrupt

    passes(agent, interrupt)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(ROUND)
    assert slow.done == 1
    assert_at_rest(agent, before, batches=0)


def test_a_callback_that_stops_leaves_nothing_running() -> None:
    slow = Slow()
    agent = ppo(judged(slow))
    before, drawn = weights(agent), itertools.count(1)
    passes(agent, lambda: next(drawn) and None)
    agent.learn(ROUND, callback=Seen(last=1))
    assert next(drawn) == 2 * STEPS + 1
    assert slow.done == 1
    assert_at_rest(agent, before, batches=1)
    agent.learn(ROUND)
    assert not torch.equal(weights(agent), before)


def test_an_environment_that_is_closed_ends_it() -> None:
    class Closes(Seen):
        def _on_step(self) -> bool:
            self.model.env.close()
            return super()._on_step()

    agent = ppo(judged(Slow()))
    before = weights(agent)
    with pytest.raises(ClosedEnvironmentError):
        agent.learn(ROUND, callback=Closes())
    assert_at_rest(agent, before, batches=1)


# ------------------------------------------------------------------------------- refusals


class ByReturn(CreditReward):
    """Reads returns, and says nothing of it."""

    def assign_credit(self, episodes: Any, step_mask: Tensor, infos: Any) -> Any:
        return {"step_weight": episodes.returns[:, None].abs().expand(step_mask.shape)}


class VectorByReturn(ByReturn, VectorShaping, form_of=ByReturn):
    """Of a vector environment."""


class Changed(VectorNoiseAwareReward):
    """What it inherits says nothing of what it does."""


class Even(CreditReward):
    """Says that it reads none."""

    ignores_rewards = True

    def assign_credit(self, episodes: Any, step_mask: Tensor, infos: Any) -> Any:
        return {"step_weight": torch.ones(step_mask.shape)}


class VectorEven(VectorShaping, Even, form_of=Even):
    """Of a vector environment."""


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda env: B2DiffuRLReward(env, branches=2), "B2DiffuRLReward"),
        (lambda env: UniformCreditReward(B2DiffuRLReward(env, branches=2)), "B2DiffuRLReward"),
        (ByReturn, "ByReturn"),
        (Changed, "Changed"),
        (lambda env: TransformReward(env, lambda reward: 2 * reward), "TransformReward"),
        (lambda env: UniformCreditReward(TransformReward(env, abs)), "TransformReward"),
    ],
)
def test_wrappers_that_may_need_rewards_are_refused(wrap: Any, name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"ignores_rewards = True.*, got {name}$"):
        ppo(wrap(make_env(IMAGES)))
    ppo(wrap(make_env(IMAGES)), overlap_rewards=False)


def test_a_wrapper_of_ones_own_says_that_it_needs_none() -> None:
    assert ppo(Even(make_env(IMAGES))).config.overlap_rewards


def test_one_batch_has_nothing_to_overlap_with(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInputError, match="batches_per_round of at least 2, got 1"):
        PPOConfig(overlap_rewards=True)
    with pytest.raises(SystemExit):
        read_settings(["--overlap-rewards"])
    assert "batches_per_round" in capsys.readouterr().err
    settings = read_settings(["--overlap-rewards", "--batches-per-round", "2"])
    assert settings.agent.overlap_rewards
    assert not read_settings([]).agent.overlap_rewards
