"""The vector environment: dynamics, layouts, autoreset, options and bad input."""

import dataclasses
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import diffusion_gym
from diffusion_gym import finished_episodes, register_reward
from diffusion_gym.envs.infos import to_numpy
from diffusion_gym.errors import InvalidInputError

T = 3
TASK = {"num_inference_steps": T, "prompts": ["a cat", "a dog", "an apple", "grapes"]}


def make_vec(num_envs=3, **kwargs):
    return gymnasium.make_vec("DiffusionT2I-v0", num_envs=num_envs, **(TASK | kwargs))


def make(**kwargs):
    return gymnasium.make("DiffusionT2I-v0", **(TASK | kwargs))


def advance(envs, steps, observation):
    """Steps with scaled-down latents; returns what the last step returned."""
    for _ in range(steps):
        result = envs.step(observation["latent"] * 0.9)
        observation = result[0]
    return result


def assert_same(actual, expected, path=""):
    """Equal structure, types and dtypes; numbers as equal as batching allows."""
    assert type(actual) is type(expected), path
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), path
        for key in expected:
            assert_same(actual[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, tuple) or getattr(expected, "dtype", None) == np.dtype(object):
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, f"{path}[{number}]")
    elif isinstance(expected, np.ndarray):
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), path
        tolerance = 1 if actual.dtype == np.uint8 else 1e-5
        difference = np.abs(actual.astype(float) - expected.astype(float))
        assert difference.max(initial=0) <= tolerance, path
    else:
        assert actual == expected, path


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_everything_is_as_in_a_sync_vector_env_of_single_envs(mode):
    """Observations, rewards and infos, values and layout, through an episode's end."""
    envs = make_vec(autoreset_mode=mode)
    expected = SyncVectorEnv([make] * 3, autoreset_mode=mode)
    assert envs.observation_space == expected.observation_space
    assert envs.action_space == expected.action_space
    observation, infos = envs.reset(seed=7)
    assert_same((observation, infos), expected.reset(seed=7))
    for _ in range(T + (2 if mode == "SameStep" else 0)):
        action = observation["latent"] * 0.8
        observation, *results = envs.step(action)
        expected_observation, *expected_results = expected.step(action)
        assert_same(observation, expected_observation)
        for one, other in zip(results, expected_results, strict=True):
            assert_same(one, other)
    envs.close()
    expected.close()


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_row_i_is_the_single_env_seeded_s_plus_i(array_type):
    envs = make_vec(array_type=array_type)
    observation, infos = envs.reset(seed=40)
    calls = [(observation, infos)]
    for _ in range(2 * T):
        observation, rewards, terminations, truncations, infos = envs.step(
            observation["latent"] * 0.9
        )
        calls.append((observation, infos, rewards, terminations, truncations))
    calls = [to_numpy(dict(enumerate(call))) for call in calls]
    for row in range(3):
        env = make()
        observation, info = env.reset(seed=40 + row)
        for call in calls[1:]:
            action = observation["latent"] * np.float32(0.9)
            observation, reward, terminated, truncated, info = env.step(action)
            assert reward == pytest.approx(float(call[2][row]), abs=1e-5)
            assert (terminated, truncated) == (bool(call[3][row]), bool(call[4][row]))
            if terminated:
                episodes = finished_episodes(call[1])
                assert int(episodes.prompt_id[row]) == info["prompt_id"]
                levels = episodes.image[row].astype(int) - info["image"]
                assert np.abs(levels).max() <= 1
                observation, info = env.reset()
            assert info["prompt_id"] == int(call[1]["prompt_id"][row])
            for key, value in observation.items():
                np.testing.assert_array_equal(value, call[0][key][row])


def test_torch_arrays_stay_on_the_device_and_embeddings_are_one_object():
    envs = make_vec(array_type="torch")
    observation, infos = envs.reset(seed=0)
    embedding = observation["prompt_embedding"]
    observation, rewards, terminations, truncations, infos = advance(envs, T - 1, observation)
    assert observation["prompt_embedding"] is embedding
    arrays = [*observation.values(), rewards, terminations, truncations, *infos.values()]
    assert all(isinstance(array, torch.Tensor) for array in arrays)
    assert all(array.device == envs.device for array in arrays)
    assert rewards.dtype == torch.float32
    assert terminations.dtype == truncations.dtype == torch.bool
    observation, rewards, terminations, _, infos = advance(envs, 1, observation)
    assert terminations.all()
    assert observation["prompt_embedding"] is not embedding
    final = infos["final_info"]
    assert final["image"].dtype == torch.uint8
    assert final["image"].shape == (3, 64, 64, 3)
    assert torch.equal(infos["final_obs"]["prompt_embedding"], embedding)
    assert infos["final_obs"]["timestep"].tolist() == [[0.0]] * 3


