"""`CreditReward`: a shaping of a user's own, in credit or in weights of steps."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from small_episodes import T, episode, make, make_vec

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    CreditReward,
    SingleShaping,
    VectorShaping,
    hindsight,
)


class PowerWeight(CreditReward):
    """P_i = (1 − i/T)^power."""

    def __init__(self, env, *, power=1.0):
        super().__init__(env, power=power)
        self.power = power

    def assign_credit(self, episodes, step_mask, infos):
        count, steps = step_mask.shape
        weights = (1 - torch.arange(steps) / steps) ** self.power
        return {"step_weight": weights.repeat(count, 1), "power": torch.full((count,), self.power)}


class SinglePowerWeight(PowerWeight, SingleShaping, form_of=PowerWeight):
    pass


class VectorPowerWeight(PowerWeight, VectorShaping, form_of=PowerWeight):
    pass


class Given(CreditReward, VectorShaping):
    """Writes what it is given; for vector environments alone."""

    def __init__(self, env, **values):
        super().__init__(env)
        self.values = values

    def assign_credit(self, episodes, step_mask, infos):
        return {key: torch.as_tensor(value) for key, value in self.values.items()}


WEIGHTS = [1.0, 0.75, 0.5, 0.25]
CREDIT = [0.25] * 4


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_weights_of_ones_own_reach_the_agent(array_type, mode):
    env = PowerWeight(make_vec(2, array_type=array_type, autoreset_mode=mode))
    _, infos, episodes = episode(env)
    known = hindsight(episodes, T)
    assert known.step_weight.tolist() == [WEIGHTS] * 2
    assert known.credit.tolist() == [CREDIT] * 2
    assert known.step_mask.all()
    assert episodes.extras["power"].tolist() == [1.0, 1.0]
    assert infos.get("final_info", infos)["_step_weight"].all()


def test_weights_of_ones_own_around_a_single_environment():
    env = PowerWeight(make(), power=2.0)
    observation, _ = env.reset(seed=0)
    for _ in range(T):
        observation, _, _, _, info = env.step(observation["latent"] * np.float32(0.9))
    assert info["step_weight"].tolist() == [1.0, 0.5625, 0.25, 0.0625]
    assert info["credit"].tolist() == [0.4375, 0.3125, 0.1875, 0.0625]
    rebuilt = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert type(rebuilt) is SinglePowerWeight
    assert rebuilt.power == 2.0


def test_credit_is_summed_and_weights_are_not():
    falling = [0.4, 0.3, 0.2, 0.1]
    summed = hindsight(episode(Given(make_vec(1), credit=[falling]))[2], T)
    direct = hindsight(episode(Given(make_vec(1), step_weight=[falling]))[2], T)
    assert summed.step_weight[0].tolist() == pytest.approx([1.0, 0.6, 0.3, 0.1])
    assert direct.step_weight[0].tolist() == pytest.approx(falling)
    assert direct.credit[0].tolist() == pytest.approx([0.25] * 4)


def test_steps_of_weight_0_are_masked():
    given = [[0.0, 2.0, 0.0, 1.0]]
    known = hindsight(episode(Given(make_vec(1), step_weight=given))[2], T)
    assert known.step_mask.tolist() == [[False, True, False, True]]
    assert known.step_weight.tolist() == given
    assert known.credit.tolist() == [[0.0, 1.0, -0.5, 0.5]]


def test_weights_around_branches_keep_to_the_steps_that_are_trained():
    branches = B2DiffuRLReward(make_vec(4), branches=2, schedule=(2, 10), positive=-9, negative=-9)
    known = hindsight(episode(PowerWeight(branches))[2], T)
    trained = known.step_mask.any(1)
    assert 0 < trained.sum() < 4
    assert known.step_weight.tolist() == [WEIGHTS] * 4
    assert known.step_mask[trained].tolist() == [[False, False, True, True]] * int(trained.sum())
    assert known.credit[trained].tolist() == [[0, 0, 0.5, 0.5]] * int(trained.sum())
    assert known.credit[~trained].tolist() == [CREDIT] * int((~trained).sum())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step_weight": [WEIGHTS[:3]]}, r"step_weight of shape \(1, 4\), got \(1, 3\)"),
        ({"step_weight": [[0.0] * 4]}, "got zeros alone"),
        ({"step_weight": [[1.0, 1.0, 1.0, float("nan")]]}, "expected finite step_weight"),
        ({"step_weight": [[-1.0, 1.0, 1.0, 1.0]]}, "begin positive, got -1"),
        ({"credit": [CREDIT[:3]]}, r"credit of shape \(1, 4\), got \(1, 3\)"),
        ({"credit": [WEIGHTS]}, r"credit with the sum 1 .*, got \[2.5\]; weights of steps are"),
        ({"credit": [[float("inf"), 0.0, 0.0, 0.0]]}, "expected finite credit"),
        ({"credits": [CREDIT]}, r"expected 'credit' or 'step_weight', got \['credits'\]"),
    ],
)
def test_what_means_nothing_is_refused(values, message):
    with pytest.raises(InvalidInputError, match=message):
        episode(Given(make_vec(1), **values))


def test_the_base_says_what_is_missing():
    with pytest.raises(InvalidInputError, match="CreditReward has no form for vector environments"):
        CreditReward(make_vec(1))
