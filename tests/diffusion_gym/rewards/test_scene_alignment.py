"""The share of stated facts that a picture shows."""

import pytest
import torch

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.rewards import make_reward

CAPTIONS = [
    ("a 3d cat to the left of a flat dog on a white background", 1.0),
    ("a 3d cat to the left of a flat dog on a black background", 4 / 5),
    ("a dog to the left of a flat cat", 2 / 4),
    ("a cat and a bus", 1 / 2),
    ("a cat", 0.0),
    ("three cats", 0.0),
]


def test_is_the_share_of_the_stated_facts(compose) -> None:
    picture = compose("white", ("cat", "3d", 16, 32), ("dog", "flat", 48, 32), size=28)
    captions, shares = zip(*CAPTIONS, strict=True)
    result = make_reward("scene_alignment")(picture.expand(len(captions), -1, -1, -1), captions)
    assert result.values.tolist() == pytest.approx(shares)
    assert result.valid.all()
    assert result.terms["all"].tolist() == [1, 0, 0, 0, 0, 0]
    assert result.terms["count"].tolist() == [1, 1, 1, 1, 0, 0]
    assert result.terms["objects"].tolist() == [1, 1, 1, 0, 0, 0]


def test_facts_that_are_not_stated_are_nan(compose) -> None:
    picture = compose("white", ("cat", "3d", 32, 32))
    captions = ["a cat", "a 3d cat on a white background"]
    terms = make_reward("scene_alignment")(torch.stack([picture, picture]), captions).terms
    assert set(terms) == {"objects", "count", "relation", "background", "style", "all"}
    assert [terms[name].isnan().tolist() for name in ("relation", "background", "style")] == [
        [True, True],
        [True, False],
        [True, False],
    ]
    assert terms["all"].tolist() == [1, 1]


def test_prompts_outside_the_grammar_are_refused(compose) -> None:
    with pytest.raises(InvalidInputError, match="did you mean 'a cat'"):
        make_reward("scene_alignment")(compose("white").unsqueeze(0), ["cat"])
