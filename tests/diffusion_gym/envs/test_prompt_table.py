"""Embeddings: kept in bounded memory, or in a file where the text encoders are freed."""

import gc
import os
import weakref

import gymnasium
import numpy as np
import pytest
import torch

from diffusion_gym.envs import _prompt_table
from diffusion_gym.envs._prompt_table import EmbeddingFile, PromptTable
from diffusion_gym.errors import ModelLoadError
from diffusion_gym.models import PromptEmbedding, load_model
from diffusion_gym.prompts import load_prompts
from diffusion_gym.rewards import make_reward

TEXTS = load_prompts("emoji-captions").texts[:60]
JPEG = make_reward("jpeg_compressibility")


class Watched:
    """The embedded model, of which every embedding that it gave is counted while it lives."""

    def __init__(self, **options):
        self.model = load_model(**options)
        self.given = []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def encode(self, prompts):
        embedding = self.model.encode(prompts)
        self.given.append(weakref.ref(embedding.tokens))
        return embedding

    def alive(self):
        gc.collect()
        return sum(tokens() is not None for tokens in self.given)


def test_embeddings_in_a_file_are_equal_and_none_is_held(monkeypatch):
    one = 4 * 24 * 128
    monkeypatch.setattr(_prompt_table, "CACHE_BYTES", 5 * one)
    model = Watched()
    table = PromptTable(TEXTS, model, JPEG)
    table.encode_all()
    assert len(model.given) == len(TEXTS)
    assert model.alive() == 0
    order = np.random.default_rng(0).permutation(len(TEXTS))
    expected = torch.cat([load_model().encode([TEXTS[number]]).tokens for number in order])
    read = torch.cat([table.embedding(part).tokens for part in np.split(order, 15)])
    assert torch.equal(read, expected)
    assert len(table._cache) == 5
    assert len(model.given) == len(TEXTS)  # nothing was encoded again


def test_two_environments_of_the_same_prompts_encode_them_once():
    models = Watched(), Watched()
    tables = [PromptTable(TEXTS[:7], model, JPEG) for model in models]
    for table in tables:
        table.encode_all()
    assert [len(model.given) for model in models] == [7, 0]
    ids = np.array([3, 0])
    assert torch.equal(tables[0].embedding(ids).tokens, tables[1].embedding(ids).tokens)
    other = PromptTable(TEXTS[1:7], models[1], JPEG)
    other.encode_all()
    assert len(models[1].given) == 6


def test_the_file_holds_pooled_embeddings_too_and_is_gone_with_its_user(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    generator = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(shape, generator=generator)

    made = {text: PromptEmbedding(draw((1, 3, 4)), draw((1, 5))) for text in "abc"}
    file = EmbeddingFile("abc", made.__getitem__)
    for number in (2, 0, 1, 2):
        read, expected = file.read("abc"[number]), made["abc"[number]]
        assert torch.equal(read.tokens, expected.tokens)
        assert torch.equal(read.pooled, expected.pooled)
    assert os.fstat(file._file.fileno()).st_size == 3 * 4 * (12 + 5)
    del file
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec], ids=["single", "vector"])
def test_text_encoders_that_overflow_are_told_and_change_nothing(make):
    env = make("DiffusionT2I-v0", prompts=["a cat"], reward="jpeg_compressibility").unwrapped
    env.reset(seed=0)
    before, seed = env.get_state(), env.np_random_seed
    # The last layer's scale, as large as half precision makes it where that overflows.
    encoder = env.model.text_encoders.encoders[0].network
    norm = next(module for name, module in encoder.named_modules() if "final_layer_norm" in name)
    weight = norm.weight.data.clone()
    try:
        norm.weight.data.fill_(torch.inf)
        with pytest.raises(ModelLoadError, match="gave NaN or infinity for 1 of 1 prompts"):
            env.reset(seed=5, options={"prompts": ["a gnu"]})
    finally:
        norm.weight.data.copy_(weight)
    after = env.get_state()
    assert torch.equal(after.latents, before.latents)
    assert (after.rng, after.prompts) == (before.rng, before.prompts)
    assert env.np_random_seed == seed
    next_one = env.reset()[0]["latent"]
    env.reset(seed=0)
    np.testing.assert_array_equal(env.reset()[0]["latent"], next_one)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_autoreset_encodes_no_prompts_where_the_next_are_told(monkeypatch, mode):
    envs = gymnasium.make_vec(
        "DiffusionT2I-v0",
        num_envs=3,
        num_inference_steps=1,
        prompts="emoji-objects",
        reward="jpeg_compressibility",
        autoreset_mode=mode,
        array_type="torch",
    )
    encoded = []
    encode = envs.model.encode
    monkeypatch.setattr(envs.model, "encode", lambda texts: encoded.extend(texts) or encode(texts))
    observation, infos = envs.reset(seed=0, options={"prompt_ids": [4, 5, 4]})
    assert len(encoded) == 2
    envs.next_prompt_ids = torch.tensor([5, 5, 4])
    final = observation["prompt_embedding"]
    observation, _, _, _, infos = envs.step(observation["latent"])
    assert len(encoded) == 2
    if mode == "SameStep":
        # What users look at is right: the end of the old episodes and the beginning of the new.
        assert infos["prompt_id"].tolist() == [5, 5, 4]
        expected = envs.prompt_embedding([5, 5, 4]).tokens
        assert torch.equal(observation["prompt_embedding"], expected)
        assert torch.equal(infos["final_obs"]["prompt_embedding"], final)
        assert infos["final_info"]["prompt_id"].tolist() == [4, 5, 4]
        envs.step(observation["latent"])
        assert len(encoded) == 2
    # It holds until the next reset, which draws again.
    envs.reset(seed=3)
    assert envs.next_prompt_ids is None
    assert envs.get_state().prompt_ids.tolist() != [5, 5, 4]
