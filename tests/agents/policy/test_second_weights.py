"""A second set of weights: where it lives, when it is used, how it follows."""

from typing import Any

import pytest
import torch
from small_agents import make_agent, make_env
from small_nft import make_nft

from agents.common.checkpoint import save_checkpoint
from agents.common.checkpoint_folder import read_checkpoint, write_checkpoint
from agents.nft import DiffusionNFT
from agents.policy import UNetPolicy
from agents.policy.second_weights import SecondWeights
from diffusion_gym.errors import InvalidInputError

KINDS: list[dict[str, Any]] = [{}, {"lora_rank": 2, "lora_alpha": 6.0}]


@pytest.fixture(params=KINDS, ids=["full", "lora"])
def policy(request: pytest.FixtureRequest) -> UNetPolicy:
    return make_agent(policy_kwargs=request.param).policy


def move(policy: UNetPolicy) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def drawn(policy: UNetPolicy) -> torch.Tensor:
    observation, _ = make_env().reset(seed=0)
    return policy.act(observation, deterministic=True).actions


def test_they_begin_as_the_trained_ones_and_stay_behind(policy: UNetPolicy) -> None:
    move(policy)
    start = drawn(policy)
    names = set(policy.state_dict())
    second = SecondWeights(policy)
    assert set(policy.state_dict()) == names
    assert torch.equal(drawn(policy), start)
    move(policy)
    moved = drawn(policy)
    assert not torch.equal(moved, start)
    with second.in_place():
        assert torch.equal(drawn(policy), start)
    assert torch.equal(drawn(policy), moved)
    second.follow(1.0)
    with second.in_place():
        assert torch.equal(drawn(policy), start)
    second.follow(0.0)
    with second.in_place():
        assert torch.equal(drawn(policy), moved)


def test_an_error_meanwhile_leaves_the_policy_as_it_was(policy: UNetPolicy) -> None:
    second = SecondWeights(policy)
    move(policy)
    moved = drawn(policy)
    with pytest.raises(RuntimeError, match="meanwhile"), second.in_place():
        raise RuntimeError("meanwhile")
    assert torch.equal(drawn(policy), moved)


def test_gradients_that_are_gathered_stay(policy: UNetPolicy) -> None:
    """An update is several passes, each with the second weights in between."""
    second = SecondWeights(policy)
    observation, _ = make_env().reset(seed=0)
    conditions = policy.conditions(observation)

    def passed() -> None:
        with second.in_place():
            assert not policy.transition(*conditions).mean.requires_grad
        policy.transition(*conditions).mean.square().mean().backward()

    passed()
    once = [p.grad.clone() for p in policy.trainable_parameters() if p.grad is not None]
    passed()
    twice = [p.grad for p in policy.trainable_parameters() if p.grad is not None]
    assert len(twice) == len(once) > 0
    for first, both in zip(once, twice, strict=True):
        torch.testing.assert_close(both, 2 * first)
    assert all(p.requires_grad for p in policy.trainable_parameters())
    assert not any(value.requires_grad for value in second.state_dict().values())


def test_weights_that_do_not_fit_are_refused(policy: UNetPolicy) -> None:
    second = SecondWeights(policy)
    state = {name: value.clone() for name, value in second.state_dict().items()}
    name = next(iter(state))
    for wrong in (
        {k: v for k, v in state.items() if k != name},
        state | {"more": torch.ones(1)},
        state | {name: torch.ones(1)},
        state | {name: state[name].double()},
    ):
        with pytest.raises(InvalidInputError, match="these do not fit: "):
            second.load_state_dict(wrong)
    second.load_state_dict({key: value + 1 for key, value in state.items()})
    assert torch.equal(second.state_dict()[name], state[name] + 1)


def test_a_checkpoint_without_them_is_refused(tmp_path: Any) -> None:
    folder = save_checkpoint(make_nft().learn(4), tmp_path / "round-000001")
    checkpoint = read_checkpoint(folder)
    old = checkpoint.state["old"]
    name = next(iter(old))
    for wrong in ({}, old | {name: torch.ones(1)}, {k: 0 for k in old}):
        forged = tmp_path / "round-000002"
        checkpoint.state["old"] = wrong
        write_checkpoint(checkpoint, forged)
        with pytest.raises(InvalidInputError, match=r"old|these do not fit"):
            DiffusionNFT.resume(forged, make_env(eta=0.0))
    del checkpoint.state["old"]
    write_checkpoint(checkpoint, tmp_path / "round-000003")
    with pytest.raises(InvalidInputError, match=r"state of the training.*KeyError"):
        DiffusionNFT.resume(tmp_path / "round-000003", make_env(eta=0.0))