def test_the_action_is_copied():
    envs = make_vec(array_type="torch")
    envs.reset(seed=0)
    action = torch.ones(envs.action_space.shape, requires_grad=True)
    observation = envs.step(action)[0]
    assert not observation["latent"].requires_grad
    with torch.no_grad():
        action.zero_()
    assert (observation["latent"] == 1).all()
    assert (envs.get_state().latents == 1).all()


def test_numpy_arrays_are_the_callers_own():
    envs = make_vec()
    observation, infos = envs.reset(seed=0)
    before = envs.get_state()
    for array in [*observation.values(), *infos.values()]:
        array[...] = 0
    assert torch.equal(envs.get_state().latents, before.latents)
    observation, _, _, _, infos = envs.step(np.ones(envs.action_space.shape, np.float32))
    assert observation["prompt_embedding"].any()
    assert infos["_prompt_id"].all()


def test_disabled_autoreset_waits_for_the_reset_mask():
    envs = make_vec(autoreset_mode="Disabled", array_type="torch")
    observation, _ = envs.reset(seed=0)
    observation, _, terminations, _, infos = advance(envs, T, observation)
    assert terminations.all()
    assert "final_info" not in infos
    assert len(finished_episodes(infos)) == 3
    with pytest.raises(ResetNeeded, match=r"ended ones in rows \[0, 1, 2\]"):
        envs.step(observation["latent"])
    mask = np.array([True, False, True])
    options = {"reset_mask": mask}
    restarted, infos = envs.reset(options=options)
    assert options == {"reset_mask": mask}
    assert restarted["timestep"][:, 0].tolist() == [999.0, 0.0, 999.0]
    assert torch.equal(restarted["latent"][1], observation["latent"][1])
    assert not torch.equal(restarted["latent"][0], observation["latent"][0])
    with pytest.raises(ResetNeeded, match=r"rows \[1\]"):
        envs.step(restarted["latent"])
    envs.reset(options={"reset_mask": torch.tensor([False, True, False])})
    advance(envs, 1, restarted)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_rows_may_be_at_different_steps(mode, array_type):
    envs = make_vec(autoreset_mode=mode, array_type=array_type)
    envs.reset(seed=0)
    state = dataclasses.replace(envs.get_state(), step_index=np.array([0, 2, 1]))
    observation, infos = envs.set_state(state)
    first, second, third = (float(t) for t in envs.schedule.timesteps)
    assert observation["timestep"][:, 0].tolist() == [first, third, second]
    observation, rewards, terminations, _, infos = advance(envs, 1, observation)
    assert terminations.tolist() == [False, True, False]
    assert (np.asarray(rewards) != 0).tolist() == [False, True, False]
    assert envs.images_scored == 1
    episodes = finished_episodes(infos)
    assert episodes.rows.tolist() == [1]
    assert int(episodes.prompt_id[0]) == state.prompt_ids[1]
    after_end = first if mode == "SameStep" else 0.0
    assert observation["timestep"][:, 0].tolist() == [second, after_end, third]
    mask = infos["_final_info"] if mode == "SameStep" else infos["_image"]
    assert mask.tolist() == [False, True, False]


def test_a_prompt_is_drawn_for_every_episode_and_told():
    envs = make_vec(num_envs=16)
    observation, infos = envs.reset(seed=0)
    assert set(infos["prompt_id"].tolist()) == {0, 1, 2, 3}
    first = infos["prompt_id"]
    infos = advance(envs, T, observation)[-1]
    assert infos["final_info"]["prompt_id"].tolist() == first.tolist()
    assert infos["prompt_id"].tolist() != first.tolist()
    assert envs.prompt_text(2) == "an apple"


def test_prompts_may_be_chosen():
    envs = make_vec(reward="jpeg_compressibility")
    observation, infos = envs.reset(seed=0, options={"prompts": ["a dog", "a red hen", "a dog"]})
    assert infos["prompt_id"].tolist() == [1, 4, 1]
    assert envs.prompt_text(4) == "a red hen"
    expected = envs.model.encode(["a red hen"]).tokens[0]
    np.testing.assert_allclose(observation["prompt_embedding"][1], expected, atol=1e-6)
    again = envs.reset(seed=0, options={"prompt_ids": torch.tensor([1, 4, 1])})[0]
    for key, value in observation.items():
        np.testing.assert_array_equal(again[key], value)
    # Own prompts are never drawn for episodes that follow.
    assert envs.reset(seed=1)[1]["prompt_id"].max() < 4


