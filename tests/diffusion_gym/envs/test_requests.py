"""What callers hand to environments: sensible forms work, nonsense is refused and changes nothing.

Every refusal is checked to be without effect: the state is as it was, and after all of them so is
what follows, beside a twin that was never asked.
"""

import copy
import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction

from diffusion_gym.envs.infos import to_numpy
from diffusion_gym.errors import InvalidInputError

T = 3
SHAPE = (16, 8, 8)
TASK = {
    "num_inference_steps": T,
    "prompts": ["a cat", "a dog", "an apple"],
    "reward": "jpeg_compressibility",
}


def make_vec(num_envs=2, **kwargs):
    return gymnasium.make_vec("DiffusionT2I-v0", num_envs=num_envs, **(TASK | kwargs))


def make(**kwargs):
    return gymnasium.make("DiffusionT2I-v0", **(TASK | kwargs)).unwrapped


KINDS = {"vector": make_vec, "torch": lambda: make_vec(array_type="torch"), "single": make}


@pytest.fixture(params=KINDS)
def env(request):
    """A vector environment of either kind, or a single one, at the second step of an episode."""
    env = KINDS[request.param]()
    env.reset(seed=0)
    env.step(good_action(env))
    return env


def good_action(env):
    """Of the environment's shape, with different numbers everywhere."""
    shape = env.action_space.shape
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def plain(value):
    """Arrays, generators' states and texts that can be compared with ``==`` once printed."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    value = to_numpy(value)
    return (value.dtype.str, value.tolist()) if isinstance(value, np.ndarray) else value


def everything(env):
    """All that determines how an environment goes on."""
    state = {
        field.name: getattr(env.get_state(), field.name)
        for field in dataclasses.fields(env.get_state())
    }
    return repr(plain(state))


def future(env):
    """The rest of this episode and the next one, with a new prompt's number."""
    calls = []
    while True:
        calls.append(env.step(good_action(env)))
        if np.all(to_numpy(calls[-1][2])):
            break
    rows = getattr(env, "num_envs", 1)
    calls.append(env.reset())
    calls.append(env.reset(options={"prompts": ["a zebra"] * rows}))
    calls.append(env.step(good_action(env)))
    return repr(plain(calls))


def refuses(env, calls, error, match):
    """Every call raises, and the environment goes on as a twin that was never asked.

    Args:
        env: From the fixture.
        calls: Functions without arguments by name.
        error: What they raise.
        match: What it says.
    """
    before = everything(env)
    for name, call in calls.items():
        try:
            with pytest.raises(error, match=match):
                call()
            assert everything(env) == before
        except BaseException as failure:
            failure.add_note(f"after the call {name!r}")
            raise
    twin = make() if not hasattr(env, "num_envs") else make_vec(array_type=env.array_type)
    twin.reset(seed=0)
    twin.step(good_action(twin))
    assert everything(twin) == before
    assert future(env) == future(twin)


# ------------------------------------------------------------------------- actions and reports

FORMS = {
    "reversed": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "big-endian": lambda a: a.astype(">f4"),
    "big-endian float64": lambda a: a.astype(">f8"),
    "fortran": np.asfortranarray,
    "read-only": lambda a: read_only(a.copy()),
    "float64": lambda a: a.astype(np.float64),
    "longdouble": lambda a: a.astype(np.longdouble),
    "list": lambda a: a.tolist(),
    "list of arrays": list,
    "list of tensors": lambda a: [torch.from_numpy(row) for row in a],
    "tuple": lambda a: tuple(map(tuple, a.tolist())),
    "tensor": torch.from_numpy,
    "tensor with gradient": lambda a: torch.from_numpy(a).requires_grad_(),
    "result of a network": lambda a: torch.from_numpy(a).requires_grad_() * 1,
    "float64 tensor": lambda a: torch.from_numpy(a).double(),
    "channels last": lambda a: torch.from_numpy(a).transpose(-1, -2).contiguous().transpose(-1, -2),
}


def read_only(array):
    array.setflags(write=False)
    return array


def takes(env, array, expected):
    """The environment takes it as a report and as an action."""
    env.reset(seed=0)
    env.report(array)
    np.testing.assert_array_equal(env.unwrapped.reported.reshape(expected.shape), expected)
    np.testing.assert_array_equal(to_numpy(env.step(array)[0]["latent"]), expected)
    assert not env.get_state().latents.requires_grad


