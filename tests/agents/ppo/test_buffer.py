import torch

from agents.ppo.buffer import Trajectories, TrajectoryBuffer
from diffusion_gym.wrappers import credit_to_go


def trajectories(count: int = 3, steps: int = 4, **changes: torch.Tensor) -> Trajectories:
    latents = torch.arange(count * (steps + 1)).float().view(count, steps + 1, 1, 1, 1)
    fields = {
        "latents": latents,
        "log_probs": torch.arange(count * steps).float().view(count, steps),
        "prompt_ids": torch.arange(count),
        "returns": torch.zeros(count),
        "valid": torch.ones(count, dtype=torch.bool),
        "credit": torch.eye(steps)[-1].repeat(count, 1),
        "step_weight": torch.ones(count, steps),
        "step_mask": torch.ones(count, steps, dtype=torch.bool),
        "advantages": torch.tensor([1.0, -2.0, 3.0])[:count],
    }
    return Trajectories(**(fields | changes))


def filled(*batches: Trajectories) -> TrajectoryBuffer:
    buffer = TrajectoryBuffer()
    for batch in batches:
        buffer.add(batch)
    return buffer


def test_a_pair_is_a_step_of_a_trajectory() -> None:
    batch = filled(trajectories()).minibatch(torch.tensor([6, 3]))
    assert batch.rows.tolist() == [1, 0]
    assert batch.steps.tolist() == [2, 3]
    assert batch.latents.flatten().tolist() == [7.0, 3.0]
    assert batch.next_latents.flatten().tolist() == [8.0, 4.0]
    assert batch.old_log_prob.tolist() == [6.0, 3.0]
    assert batch.prompt_ids.tolist() == [1, 0]


def test_terminal_reward_gives_every_step_the_whole_advantage() -> None:
    batch = filled(trajectories()).minibatch(torch.arange(12))
    assert batch.advantages.tolist() == [1.0] * 4 + [-2.0] * 4 + [3.0] * 4


def test_a_step_gets_the_advantage_times_its_weight() -> None:
    weight = credit_to_go(torch.tensor([[0.5, 0.25, -0.25, 0.5]]))
    assert weight.tolist() == [[1.0, 0.5, 0.25, 0.5]]
    buffer = filled(trajectories(1, step_weight=weight, advantages=torch.tensor([2.0])))
    assert buffer.minibatch(torch.arange(4)).advantages.tolist() == [2.0, 1.0, 0.5, 1.0]


def test_pairs_leave_out_masked_and_deterministic_steps() -> None:
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False
    stochastic = torch.tensor([True, True, True, False])
    pairs = filled(trajectories(step_mask=mask)).pairs(stochastic, torch.Generator().manual_seed(0))
    assert sorted(pairs.tolist()) == [0, 1, 2, 8, 9, 10]
    assert pairs.tolist() != sorted(pairs.tolist())


def test_batches_are_joined_and_forgotten() -> None:
    buffer = filled(trajectories(2), trajectories(3))
    assert len(buffer.trajectories) == 5
    assert buffer.minibatch(torch.tensor([8])).rows.tolist() == [2]
    buffer.add(trajectories(1))
    assert len(buffer.trajectories) == 6
    buffer.reset()
    buffer.add(trajectories(1))
    assert len(buffer.trajectories) == 1


def test_extras_that_a_batch_lacks_are_unknown_there() -> None:
    first, second = torch.tensor([0.5, 1.0]), torch.tensor([3.0])
    one, two = trajectories(2), trajectories(1)
    one.extras, two.extras = {"a": first}, {"b": second}
    extras = filled(one, two, trajectories(1)).trajectories.extras
    assert extras["a"][:2].tolist() == [0.5, 1.0]
    assert extras["b"][2].item() == 3.0
    assert extras["a"].isnan().tolist() == [False, False, True, True]
    assert extras["b"].isnan().tolist() == [True, True, False, True]