def test_prompt_embedding_looks_ids_up_whatever_they_come_in():
    envs = make_vec()
    by_list = envs.prompt_embedding([3, 0]).tokens
    for ids in (np.array([3, 0]), torch.tensor([3, 0])):
        assert torch.equal(envs.prompt_embedding(ids).tokens, by_list)
    torch.testing.assert_close(by_list, envs.model.encode(["grapes", "a cat"]).tokens)
    with pytest.raises(InvalidInputError, match=r"prompt ids from 0 to 3, got \[0, 4\]"):
        envs.prompt_embedding([0, 4])


def test_prompts_beyond_the_cache_are_encoded_again(monkeypatch):
    monkeypatch.setattr("diffusion_gym.envs._prompt_table.CACHE_BYTES", 2 * 4 * 24 * 128)  # of two
    envs = make_vec()
    whole = envs.prompt_embedding([0, 1, 2, 3]).tokens
    assert torch.equal(envs.prompt_embedding([2, 0, 3]).tokens, whole[[2, 0, 3]])


def test_seeds_per_row():
    envs = make_vec()
    by_number = envs.reset(seed=5)[0]["latent"]
    assert envs.np_random_seed == (5, 6, 7)
    by_list = envs.reset(seed=[7, 6, 5])[0]["latent"]
    np.testing.assert_array_equal(by_number[::-1], by_list)
    envs.reset(seed=5)
    unseeded = envs.reset()[0]["latent"]
    envs.reset(seed=5)
    partly = envs.reset(seed=[None, 5, None])[0]["latent"]
    np.testing.assert_array_equal(partly[[0, 2]], unseeded[[0, 2]])
    np.testing.assert_array_equal(partly[1], by_number[0])
    with pytest.raises(InvalidInputError, match="expected 3 seeds, got 2"):
        envs.reset(seed=[1, 2])


def test_rewards_are_those_of_the_reward_function():
    envs = make_vec(array_type="torch", reward={"jpeg_compressibility": 1.0, "house_style": 2.0})
    observation, _ = envs.reset(seed=0)
    _, rewards, _, _, infos = advance(envs, T, observation)
    episodes = finished_episodes(infos)
    images = episodes.image.permute(0, 3, 1, 2) / 255
    texts = [envs.prompt_text(number) for number in episodes.prompt_id]
    expected = envs.reward_function(images, texts).values
    torch.testing.assert_close(rewards, expected, atol=0.02, rtol=0)
    assert envs.images_scored == 3


@pytest.mark.parametrize("spec", ["blackens", {"blackens": 1.0, "jpeg_compressibility": 1.0}])
def test_a_reward_that_changes_the_images_leaves_those_of_the_infos_alone(spec):
    @register_reward("blackens")
    def make_blackens(device):
        def reward(images, prompts):
            return images.zero_().mean((1, 2, 3))

        return reward

    envs, polite = make_vec(reward=spec), make_vec(reward="jpeg_compressibility")
    observation, _ = envs.reset(seed=0)
    polite.reset(seed=0)
    _, rewards, _, _, infos = advance(envs, T, observation)
    _, sizes, _, _, expected = advance(polite, T, observation)
    np.testing.assert_array_equal(infos["final_info"]["image"], expected["final_info"]["image"])
    np.testing.assert_allclose(rewards, sizes if isinstance(spec, dict) else 0.0)


def test_a_reward_of_another_signature_ends_the_first_episode_with_its_cause():
    register_reward("foreign")(lambda device: lambda images, prompts, details: images.mean())
    envs = make_vec(reward="foreign")
    observation, _ = envs.reset(seed=0)
    with pytest.raises(InvalidInputError, match=r"missing 1 .*'details'.*reward\(images, pro"):
        advance(envs, T, observation)


def test_an_image_that_cannot_be_scored_gets_zero_and_is_marked():
    @register_reward("fails_on_dogs")
    def make_reward(device):
        def reward(images, prompts):
            if "a dog" in prompts:
                raise RuntimeError("no dogs")
            return images.mean((1, 2, 3))

        return reward

    envs = make_vec(reward="fails_on_dogs")
    observation, _ = envs.reset(seed=0, options={"prompts": ["a cat", "a dog", "grapes"]})
    with pytest.warns(RuntimeWarning, match="no dogs"):
        _, rewards, terminations, _, infos = advance(envs, T, observation)
    assert (rewards == 0).tolist() == [False, True, False]
    assert infos["final_info"]["reward_valid"].tolist() == [True, False, True]
    assert terminations.all()