def test_latents_may_come_in_any_form(env):
    for form in FORMS.values():
        takes(env, form(good_action(env)), good_action(env))


def test_latents_may_be_of_any_real_numbers(env):
    whole = (good_action(env) * 3).round()
    for kind in (np.float16, np.int8, np.uint8, np.int64, np.uint64):
        array = np.abs(whole).astype(kind)
        takes(env, array, np.abs(whole))
        if kind is not np.uint64:  # torch hardly has them
            takes(env, torch.from_numpy(array), np.abs(whole))
    takes(env, torch.from_numpy(whole).bfloat16(), whole)


def test_latents_are_copied_whatever_they_come_in(env):
    for given in (good_action(env), torch.from_numpy(good_action(env))):
        expected = given.tolist()
        env.reset(seed=0)
        env.report(given)
        env.step(given)
        given[...] = 7
        assert env.get_state().latents.reshape(given.shape).tolist() == expected


NONSENSE = {
    "complex": lambda a: a.astype(complex),
    "bool": lambda a: a > 0,
    "object": lambda a: a.astype(object),
    "text": lambda a: a.astype(str),
    "dates": lambda a: a.astype("datetime64[s]"),
    "ragged": lambda a: [[1.0], [1.0, 2.0]],
    "none": lambda a: None,
    "word": lambda a: "latent",
    "number": lambda a: 0.5,
    "dictionary": lambda a: {"latent": a},
    "structured": lambda a: np.zeros(a.shape, [("x", "f4")]),
    "list with None": lambda a: [None, *a.tolist()],
    "empty": lambda a: a[:0],
    "one axis less": lambda a: a[0],
    "one axis more": lambda a: a[None],
    "another shape": lambda a: np.swapaxes(a, -3, -1),
    "complex tensor": lambda a: torch.from_numpy(a).cfloat(),
    "bool tensor": lambda a: torch.from_numpy(a) > 0,
    "sparse tensor": lambda a: torch.from_numpy(a).to_sparse(),
    "meta tensor": lambda a: torch.from_numpy(a).to("meta"),
    "list of tensors with gradients": lambda a: list(torch.from_numpy(a).requires_grad_()),
    "nan": lambda a: with_entry(a, np.nan),
    "infinite": lambda a: with_entry(a, np.inf),
    "minus infinite": lambda a: with_entry(a, -np.inf),
    "beyond float32": lambda a: with_entry(a.astype(np.float64), 1e300),
    "nan tensor": lambda a: torch.from_numpy(with_entry(a, np.nan)),
}


def with_entry(array, value):
    array = array.copy()
    array[..., 3, 4] = value
    return array


def test_actions_that_are_nonsense_are_refused_and_nothing_happens(env):
    calls = {
        name: lambda form=form: env.step(form(good_action(env))) for name, form in NONSENSE.items()
    }
    refuses(env, calls, InvalidAction, "^expected .*, got ")


def test_reports_that_are_nonsense_are_refused_and_nothing_happens(env):
    env.report(good_action(env))
    kept = env.unwrapped.reported.clone()

    def report(form):
        assert torch.equal(env.unwrapped.reported, kept)
        env.report(form(good_action(env)))

    calls = {name: lambda form=form: report(form) for name, form in NONSENSE.items()}
    refuses(env, calls, InvalidInputError, "^expected .*predicted clean latent.*, got ")


def test_nan_in_reports_says_where_it_comes_from():
    envs = make_vec()
    observation, _ = envs.reset(seed=0)
    broken = observation["latent"].copy()
    broken[1, 0, 0, 0] = np.nan
    with pytest.raises(InvalidInputError, match=r"in rows \[1\]; does the denoiser overflow"):
        envs.report(broken)


# -------------------------------------------------------------------------------------- reset

