"""The default reward of the embedded model."""

import pytest
import torch

from diffusion_gym.emoji64.scenes import BACKGROUNDS, STYLES, parse
from diffusion_gym.emoji64.verifier import SceneMaps
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.house_style import HouseStyle


def test_each_term_sees_its_own_part_of_the_picture(compose) -> None:
    pictures = {
        "all": compose("white", ("owl", "3d", 32, 32)),
        "style": compose("white", ("owl", "flat", 32, 32)),
        "background": compose("red", ("owl", "3d", 32, 32)),
        "object": compose("white", ("crab", "3d", 32, 32)),
    }
    result = make_reward("house_style")(torch.stack(list(pictures.values())), ["an owl"] * 4)
    for row, spoiled in enumerate(pictures):
        for name, term in result.terms.items():
            assert (term[row] < 0.1) if name == spoiled else (term[row] > 0.8), (spoiled, name)
    assert result.values[0] > 0.9
    assert (result.values[1:] < 0.72).all()


def test_value_and_terms_follow_the_formula(verifier) -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    prompts = ["a cat", "a cat and a 3d apple", "three dogs on a blue background"]
    result = HouseStyle(verifier, style="flat", background="pink")(images, prompts)
    maps = SceneMaps(*(part.double() for part in verifier(images)))
    for row, prompt in enumerate(prompts):
        there = maps.objectness[row].sigmoid()
        styles, classes = maps.styles[row].softmax(0), maps.classes[row].softmax(0)
        style = (there * styles[STYLES.index("flat")]).sum() / there.sum()
        background = maps.backgrounds[row].softmax(0)[list(BACKGROUNDS).index("pink")]
        best = [(there * classes[item.object_index]).max() for item in parse(prompt).objects]
        expected = {"style": style, "background": background, "object": sum(best) / len(best)}
        for name, value in expected.items():
            assert result.terms[name][row].item() == pytest.approx(value.item(), rel=1e-4)
        mean = sum(expected.values()).item() / 3
        assert result.values[row].item() == pytest.approx(mean, rel=1e-4)


def test_two_objects_count_half_each(compose) -> None:
    picture = compose("white", ("cat", "3d", 16, 32), ("dog", "3d", 48, 32), size=28)
    prompts = ["a cat and a dog", "a cat and a bus", "a bell and a bus"]
    terms = make_reward("house_style")(picture.expand(3, -1, -1, -1), prompts).terms
    assert terms["object"].tolist() == pytest.approx([1.0, 0.5, 0.0], abs=0.1)


def test_style_and_background_can_be_chosen(compose, verifier) -> None:
    picture = compose("blue", ("owl", "flat", 32, 32)).unsqueeze(0)
    chosen = HouseStyle(verifier, style="flat", background="blue")
    assert chosen(picture, ["an owl"]).values > 0.9
    with pytest.raises(InvalidInputError, match="unknown style 'oil'; known: 3d, cartoon, flat"):
        HouseStyle(verifier, style="oil")
    with pytest.raises(InvalidInputError, match="unknown background 'mauve'; known: black"):
        HouseStyle(verifier, background="mauve")


def test_prompts_outside_the_grammar_are_refused(compose) -> None:
    picture = compose("white").unsqueeze(0)
    with pytest.raises(InvalidInputError, match="'a dragon' is not a caption of the emoji scenes"):
        make_reward("house_style")(picture, ["a dragon"])