@pytest.mark.parametrize("reward", ["house_style", "scene_alignment", {"house_style": 1.0}])
def test_a_prompt_that_the_reward_cannot_read_is_refused_where_it_comes_in(reward):
    foreign = ["a cat", "a frumious bandersnatch", "a cat"]
    with pytest.raises(InvalidInputError, match="frumious bandersnatch"):
        make_vec(reward=reward, prompts=foreign[:2])
    envs = make_vec(reward=reward)
    observation, _ = envs.reset(seed=0)
    state = dataclasses.replace(envs.get_state(), prompts=tuple(foreign))
    for refused in (
        lambda: envs.reset(options={"prompts": foreign}),
        lambda: envs.reset(options={"state": state}),
        lambda: envs.set_state(state),
    ):
        with pytest.raises(InvalidInputError, match="frumious bandersnatch"):
            refused()
    assert advance(envs, T, observation)[2].all()  # the episodes go on
    assert make_vec(reward="jpeg_compressibility", prompts=foreign[:2])  # which needs no prompts


def test_report_is_valid_for_one_step():
    envs = make_vec(array_type="torch", render_mode="rgb_array")
    observation, _ = envs.reset(seed=0)
    with pytest.raises(InvalidInputError, match=r"call env\.unwrapped\.report"):
        _ = envs.reported
    envs.report(observation["latent"] * 2)
    assert torch.equal(envs.reported, observation["latent"] * 2)
    envs.step(observation["latent"])
    with pytest.raises(InvalidInputError, match="no report since the last step"):
        _ = envs.reported
    envs.report(observation["latent"])
    envs.reset()
    with pytest.raises(InvalidInputError, match="no report since the last step"):
        _ = envs.reported
    with pytest.raises(InvalidInputError, match=r"\(3, 16, 8, 8\), got \(2, 16, 8, 8\)"):
        envs.report(observation["latent"][:2])


def test_render_shows_the_prediction_while_there_is_one():
    envs = make_vec(array_type="torch", render_mode="rgb_array", autoreset_mode="Disabled")
    observation, _ = envs.reset(seed=0)
    noise = envs.render()
    assert len(noise) == 3
    assert noise[0].shape == (64, 64, 3)
    assert noise[0].dtype == np.uint8
    envs.report(torch.zeros_like(observation["latent"]))
    flat = envs.render()
    observation = envs.step(observation["latent"])[0]
    np.testing.assert_array_equal(envs.render(), flat)  # the prediction of the step just made
    observation = envs.step(observation["latent"])[0]
    np.testing.assert_array_equal(envs.render(), noise)  # that of the step before is out of date
    envs.report(torch.zeros_like(observation["latent"]))
    infos = envs.step(observation["latent"] * 0.5)[-1]
    np.testing.assert_array_equal(envs.render(), infos["image"])  # after the end: the image itself


def test_render_shows_the_new_episode_in_rows_that_have_ended():
    envs = make_vec(array_type="torch", render_mode="rgb_array")
    envs.reset(seed=0)
    state = dataclasses.replace(envs.get_state(), step_index=np.array([0, 2, 0]))
    observation, _ = envs.set_state(state)
    envs.report(torch.zeros_like(observation["latent"]))
    flat = envs.render()
    observation = envs.step(observation["latent"] * 0.5)[0]
    shown = envs.render()
    np.testing.assert_array_equal(shown[0], flat[0])
    decoded = envs.model.decode(observation["latent"])[1].permute(1, 2, 0).numpy()
    assert np.abs(shown[1] / 255 - decoded).max() < 0.01


def test_large_actions_are_executed_and_counted():
    envs = make_vec()
    envs.reset(seed=0)
    action = np.zeros(envs.action_space.shape, np.float32)
    action[1, 0, 0, 0] = 1e6
    action[2] = -100
    observation = envs.step(action)[0]
    assert observation["latent"][1, 0, 0, 0] == 1e6
    assert envs.oversized_actions == 1