BAD_OPTIONS = {
    "no dictionary": 5,
    "empty list": [],
    "text": "prompts",
    "unknown": {"prompt": ["a", "a"]},
    "number as key": {3: 4},
    "one text": {"prompts": "ab"},
    "wrong count": {"prompts": ["a cat"] * 5},
    "generator": {"prompts": (text for text in ["a cat", "a dog"])},
    "set": {"prompts": {"a cat", "a dog"}},
    "no texts": {"prompts": None},
    "numbers": {"prompts": [1, 2]},
    "bytes": {"prompts": [b"a cat", b"a dog"]},
    "None among texts": {"prompts": ["a cat", None]},
    "empty text": {"prompts": ["a cat", ""]},
    "blank text": {"prompts": ["a cat", " \n"]},
    "half a surrogate pair": {"prompts": ["a cat", "a \ud83d cat"]},
    "array of numbers": {"prompts": np.zeros(2)},
    "2-D texts": {"prompts": np.array([["a cat", "a dog"]] * 2)},
    "floats": {"prompt_ids": [0.0, 1.0]},
    "bools": {"prompt_ids": [True, False]},
    "bool tensor": {"prompt_ids": torch.tensor([True, False])},
    "negative": {"prompt_ids": [0, -1]},
    "too large": {"prompt_ids": [0, 3]},
    "far too large": {"prompt_ids": [0, 2**70]},
    "beyond int64": {"prompt_ids": np.array([0, 2**63], np.uint64)},
    "2-D": {"prompt_ids": [[0], [1]]},
    "scalar": {"prompt_ids": 0},
    "ids of another count": {"prompt_ids": [0] * 5},
    "ids as texts": {"prompt_ids": ["0", "1"]},
    "ragged ids": {"prompt_ids": [[0], [1, 2]]},
    "no ids": {"prompt_ids": None},
    "empty ids": {"prompt_ids": []},
    "float tensor": {"prompt_ids": torch.zeros(2)},
    "mask of ints": {"reset_mask": np.array([1, 1])},
    "mask of floats": {"reset_mask": np.ones(2)},
    "mask as text": {"reset_mask": "yes"},
    "ragged mask": {"reset_mask": [[True], [True, False]]},
    "mask of another size": {"reset_mask": np.ones(5, bool)},
    "2-D mask": {"reset_mask": np.ones((2, 2), bool)},
    "empty mask": {"reset_mask": np.zeros(2, bool)},
    "int tensor mask": {"reset_mask": torch.ones(2, dtype=torch.int64)},
    "no state": {"state": 3},
    "state and ids": {"state": 3, "prompt_ids": [0, 1]},
    "new prompts with a bad key": {"prompts": ["a hen", "a gnu"], "prompt_id": [0, 1]},
    "new prompts with a bad mask": {"prompts": ["a hen", "a gnu"], "reset_mask": [3]},
    "new prompts, one bad": {"prompts": ["a hen", 3]},
}


@pytest.mark.parametrize("seed", [None, 5])
def test_bad_options_are_refused_and_nothing_happens(env, seed):
    calls = {
        name: lambda options=options: env.reset(seed=seed, options=options)
        for name, options in BAD_OPTIONS.items()
    }
    refuses(env, calls, InvalidInputError, "expected|known")


BAD_SEEDS = [-1, 1.0, np.float64(1), True, np.bool_(True), "1", b"1", {}, 1j, np.array(1.5)]
BAD_SEEDS += [object(), torch.ones(2), [0, -1, 2, 3], [[1], [2]], np.array([[1, 2]])]
BAD_SEEDS += [[5, -1], [5, 1.5], [5, True], [5, "6"], [5], [5, 6, 7], []]


@pytest.mark.parametrize("new_prompts", [False, True])
def test_bad_seeds_are_refused_and_nothing_happens(env, new_prompts):
    rows = getattr(env, "num_envs", 1)
    options = {"prompts": ["a hen", "a gnu"][:rows]} if new_prompts else None
    calls = {
        repr(seed): lambda seed=seed: env.reset(seed=seed, options=options) for seed in BAD_SEEDS
    }
    refuses(env, calls, InvalidInputError, "expected .*seed.*, got ")


@pytest.mark.parametrize("seed", [np.int64(7), np.uint8(7)])
def test_numpys_integers_are_seeds(env, seed):
    expected = plain(env.reset(seed=7))
    assert plain(env.reset(seed=seed)) == expected


def test_forms_of_seed_lists():
    envs = make_vec()
    expected = plain(envs.reset(seed=7))
    for seeds in ([7, 8], (7, np.int32(8)), np.array([7, 8]), range(7, 9), np.array(7)):
        assert plain(envs.reset(seed=seeds)) == expected


def test_the_seed_that_an_env_tells_can_be_given_back():
    """Gymnasium's random seeds have 128 bits."""
    env = make()
    expected = plain(env.reset())
    assert plain(env.reset(seed=env.np_random_seed)) == expected
    assert env.reset(seed=2**70)


