"""The two forms of a shaping wrapper: real classes, each a wrapper of Gymnasium's."""

import copy
import importlib
import pickle

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorWrapper
from small_episodes import make, make_vec

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import (
    B2DiffuRLReward,
    CoCAReward,
    CreditReward,
    RewardShaping,
    SingleCoCAReward,
    SingleShaping,
    SparseReward,
    UniformCreditReward,
    VectorCoCAReward,
    VectorShaping,
)

SETTINGS = {CoCAReward: {"windows": 2, "similarity": "latent"}}
BOTH = [SparseReward, UniformCreditReward, CoCAReward]


def wrapped(shaping, env):
    return shaping(env, **SETTINGS.get(shaping, {}))


@pytest.mark.parametrize(
    ("kind", "env", "gymnasiums", "form"),
    [
        ("Single", make, gymnasium.Wrapper, SingleShaping),
        ("Vector", make_vec, VectorWrapper, VectorShaping),
    ],
)
@pytest.mark.parametrize("shaping", BOTH)
def test_a_shaping_becomes_the_form_that_fits(shaping, kind, env, gymnasiums, form):
    env = wrapped(shaping, env())
    assert isinstance(env, shaping)
    assert isinstance(env, gymnasiums)
    assert isinstance(env, form)
    assert env.base is env.unwrapped
    assert f"<{kind}{shaping.__name__}" in str(env)
    # The form is what its name says, so that pickles and recipes find it.
    cls = type(env)
    assert getattr(importlib.import_module(cls.__module__), cls.__qualname__) is cls
    assert pickle.loads(pickle.dumps(cls)) is cls
    again = cls(env.unwrapped, **SETTINGS.get(shaping, {}))  # a form can be named, too
    assert type(again) is cls
    assert type(copy.copy(env)) is cls


def test_the_form_of_branches_is_its_class():
    env = B2DiffuRLReward(make_vec(4), branches=2)
    assert type(env) is B2DiffuRLReward
    assert isinstance(env, VectorWrapper)
    assert pickle.loads(pickle.dumps(type(env))) is B2DiffuRLReward


@pytest.mark.parametrize("shaping", BOTH)
def test_recipes_name_the_form_and_rebuild_it(shaping):
    env = wrapped(shaping, make())
    recipe = EnvSpec.from_json(env.spec.to_json())
    cls = type(env)
    assert recipe.additional_wrappers[-1].entry_point == f"{cls.__module__}:{cls.__name__}"
    assert type(gymnasium.make(recipe)) is cls


def test_a_subclass_for_one_kind():
    class Mine(VectorCoCAReward):
        pass

    env = Mine(make_vec(2), windows=2)
    assert type(env) is Mine
    assert isinstance(env, CoCAReward)
    with pytest.raises(InvalidInputError, match=r"Mine is for vector .* gymnasium.make_vec\("):
        Mine(make(), windows=2)
    assert type(CoCAReward(make_vec(2), windows=2)) is VectorCoCAReward  # as before


def test_a_subclass_for_both_kinds():
    class Mine(CoCAReward):
        pass

    with pytest.raises(InvalidInputError, match=r"Mine has no form for single .* for none"):
        Mine(make(), windows=2)

    class SingleMine(Mine, SingleShaping, form_of=Mine):
        pass

    class VectorMine(Mine, VectorShaping, form_of=Mine):
        pass

    assert type(Mine(make(), windows=2)) is SingleMine
    assert type(Mine(make_vec(2), windows=2)) is VectorMine
    assert type(CoCAReward(make(), windows=2)) is SingleCoCAReward
    with pytest.raises(InvalidInputError, match="Mine cannot lie around UniformCreditReward"):
        Mine(UniformCreditReward(make()), windows=2)


def test_a_subclass_with_one_form_says_what_is_missing():
    class Mine(CreditReward):
        pass

    class VectorMine(Mine, VectorShaping, form_of=Mine):
        pass

    assert type(Mine(make_vec(2))) is VectorMine
    missing = r"`class SingleMine\(Mine, SingleShaping, form_of=Mine\)`, got forms for \['vector'\]"
    with pytest.raises(InvalidInputError, match=missing):
        Mine(make())


def test_forms_inherit_from_what_they_are_forms_of():
    with pytest.raises(InvalidInputError, match=r"to inherit from it and from SingleShaping or"):

        class Lost(CreditReward, form_of=CreditReward):
            pass

    with pytest.raises(InvalidInputError, match=r"a form of CoCAReward, to inherit from it"):

        class Stranger(CreditReward, SingleShaping, form_of=CoCAReward):
            pass

    assert type(CoCAReward(make(), windows=2)) is SingleCoCAReward


def test_the_bases_are_no_shapings_themselves():
    for base in (RewardShaping, CreditReward):
        with pytest.raises(InvalidInputError, match="has no form for single environments"):
            base(make())
