"""Options of rewards, from keyword arguments to factories."""

import pytest
import torch

from diffusion_gym.errors import InvalidInputError, ModelLoadError
from diffusion_gym.rewards import make_reward, register_reward

NESTED: list = []
NESTED.append(NESTED)

IMAGES = torch.full((2, 3, 8, 8), 0.5)


@pytest.fixture
def calls() -> list[tuple]:
    """A registered reward ``scaled`` that remembers how it was made."""
    made = []

    @register_reward("scaled")
    def make_scaled(device, *, factor, offset=0.0):
        made.append((device, factor, offset))
        return lambda images, prompts: factor * images.mean(dim=(1, 2, 3)) + offset

    return made


def test_options_reach_the_factory(calls) -> None:
    reward = make_reward("scaled", device="cpu", options={"scaled": {"factor": 3}})
    assert reward(IMAGES, ["a", "b"]).values.tolist() == [1.5, 1.5]
    make_reward("scaled", device="cuda:0", options={"scaled": {"factor": 1, "offset": 2.0}})
    make_reward("scaled", device="cuda:0", options={"scaled": {"factor": 1, "device": "cuda:1"}})
    assert calls == [("cpu", 3, 0.0), ("cuda:0", 1, 2.0), ("cuda:1", 1, 0.0)]


def test_the_name_of_the_only_reward_may_be_left_out(calls) -> None:
    make_reward("scaled", options={"factor": 3, "device": "cuda:1"})
    assert calls == [("cuda:1", 3, 0.0)]


def test_options_reach_the_parts_of_a_sum(calls) -> None:
    spec = {"scaled": 10.0, "jpeg_compressibility": 0.0}
    reward = make_reward(spec, options={"scaled": {"factor": 2}})
    assert reward(IMAGES, ["a", "b"]).values.tolist() == [10.0, 10.0]


def test_every_reward_can_be_put_on_another_device() -> None:
    devices = []
    register_reward("plain")(lambda device: devices.append(device) or (lambda images, prompts: 0))
    make_reward("plain", device="cuda:0", options={"plain": {"device": "cpu"}})
    assert devices == ["cpu"]
    make_reward("house_style", device="cuda:9", options={"house_style": {"device": "cpu"}})


def test_factories_may_take_anything() -> None:
    @register_reward("anything")
    def make_anything(where, **options):
        return lambda images, prompts: images[:, 0, 0, 0] * 0 + len(options)

    reward = make_reward("anything", options={"anything": {"x": 1, "y": [2, {"z": None}]}})
    assert reward(IMAGES, ["a", "b"]).values.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("scaled", {"scaled": {"faktor": 1}}, "'faktor' .* known: device, factor, offset"),
        ("scaled", {}, "reward 'scaled' needs the options factor"),
        ("scaled", {"scaled": {"factor": torch.ones(1)}}, "'factor' .* must be what JSON can hold"),
        ({"remote": "http://a"}, {"remote": 3}, "must be a mapping from names to values, got 3"),
        ({"remote": "http://a"}, {"clip_score": {}}, "'clip_score', which is not used"),
        ({"remote": 3.0}, {}, "reward 'remote' needs the options url"),
        ({"remote/a": 3.0}, {"remote": {"url": "http://a"}}, "'remote', which is not used"),
        ({"remote/a": 3.0}, {}, "reward 'remote/a' needs the options url"),
        ({"remote/": 3.0}, {}, "unknown reward 'remote/'"),
        ("scaled", {"faktor": 1}, "unknown option 'faktor' of reward 'scaled'"),
        ("scaled", {"scaled": 3}, "must be a mapping from names to values, got 3"),
        ("scaled", {"clip_score": {}}, "for reward 'clip_score', which is not used; used: scaled"),
        ({"scaled": 1}, {"sacled": {}}, "for reward 'sacled', which is not used; used: scaled"),
        (lambda images, prompts: 0, {"scaled": {}}, "used: a function, which has no options"),
        ("house_style", {"house_style": {"dtype": "float16"}}, "'dtype' .* known: device$"),
        (
            "hpsv2",
            {"hpsv2": {"version": 2}},
            "'version' .* known: architecture, batch_size, device, dtype, pretrained, release",
        ),
        ("scaled", {"scaled": {3: 1}}, "unknown option 3"),
        ("scaled", {"scaled": {None: 1}}, "unknown option None"),
        ("scaled", 3, "options of rewards as a mapping from their names, got 3"),
        ("scaled", "scaled", "as a mapping from their names, got 'scaled'"),
        ("scaled", [], r"as a mapping from their names, got \[\]"),
        ("scaled", {"scaled": {"factor": 1, "device": 0}}, "'device' .* to be a text, got 0"),
        ("scaled", {"scaled": {"factor": NESTED}}, "must be what JSON can hold"),
        *(
            ("clip_score", {"clip_score": {name: value}}, f"option {name!r} .* to be {wanted}")
            for name, value, wanted in [
                ("batch_size", 0, "a whole number of at least 1, got 0"),
                ("batch_size", True, "a whole number of at least 1, got True"),
                ("batch_size", "8", "a whole number of at least 1, got '8'"),
                ("batch_size", 1.5, "a whole number of at least 1, got 1.5"),
                ("architecture", 5, "a text or None, got 5"),
                ("pretrained", ["a"], "a text or None, got"),
                ("dtype", None, "a text, got None"),
            ]
        ),
        ("clip_score", {"clip_score": {"device": "toaster"}}, "'toaster' cannot be used here"),
        ("house_style", {"house_style": {"device": "cuda:99"}}, "'cuda:99' cannot be used here"),
        ("aesthetic", {"aesthetic": {"clip": 5}}, "'clip' .* to be a text, got 5"),
        ("imagereward", {"imagereward": {"tokenizer": {}}}, "'tokenizer' .* to be a text"),
        ("pickscore", {"pickscore": {"processor": 3}}, "'processor' .* to be a text, got 3"),
        ("hpsv2", {"hpsv2": {"release": 2.1}}, "'release' .* to be a text, got 2.1"),
    ],
)
def test_wrong_options_are_refused(calls, spec, options, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_reward(spec, options=options)


@pytest.mark.parametrize("name", ["aesthetic", "hpsv2", "imagereward", "pickscore"])
def test_only_weights_are_missing_where_options_are_left_out(name: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"^{name} needs .*huggingface\.co.*reward_options="):
        make_reward(name)
