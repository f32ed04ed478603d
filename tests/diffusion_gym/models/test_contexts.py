"""Prompts that are longer than what the text encoders read."""

import warnings

import gymnasium
import pytest
from checkpoints import CONTEXT

import diffusion_gym  # noqa: F401 (registers the environment)
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import load_model

FITS = " ".join(["a"] * (CONTEXT - 2))  # and a start and an end token
CUT = f"{FITS} cat"


def warned(function, *arguments):
    """The texts of the warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "sd3"])
def test_a_prompt_is_cut_from_one_token_too_many(request, kind):
    model = load_model(request.getfixturevalue(f"{kind}_folder"))
    assert model.truncated([FITS, CUT, "a cat", "", CUT]) == [CUT, CUT]
    same, other = model.encode([CUT, f"{CUT} dog"]).tokens[:, :CONTEXT]
    assert (same == other).all()
    (message,) = warned(model.warn_of_cut_prompts, ["a cat", CUT, f"{CUT} dog"])
    assert "does not read the end of 2 of 3 prompts, such as" in message
    assert repr(CUT) in message
    assert f"text_encoder: {CONTEXT + 1} tokens" in message
    assert f"text_encoder {CONTEXT}" in message
    assert warned(model.warn_of_cut_prompts, [FITS]) == []
    assert warned(model.warn_of_cut_prompts, []) == []


def test_each_of_sd3s_encoders_has_its_limit(sd3_folder):
    model = load_model(sd3_folder, max_sequence_length=20)
    (message,) = warned(model.warn_of_cut_prompts, [CUT])
    assert "text_encoder 16, text_encoder_2 16, text_encoder_3 20" in message
    assert "(text_encoder: 17 tokens, text_encoder_2: 17 tokens;" in message
    assert "text_encoder_3: " not in message  # it reads the whole prompt
    (message,) = warned(model.warn_of_cut_prompts, [f"{FITS} dog dog dog dog dog dog"])
    assert "text_encoder_3: " in message
    small = load_model(sd3_folder, max_sequence_length=4)
    assert small.truncated(["a cat dog a cat"]) == ["a cat dog a cat"]
    assert load_model(sd3_folder, t5=False).truncated(["a cat dog a cat"]) == []


def test_the_environment_warns_once_for_its_prompts_and_once_for_new_ones(sd1_folder):
    def make():
        made.append(
            gymnasium.make_vec(
                "DiffusionT2I-v0",
                num_envs=2,
                model=str(sd1_folder),
                prompts=["a cat", CUT, f"{CUT} dog"],
                num_inference_steps=2,
            )
        )

    made = []
    cut = [message for message in warned(make) if "does not read the end" in message]
    assert len(cut) == 1
    assert "2 of 3 prompts" in cut[0]
    (envs,) = made
    options = {"prompts": [f"{CUT} a", "a dog"]}
    cut = [
        message for message in warned(lambda: envs.reset(options=options)) if "read the" in message
    ]
    assert len(cut) == 1
    assert "1 of 2 prompts" in cut[0]
    assert warned(lambda: envs.reset(options=options)) == []
    envs.close()


def test_freed_text_encoders_cannot_tell(sd1_folder):
    model = load_model(sd1_folder)
    model.free_text_encoders()
    with pytest.raises(InvalidInputError, match="were freed"):
        model.truncated(["a cat"])
