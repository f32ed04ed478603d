import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_agents import make_agent
from stable_baselines3.common.logger import Logger

from agents.ppo.update import clipped_surrogate, gaussian_kl
from agents.runs.run_folder import MetricsFile, RunFolder
from diffusion_gym.schedules import DenoisingStep


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.2),  # clipped at 1.1: no reward for going further
        (0.5, 2.0, -1.0),  # unclipped: the pessimistic bound
        (1.5, -2.0, 3.0),
        (0.5, -2.0, 1.8),
    ],
)
def test_surrogate_by_hand(ratio: float, advantage: float, loss: float) -> None:
    value = clipped_surrogate(torch.tensor([ratio]), torch.tensor([advantage]), 0.1)
    assert value.item() == pytest.approx(loss)


@given(st.floats(0.01, 3), st.floats(-5, 5), st.floats(1e-4, 0.5))
def test_surrogate_never_promises_more_than_unclipped(
    ratio: float, advantage: float, clip: float
) -> None:
    loss = clipped_surrogate(torch.tensor([ratio]), torch.tensor([advantage]), clip)
    assert loss.item() >= -advantage * ratio - 1e-5


def test_surrogate_has_no_gradient_beyond_the_clip_range() -> None:
    ratio = torch.tensor([1.2, 1.05], requires_grad=True)
    clipped_surrogate(ratio, torch.ones(2), 0.1).backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, -0.5]


def test_kl_is_that_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, other = torch.randn(2, 3, 4, 5, 5, generator=generator)
    std = torch.tensor([0.3, 0.7, 1.1]).view(3, 1, 1, 1)
    ours = gaussian_kl(DenoisingStep(mean, std, mean), DenoisingStep(other, std, other))
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(mean, std), normal(other, std))
    torch.testing.assert_close(ours, theirs.flatten(1).mean(1))


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_divergence_that_is_not_computed_is_not_zero(kl_coef: float, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    agent = make_agent(kl_coef=kl_coef)
    agent.set_logger(Logger(str(tmp_path), [MetricsFile(run.metrics_file)]))
    agent.learn(4)
    (row,) = run.metrics()
    assert math.isnan(row["train/kl_to_base"]) == (kl_coef == 0)
    assert math.isfinite(row["train/loss"])
