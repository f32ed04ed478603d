"""The hindsight protocol's defaults and checks."""

import numpy as np
import pytest
import torch

from diffusion_gym import FinishedEpisodes
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import hindsight, step_rewards
from diffusion_gym.wrappers.hindsight import restrict_credit


def episodes(kind, **extras):
    return FinishedEpisodes(
        rows=kind([0, 2]),
        prompt_id=kind([5, 1]),
        image=kind(np.zeros((2, 4, 4, 3), np.uint8)),
        reward_valid=kind([True, False]),
        reward_terms={},
        extras={key: kind(value) for key, value in extras.items()},
    )


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_defaults_are_those_of_a_terminal_reward(kind):
    known = hindsight(episodes(kind), num_steps=3)
    assert type(known.credit) is type(known.step_mask) is type(kind([0]))
    assert known.credit.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert known.step_mask.tolist() == [[True] * 3, [False] * 3]
    assert known.advantage is None


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_what_wrappers_wrote_is_kept(kind):
    credit = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]
    mask = [[False, True, True], [True, True, True]]
    written = episodes(kind, credit=credit, step_mask=mask, advantage=[1.5, -2.0])
    known = hindsight(written, num_steps=3)
    assert known.credit.tolist() == credit
    assert known.step_mask.tolist() == [mask[0], [False] * 3]
    assert known.advantage.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"credit": [[1.0, 0.0]] * 2}, r"credit of shape \(2, 3\) in the infos, got \(2, 2\)"),
        ({"step_mask": [[True] * 3]}, r"step_mask of shape \(2, 3\) in the infos, got \(1, 3\)"),
        ({"advantage": [[1.0], [2.0]]}, r"advantage of shape \(2,\) in the infos, got \(2, 1\)"),
    ],
)
def test_wrong_shapes(extras, message):
    with pytest.raises(InvalidInputError, match=message):
        hindsight(episodes(np.asarray, **extras), num_steps=3)


def test_step_rewards_share_out_the_return():
    credit = torch.tensor([[0.5, -0.25, 0.75], [0.0, 0.0, 1.0]])
    dense = step_rewards(credit, torch.tensor([4.0, -2.0]))
    assert dense.tolist() == [[2.0, -1.0, 3.0], [0.0, 0.0, -2.0]]
    assert step_rewards(credit.numpy(), np.array([4.0, -2.0])).tolist() == dense.tolist()


def test_restricted_credit():
    credit = torch.tensor(
        [
            [0.25, 0.25, 0.2, 0.3],  # half of it lies inside
            [0.5, 0.5, 0.5, -0.5],  # none in sum: uniform over the mask
            [0.5, 1.0, 0.5, -1.0],  # less than none: uniform, not reversed
            [0.4, 0.3, 0.2, 0.1],  # nothing is trained: as it was
        ]
    )
    mask = torch.tensor([[False, False, True, True]] * 3 + [[False] * 4])
    expected = [[0, 0, 0.4, 0.6], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0.4, 0.3, 0.2, 0.1]]
    torch.testing.assert_close(restrict_credit(credit, mask), torch.tensor(expected))