def test_bad_actions():
    envs = make_vec()
    with pytest.raises(ResetNeeded, match="no reset yet"):
        envs.step(np.zeros(envs.action_space.shape, np.float32))
    envs.reset(seed=0)
    with pytest.raises(
        InvalidAction, match=r"next latents, of shape \(3, 16, 8, 8\), got \(16, 8, 8\)"
    ):
        envs.step(np.zeros((16, 8, 8), np.float32))
    for bad in (np.nan, np.inf, -np.inf):
        action = np.zeros(envs.action_space.shape, np.float32)
        action[[0, 2], 3, 1, 1] = bad
        with pytest.raises(InvalidAction, match=r"NaN or infinity in rows \[0, 2\]"):
            envs.step(action)
    assert envs.get_state().step_index.tolist() == [0, 0, 0]  # nothing happened


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ["a"] * 3}, "unknown reset option 'prompt'; known: prompt_ids, prompts, reset"),
        ({"prompts": ["a cat"]}, "expected a list of 3 prompts"),
        ({"prompts": "abc"}, "expected a list of 3 prompts"),
        ({"prompts": ["a", "b", 3]}, "expected prompts to be strings .* got 3"),
        ({"prompt_ids": [0, 1]}, "prompt_ids to be 3 whole numbers, got 2"),
        ({"prompt_ids": [0, 1, 9]}, "prompt ids from 0 to 3"),
        ({"prompt_ids": [0, 1, -1]}, "prompt ids from 0 to 3"),
        ({"prompt_ids": [0.0, 1.0, 2.0]}, "prompt_ids to be a list of whole numbers"),
        ({"prompts": ["a"] * 3, "prompt_ids": [0] * 3}, "at most one of the reset options"),
        ({"reset_mask": [0, 1, 0]}, "reset_mask to be bool"),
        ({"reset_mask": np.zeros(3, bool)}, "at least one True"),
        ({"reset_mask": np.ones(2, bool)}, r"of shape \(3,\)"),
        ({"state": 3}, "expected a DenoisingState, got int"),
    ],
)
def test_bad_options(options, message):
    envs = make_vec()
    envs.reset(seed=0)
    with pytest.raises(InvalidInputError, match=message):
        envs.reset(options=options)


def test_the_first_reset_is_for_all_rows():
    envs = make_vec()
    with pytest.raises(ResetNeeded, match="all rows"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    for needs_episodes in (envs.get_state, lambda: envs.report(np.zeros((3, 16, 8, 8)))):
        with pytest.raises(ResetNeeded):
            needs_episodes()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model": "emoji-65"}, "unknown model 'emoji-65'; known: .*emoji-64"),
        ({"prompts": "emojis"}, "emoji-objects"),
        ({"reward": "beauty"}, "unknown reward 'beauty'; known: .*house_style"),
        ({"sampler": "euler"}, "unknown sampler 'euler'; known: ddim"),
        ({"array_type": "jax"}, "unknown array type 'jax'; known: numpy, torch"),
        (
            {"autoreset_mode": "Never"},
            "unknown autoreset mode 'Never'; known: ",
        ),
        ({"render_mode": "human"}, "unknown render mode 'human'; known: rgb_array"),
        ({"dtype": "int8"}, "unknown dtype 'int8'; known: bfloat16, float16, float32"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here"),
        ({"num_inference_steps": 0}, "num_inference_steps to be an integer from 1 to 1000, got 0"),
        ({"num_inference_steps": 2000}, "got 2000"),
        ({"eta": -1.0}, "expected eta"),
        ({"num_envs": 0}, "num_envs to be a whole number of at least 1 .*got 0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(InvalidInputError, match=message):
        make_vec(**kwargs)


def test_autoreset_mode_is_told():
    assert make_vec().metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    envs = make_vec(autoreset_mode=AutoresetMode.DISABLED)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_a_closed_env_says_so():
    envs = make_vec()
    observation, _ = envs.reset(seed=0)
    envs.close()
    envs.close()
    for call in (envs.reset, lambda: envs.step(observation["latent"])):
        with pytest.raises(ClosedEnvironmentError):
            call()


def test_without_noise_the_env_works_all_the_same():
    envs = make_vec(eta=0.0)
    observation, _ = envs.reset(seed=0)
    assert not envs.schedule.stochastic.any()
    assert advance(envs, T, observation)[2].all()


@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_a_step_costs_next_to_nothing_beside_the_denoiser(array_type):
    """Measured against each other, as how fast this machine is just now is not known."""
    envs = make_vec(num_envs=64, array_type=array_type, num_inference_steps=50)
    observation, _ = envs.reset(seed=0)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        observation = envs.step(observation["latent"])[0]
        seconds.append(time.perf_counter() - start)
    denoiser, embedding = envs.model.new_denoiser(), envs.model.encode(["a cat"]).expand(64)
    latents, timesteps = torch.zeros(64, *envs.model.latent_shape), torch.full((64,), 500)
    start = time.perf_counter()
    with torch.no_grad():
        denoiser(latents, timesteps, embedding)
    assert min(seconds) < 0.02 * (time.perf_counter() - start)


def test_finished_episodes_says_what_it_expects():
    with pytest.raises(InvalidInputError, match="of a DiffusionT2I environment"):
        diffusion_gym.finished_episodes({"episode": 1})
