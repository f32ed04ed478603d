import pytest
import torch

from benchmarks.emoji64.captions import CaptionIds, load_tokenizer
from benchmarks.emoji64.composer import Composer
from benchmarks.emoji64.export import load_verifier
from benchmarks.emoji64.measures import check_images
from benchmarks.emoji64.sampling import hard_negatives, misdescribe, sample_scenes
from benchmarks.emoji64.scenes import AND, COUNT, RELATION, SINGLE, concatenate
from benchmarks.emoji64.train_clip import also_fits
from benchmarks.emoji64.train_verifier import make_targets
from diffusion_gym.emoji64 import emoji64_folder
from diffusion_gym.emoji64.scenes import KINDS, RELATIONS, caption, parse


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def captions_of(scenes):
    return [caption(scene) for scene in scenes.to_scenes()]


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(600, generator=generator())


def test_captions_are_of_the_grammar(scenes):
    for scene in scenes.to_scenes():
        assert parse(caption(scene)) == scene


def test_ids_are_those_of_the_tokenizer(scenes):
    tokenizer, caption_ids = load_tokenizer(), CaptionIds()
    misdescribed = misdescribe(scenes, generator=generator(1))
    negatives = hard_negatives(scenes, generator=generator(2))
    for batch in (scenes, misdescribed, *negatives):
        expected = tokenizer(
            captions_of(batch), padding="max_length", max_length=24, return_tensors="pt"
        ).input_ids
        assert torch.equal(caption_ids(batch), expected)
    empty = tokenizer([""], padding="max_length", max_length=24, return_tensors="pt").input_ids
    assert torch.equal(caption_ids.empty, empty)


def test_same_seed_same_scenes_and_all_kinds(scenes):
    again = sample_scenes(600, generator=generator())
    assert captions_of(again) == captions_of(scenes)
    shares = torch.bincount(scenes.kind, minlength=len(KINDS)) / len(scenes)
    torch.testing.assert_close(shares, torch.tensor([0.35, 0.15, 0.35, 0.15]), atol=0.06, rtol=0)
    joined = concatenate([scenes[:5], scenes[torch.tensor([7, 6])]])
    assert captions_of(joined) == [captions_of(scenes)[row] for row in (0, 1, 2, 3, 4, 7, 6)]


@pytest.mark.parametrize("free", [False, True])
def test_relations_hold_in_the_picture(free):
    scenes = sample_scenes(400, free=free, generator=generator())
    scenes = scenes[(scenes.kind == RELATION).nonzero()[:, 0]]
    right, down = scenes.x[:, 0] - scenes.x[:, 1], scenes.y[:, 0] - scenes.y[:, 1]
    along = torch.stack([-right, right, -down, down], 1).gather(1, scenes.relation[:, None])
    across = torch.stack([down, down, right, right], 1).gather(1, scenes.relation[:, None])
    assert len(RELATIONS) == 4
    assert (along >= 28).all()
    assert (along > across.abs()).all()


def test_misdescription_changes_what_it_is_told_to(scenes):
    never = {"relation": 0, "count": 0, "style": 0, "background": 0, "noun": 0}
    assert captions_of(misdescribe(scenes, **never)) == captions_of(scenes)

    wrong = misdescribe(scenes, **{**never, "count": 1}, generator=generator())
    changed = wrong.count != scenes.count
    assert not changed[scenes.kind != COUNT].any()
    assert changed[scenes.kind == COUNT].float().mean() == pytest.approx(2 / 3, abs=0.15)

    default = misdescribe(scenes, generator=generator())
    rate = (default.styles != scenes.styles).float().mean()
    assert rate == pytest.approx(0.3 * 2 / 3, abs=0.05)


def test_hard_negatives_contradict_the_picture(scenes):
    for negative in hard_negatives(scenes, generator=generator()):
        pairs = zip(captions_of(negative), captions_of(scenes), scenes.kind.tolist(), strict=True)
        assert all(wrong != own for wrong, own, _ in pairs)
    structure, attribute = hard_negatives(scenes, generator=generator())
    opposite = {0: 1, 1: 0, 2: 3, 3: 2}
    expected = [opposite[relation] for relation in scenes.relation.tolist()]
    assert structure.relation.tolist() == expected
    states_background = scenes.states_background
    assert (attribute.background != scenes.background)[states_background].all()
    assert torch.equal(attribute.objects[states_background], scenes.objects[states_background])


def test_vaguer_captions_also_fit():
    scenes = sample_scenes(400, generator=generator())
    scenes = scenes[(scenes.kind == SINGLE).nonzero()[:3, 0]]
    # A cat without and with its style and background stated, and another object.
    scenes.objects[:, 0] = torch.tensor([0, 0, 1])
    scenes.styles[:, 0] = 1
    scenes.background[:] = 2
    scenes.states_style[:, 0] = torch.tensor([False, True, True])
    scenes.states_background[:] = torch.tensor([False, True, False])
    fits = also_fits(scenes, CaptionIds()(scenes))
    assert fits.int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    scenes.background[1] = 3
    fits = also_fits(scenes, CaptionIds()(scenes))
    assert fits.int().tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_targets_mark_the_centres():
    scenes = sample_scenes(100, generator=generator())
    targets = make_targets(scenes)
    assert ((targets.objectness == 1).sum((1, 2)) == scenes.count).all()
    marked = targets.classes >= 0
    assert torch.equal(marked, targets.objectness != 0)
    pair = int((scenes.kind == AND).nonzero()[0])
    shown = targets.classes[pair][targets.objectness[pair] == 1].tolist()
    assert sorted(shown) == sorted(scenes.objects[pair].tolist())


@pytest.mark.parametrize("free", [False, True])
def test_verifier_reads_rendered_scenes_back(free):
    scenes = sample_scenes(64, free=free, generator=generator(3))
    images = Composer().render(scenes)
    assert images.shape == (64, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    verifier = load_verifier(emoji64_folder())
    checked = check_images(verifier, images, scenes.to_scenes(complete=True))
    right = [all(facts.values()) for facts in checked]
    assert sum(right) >= 0.99 * len(right)
    # The same pictures do not show what other captions state.
    wrong, _ = hard_negatives(scenes, generator=generator(4))
    kinds = scenes.kind.tolist()
    checked = check_images(verifier, images, wrong.to_scenes(complete=True))
    assert not any(
        all(facts.values()) for facts, kind in zip(checked, kinds, strict=True) if kind != AND
    )