def test_sensible_forms_of_options():
    envs = make_vec()
    expected = plain(envs.reset(seed=0, options={"prompt_ids": [2, 1]}))
    for options in (
        {"prompt_ids": np.array([2, 1], np.uint8)},
        {"prompt_ids": torch.tensor([2, 1])},
        {"prompt_ids": (2, 1)},
        {"prompts": ("an apple", "a dog")},
        {"prompts": np.array(["an apple", "a dog"])},
        {"prompts": ["an apple", "a dog"], "reset_mask": [True, True]},
        {"prompts": ["an apple", "a dog"], "reset_mask": torch.ones(2, dtype=torch.bool)},
    ):
        assert plain(envs.reset(seed=0, options=options)) == expected
    assert all(type(text) is str for text in envs.get_state().prompts)


@pytest.mark.parametrize("ignored", [{"prompts": ["a dog", None]}, {"prompt_ids": [1, -1]}])
def test_the_entries_of_rows_that_are_not_reset_are_ignored(ignored):
    envs = make_vec(autoreset_mode="Disabled")
    envs.reset(seed=0, options={"prompt_ids": [0, 2]})
    infos = envs.reset(options=ignored | {"reset_mask": np.array([True, False])})[1]
    assert infos["prompt_id"].tolist() == [1, 2]


# -------------------------------------------------------------------------------------- states

BAD_STATES = {
    "latents of fewer rows": lambda s: {"latents": s.latents[:-1]},
    "latents of more rows": lambda s: {"latents": torch.cat([s.latents, s.latents])},
    "latents of another shape": lambda s: {"latents": s.latents.transpose(1, 2)},
    "no latents": lambda s: {"latents": None},
    "latents as an array": lambda s: {"latents": s.latents.numpy()},
    "latents of integers": lambda s: {"latents": s.latents.long()},
    "complex latents": lambda s: {"latents": s.latents.cfloat()},
    "NaN": lambda s: {"latents": s.latents * torch.nan},
    "infinity": lambda s: {"latents": s.latents + torch.inf},
    "one index more": lambda s: {"step_index": np.append(s.step_index, 1)},
    "one index less": lambda s: {"step_index": s.step_index[:-1]},
    "a single index": lambda s: {"step_index": np.int64(1)},
    "indices of floats": lambda s: {"step_index": s.step_index.astype(float)},
    "indices of bools": lambda s: {"step_index": s.step_index > 0},
    "no indices": lambda s: {"step_index": None},
    "a negative index": lambda s: {"step_index": s.step_index - 2},
    "an index beyond T": lambda s: {"step_index": s.step_index + T},
    "2-D indices": lambda s: {"step_index": s.step_index[:, None]},
    "one id more": lambda s: {"prompt_ids": np.append(s.prompt_ids, 1)},
    "no ids": lambda s: {"prompt_ids": None},
    "ids of floats": lambda s: {"prompt_ids": s.prompt_ids / 2},
    "one prompt more": lambda s: {"prompts": (*s.prompts, "a hen")},
    "one prompt less": lambda s: {"prompts": s.prompts[:-1]},
    "a text as prompts": lambda s: {"prompts": "a" * len(s.prompts)},
    "no prompts": lambda s: {"prompts": None},
    "prompts that are no texts": lambda s: {"prompts": tuple(range(len(s.prompts)))},
    "an empty prompt": lambda s: {"prompts": ("",) * len(s.prompts)},
    "half a surrogate pair": lambda s: {"prompts": ("\ud83d",) * len(s.prompts)},
    "another model": lambda s: {"model": "sd"},
    "no model": lambda s: {"model": None},
    "another T": lambda s: {"num_steps": T + 1},
    "T as a float": lambda s: {"num_steps": float(T)},
    "no T": lambda s: {"num_steps": None},
    "one generator less": lambda s: {"rng": s.rng[:-1]},
    "one generator more": lambda s: {"rng": (*s.rng, s.rng[0])},
    "a text as rng": lambda s: {"rng": "x" * len(s.rng)},
    "a number as rng": lambda s: {"rng": 3},
    "generators of numbers": lambda s: {"rng": tuple(range(len(s.rng)))},
    "empty generators": lambda s: {"rng": ({},) * len(s.rng)},
    "another kind": lambda s: {"rng": (np.random.MT19937(0).state,) * len(s.rng)},
    "damaged": lambda s: {"rng": (*s.rng[:-1], s.rng[-1] | {"state": {"state": "x", "inc": 1}})},
    "damaged numbers": lambda s: {"rng": (*s.rng[:-1], s.rng[-1] | {"uinteger": 2**99})},
}


