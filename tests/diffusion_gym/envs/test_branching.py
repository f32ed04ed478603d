"""States: exact round trips, branching, and what follows a branch."""

import pickle
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

from diffusion_gym import DenoisingState
from diffusion_gym.errors import InvalidInputError

T = 3
TASK = {"num_inference_steps": T, "prompts": ["a cat", "a dog", "an apple", "grapes"]}


def make_vec(num_envs=3, **kwargs):
    kwargs = {"array_type": "torch"} | TASK | kwargs
    return gymnasium.make_vec("DiffusionT2I-v0", num_envs=num_envs, **kwargs)


def play(envs, observation, steps):
    """Observations, rewards and prompts of the next steps, with actions that follow from them."""
    trace = []
    for _ in range(steps):
        observation, rewards, _, _, infos = envs.step(observation["latent"] * 0.9)
        trace += [observation["latent"], observation["timestep"], rewards, infos["prompt_id"]]
    return trace


def assert_equal(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("steps_before", [0, 1, T])
def test_round_trip_is_exact_beyond_the_episode(steps_before):
    envs = make_vec()
    observation, _ = envs.reset(seed=3)
    play(envs, observation, steps_before)
    state = envs.get_state()
    observation, infos = envs.set_state(state)
    expected = play(envs, observation, 2 * T)
    again, again_infos = envs.set_state(state)
    assert_equal(observation.values(), again.values())
    assert_equal(infos.values(), again_infos.values())
    assert_equal(play(envs, again, 2 * T), expected)


def test_a_state_continues_in_another_env_and_through_pickle():
    envs = make_vec()
    envs.reset(seed=3, options={"prompts": ["a dog", "a zebra", "a wolf"]})
    state = pickle.loads(pickle.dumps(envs.get_state()))
    expected = play(envs, envs.set_state(state)[0], 2 * T)
    other = make_vec(prompts=[*TASK["prompts"]])
    observation, infos = other.set_state(state)
    assert [other.prompt_text(number) for number in infos["prompt_id"]] == list(state.prompts)
    assert_equal(play(other, observation, 2 * T), expected)


def test_prompts_are_recognised_by_text_where_ids_differ():
    envs = make_vec()
    envs.reset(seed=3, options={"prompts": ["a dog", "a cat", "grapes"]})
    other = make_vec(prompts=TASK["prompts"][::-1])
    observation, infos = other.set_state(envs.get_state())
    assert infos["prompt_id"].tolist() == [2, 3, 0]
    expected = envs.prompt_embedding([1, 0, 3]).tokens
    assert torch.equal(observation["prompt_embedding"], expected)


def test_a_state_is_a_copy():
    envs = make_vec()
    observation, _ = envs.reset(seed=3)
    state = envs.get_state()
    latents = state.latents.clone()
    play(envs, observation, 2)
    assert torch.equal(state.latents, latents)
    assert state.step_index.tolist() == [0, 0, 0]
    envs.set_state(state)
    state.latents.zero_()
    assert torch.equal(envs.get_state().latents, latents)


def test_branches_agree_until_their_actions_differ_and_their_next_episodes_differ():
    envs = make_vec(num_envs=4)
    observation, _ = envs.reset(seed=0)
    play(envs, observation, 1)
    root = envs.get_state().select([2, 2, 2, 2])
    assert root.rng is None
    observation, infos = envs.set_state(root)
    for value in (*observation.values(), infos["prompt_id"]):
        assert all(torch.equal(value[0], row) for row in value)
    observation, rewards, terminations, _, infos = envs.step(observation["latent"] * 0.9)
    observation, rewards, terminations, _, infos = envs.step(observation["latent"] * 0.9)
    assert terminations.all()
    torch.testing.assert_close(rewards, rewards[:1].expand(4), atol=1e-5, rtol=0)
    noise = observation["latent"].flatten(1)
    assert torch.cdist(noise, noise).fill_diagonal_(99).min() > 1


@pytest.mark.parametrize("how", ["options", "select", "restore_rng=False"])
def test_the_generators_are_left_alone(how):
    envs = make_vec()
    envs.reset(seed=0)
    state = envs.get_state()
    envs.reset(seed=77)
    before = envs.get_state().rng
    if how == "options":
        envs.reset(options={"state": state})
    elif how == "select":
        envs.set_state(state.select([0, 1, 2]))
    else:
        envs.set_state(state, restore_rng=False)
    after = envs.get_state()
    assert after.rng == before
    assert torch.equal(after.latents, state.latents)


def test_a_seed_beside_a_state_seeds_what_follows():
    envs = make_vec()
    envs.reset(seed=0)
    state = envs.get_state()
    first = play(envs, envs.reset(seed=5, options={"state": state})[0], T + 1)
    second = play(envs, envs.reset(seed=5, options={"state": state})[0], T + 1)
    assert_equal(first, second)
    other = play(envs, envs.reset(seed=6, options={"state": state})[0], T + 1)
    assert torch.equal(first[0], other[0])
    assert not torch.equal(first[-4], other[-4])


def test_select_takes_lists_arrays_and_tensors():
    envs = make_vec()
    envs.reset(seed=0)
    state = envs.get_state()
    for indices in ([2, 0], np.array([2, 0]), torch.tensor([2, 0])):
        selected = state.select(indices)
        assert len(selected) == 2
        assert torch.equal(selected.latents, state.latents[[2, 0]])
        assert selected.prompt_ids.tolist() == state.prompt_ids[[2, 0]].tolist()
        assert selected.prompts == (state.prompts[2], state.prompts[0])


def test_an_ended_episode_stays_ended():
    envs = make_vec(autoreset_mode="Disabled")
    observation, _ = envs.reset(seed=0)
    play(envs, observation, T)
    state = envs.get_state()
    envs.reset()
    observation, _ = envs.set_state(state)
    assert observation["timestep"].tolist() == [[0.0]] * 3
    with pytest.raises(ResetNeeded):
        envs.step(observation["latent"])


def test_the_single_env_branches_too():
    env = gymnasium.make("DiffusionT2I-v0", **TASK).unwrapped
    observation, _ = env.reset(seed=1)
    observation = env.step(observation["latent"])[0]
    state = env.get_state()
    following = env.reset()[0]
    restored, info = env.set_state(state)
    np.testing.assert_array_equal(restored["latent"], observation["latent"])
    assert info["prompt_id"] == state.prompt_ids[0]
    np.testing.assert_array_equal(env.reset()[0]["latent"], following["latent"])
    fresh = gymnasium.make("DiffusionT2I-v0", **TASK).unwrapped
    restored = fresh.set_state(state)[0]
    np.testing.assert_array_equal(restored["latent"], observation["latent"])
    np.testing.assert_array_equal(fresh.reset()[0]["latent"], following["latent"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, "whose model is 'emoji-64', got 'other'"),
        ({"num_steps": 50}, "whose number of steps is 3, got 50"),
        ({"latents": torch.zeros(3, 4, 8, 8)}, r"shape is \(3, 16, 8, 8\), got \(3, 4, 8, 8\)"),
        ({"latents": torch.full((3, 16, 8, 8), torch.nan)}, "finite latents"),
        ({"step_index": np.array([0, 1, 4])}, r"from 0 to 3, got \[0, 1, 4\]"),
    ],
)
def test_states_that_do_not_fit(change, message):
    envs = make_vec()
    envs.reset(seed=0)
    before = envs.get_state()
    with pytest.raises(InvalidInputError, match=message):
        envs.set_state(replace(before, **change))
    assert torch.equal(envs.get_state().latents, before.latents)


def test_a_state_of_other_rows_does_not_fit():
    envs = make_vec()
    envs.reset(seed=0)
    with pytest.raises(InvalidInputError, match=r"got \(2, 16, 8, 8\)"):
        envs.set_state(envs.get_state().select([0, 1]))
    with pytest.raises(InvalidInputError, match="no reset_mask beside a state"):
        envs.reset(options={"state": envs.get_state(), "reset_mask": np.ones(3, bool)})


def test_repr_tells_the_rows():
    envs = make_vec()
    envs.reset(seed=0)
    state = envs.get_state()
    assert isinstance(state, DenoisingState)
    assert repr(state).startswith("DenoisingState(rows=3, step_index=[0, 0, 0], prompt_ids=[")