def bad_states(good):
    return {name: dataclasses.replace(good, **change(good)) for name, change in BAD_STATES.items()}


def test_inconsistent_states_are_refused_and_nothing_happens(env):
    calls = {
        name: lambda state=state: env.set_state(state)
        for name, state in bad_states(env.get_state()).items()
    }
    refuses(env, calls, InvalidInputError, "^expected .*, got ")


@pytest.mark.parametrize("seed", [None, 5])
def test_reset_refuses_them_just_so(env, seed):
    calls = {
        name: lambda state=state: env.reset(seed=seed, options={"state": state})
        for name, state in bad_states(env.get_state()).items()
    }
    refuses(env, calls, InvalidInputError, "^expected .*, got ")


def test_two_latents_with_one_step_index_are_refused():
    envs = make_vec()
    envs.reset(seed=0)
    state = dataclasses.replace(envs.get_state(), step_index=np.array([1]))
    with pytest.raises(InvalidInputError, match="step indices to be 2 whole numbers, got 1"):
        envs.set_state(state)


def test_states_of_other_precision_and_integers_are_fine(env):
    state = env.get_state()
    env.set_state(
        dataclasses.replace(
            state,
            latents=state.latents.double().requires_grad_(),
            step_index=state.step_index.astype(np.uint8),
            prompt_ids=state.prompt_ids.astype(np.int32),
            prompts=list(state.prompts),
            rng=list(state.rng),
        )
    )
    assert everything(env) == everything_of(state)


def everything_of(state):
    return repr(plain({f.name: getattr(state, f.name) for f in dataclasses.fields(state)}))


def test_rows_to_select_are_integers_within_the_batch():
    envs = make_vec()
    envs.reset(seed=0)
    bad = ([True, False], np.array([False, True]), [0.0], [2], [-3], "0", None, [[0]], [0.5])
    for indices in bad:
        with pytest.raises(InvalidInputError, match="expected rows to select"):
            envs.get_state().select(indices)
    assert envs.get_state().select([-1, 0]).prompts == envs.get_state().select([1, 0]).prompts


def test_generators_are_numpys():
    envs = make_vec()
    envs.reset(seed=0)
    before = everything(envs)
    for given in (3, [1, 2], "ab", [np.random.default_rng(0)], [None, None]):
        with pytest.raises(InvalidInputError, match="expected 2 generators of NumPy"):
            envs.np_random = given
    assert everything(envs) == before


def test_prompt_numbers_are_whole_and_known(env):
    for number in ("0", 0.5, None, 3, -1, [0], True):
        with pytest.raises(InvalidInputError, match="prompt id"):
            env.prompt_text(number)
    for known in (2, np.int8(2), torch.tensor(2)):
        assert env.prompt_text(known) == "an apple"


def test_next_prompts_are_known_ones():
    envs = make_vec()
    for ids in (3, [0], [0, 3], [0, -1], [0.0, 1.0], "ab", [[0, 1]]):
        with pytest.raises(InvalidInputError, match=r"expected (next_prompt_ids|prompt ids)"):
            envs.next_prompt_ids = ids
    assert envs.next_prompt_ids is None


# -------------------------------------------------------------------------------- construction


def test_the_number_of_rows_is_a_whole_number():
    for count in (0, -1, True, "2", 1.5, 2.0, None, [2], np.float32(2)):
        with pytest.raises(InvalidInputError, match="expected num_envs to be a whole number"):
            make_vec(num_envs=count).close()


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_numpys_integers_are_whole_numbers(kind):
    envs = make_vec(num_envs=kind(2))
    assert type(envs.num_envs) is int
    assert envs.reset(seed=0)[0]["latent"].shape == (2, *SHAPE)


@pytest.mark.parametrize("name", ["array_type", "autoreset_mode", "render_mode"])
def test_modes_are_names(name):
    for value in ("x", 3, ["numpy"], b"numpy", np.zeros(2), {}, True):
        with pytest.raises(InvalidInputError, match=f"unknown {name.replace('_', ' ')} .*; known"):
            make_vec(**{name: value})


def test_an_environment_can_be_copied():
    envs = make_vec()
    envs.reset(seed=0)
    twin = copy.deepcopy(envs)
    assert everything(twin) == everything(envs)
    assert future(twin) == future(envs)
