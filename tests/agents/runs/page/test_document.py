"""The page of a run: whole, harmless, and on its own."""

import base64
import dataclasses
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agents import report, train
from agents.evaluation.evaluation import Evaluation, paired_difference
from agents.runs.builders import load_evaluation, save_evaluation
from agents.runs.page import write_page
from agents.runs.page.document import LONGEST_SIDE, _uri
from agents.runs.run_folder import RunFolder
from diffusion_gym.errors import InvalidInputError

SCRIPT = "<script>document.title = 'broken into'</script>"
PROMPTS = (
    SCRIPT,
    '"><img src=x onerror="document.title = 1">',
    "{{ 7 * 7 }} {% raw %} &amp; a cat",
    "\u202eright to left",
)
QUICK = (
    "--images 8 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 2 --eval-prompts 4 "
    "--eval-samples 2 --lora-rank 2 --reward jpeg_compressibility --eval-every 1 "
    "--picture-every 1"
).split()
VOID = {"img", "meta", "link", "input", "line", "br"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Elements, their texts, and whether what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("a run")
    file = folder / "prompts.json"
    file.write_text(json.dumps(PROMPTS))
    arguments = [*QUICK, "--prompts", str(file), "--output", str(folder / "<b>run")]
    assert train.main(arguments) == 0
    return RunFolder(folder / "<b>run")


@pytest.fixture
def copy(run: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(run.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Page:
    return Page(run.report_file.read_text())


def test_it_needs_nothing_but_itself(run: RunFolder, page: Page) -> None:
    assert run.report_file.stat().st_size < 500_000
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, value)
    text = run.report_file.read_text()
    assert not re.search(r"https?:|@import|url\(", text)


def test_prompts_are_texts_and_no_markup(run: RunFolder, page: Page) -> None:
    (script,) = [k for k, (tag, _) in enumerate(page.elements) if tag == "script"]
    assert page.elements[script][1] == {}
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    alternatives = [str(image["alt"]) for image in page.all("img")]
    for prompt in PROMPTS:
        assert f"before training: {prompt}" in alternatives
        assert f"after training: {prompt}" in alternatives
        assert page.text.count(" ".join(prompt.split())) >= 2  # below its pictures, twice
    assert "jpeg_compressibility , run <b>run" in page.text
    # And whatever got in could not run: the policy names the only script by its hash.
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    own = re.findall(r"<script>(.*?)</script>", run.report_file.read_text(), flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(own[-1].encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_every_figure_has_its_interval(run: RunFolder, page: Page) -> None:
    before, after = (load_evaluation(file) for file in (run.before_file, run.after_file))
    for old, new in (
        (before.rewards, after.rewards),
        *((before.terms[name], after.terms[name]) for name in before.terms),
        *((before.other_rewards[name], after.other_rewards[name]) for name in after.other_rewards),
        *((before.metrics[name], after.metrics[name]) for name in after.metrics),
    ):
        words = f"{np.nanmean(old):.3f} {np.nanmean(new):.3f} {paired_difference(old, new)}"
        assert words in page.text
    assert len(after.metrics) == 3
    for name in (*before.terms, *after.other_rewards, *after.metrics):
        assert name in page.text
    assert "scene_alignment left out" in page.text  # it cannot read these prompts


def test_it_says_what_a_reader_asks(run: RunFolder, page: Page) -> None:
    record = run.records()[0]
    for name, version in record["versions"].items():
        assert f"{name} {version}" in page.text
    for name in run.settings.flat():
        assert name in page.text
    assert "python -m agents.train --images 8 --num-envs 4" in page.text
    assert "training prompts" in page.text
    assert "a mean over latent dimensions and stochastic steps" in page.text
    for share in run.mean_credit():
        assert f"{share:.4f}" in page.text
    for row in run.metrics():
        assert f"{row['rollout/reward_mean']:.4f}" in page.text
    rounds = [figure for figure in page.all("figure") if figure.get("class") == "sheet"]
    assert [figure["data-round"] for figure in rounds] == ["0", "1", "2"]


def test_everybody_can_read_it(page: Page) -> None:
    assert page.elements[0] == ("html", {"lang": "en"})
    assert all(image["alt"] for image in page.all("img"))
    for picture in page.all("svg"):
        assert picture["role"] == "img"
        assert picture["aria-label"]
    labelled = {label["for"] for label in page.all("label")}
    for slider in page.all("input"):
        assert slider.get("aria-label") or slider["id"] in labelled
    assert all(cell.get("scope") for cell in page.all("th"))
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_the_pictures_are_the_evaluations(run: RunFolder, page: Page) -> None:
    after = load_evaluation(run.after_file)
    (source,) = {
        str(image["src"])
        for image in page.all("img")
        if image["alt"] == f"after training: {SCRIPT}"
    }
    pixels = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    place = after.prompts.index(SCRIPT)
    np.testing.assert_array_equal(np.asarray(pixels), after.images[place, 0])


def test_large_pictures_are_made_small() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1024, 768, 3), dtype=np.uint8)
    uri = _uri(noise, LONGEST_SIDE)
    assert uri.startswith("data:image/jpeg")
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        assert picture.size == (LONGEST_SIDE * 3 // 4, LONGEST_SIDE)
    assert len(uri) < 100_000


def test_it_is_written_on_request(
    copy: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    was = copy.report_file.read_text()
    copy.report_file.unlink()
    assert report.main([str(copy.path)]) == 0
    assert str(copy.report_file) in capsys.readouterr().out
    now = copy.report_file.read_text()
    assert now == was.replace("&lt;b&gt;run", "run", 2)  # but for the folder's name
    assert report.main([str(copy.path), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == now
    with pytest.raises(InvalidInputError, match="expected an existing folder"):
        report.main([str(copy.path), "--output", str(tmp_path / "nowhere" / "page.html")])


def test_a_run_that_has_not_ended(copy: RunFolder) -> None:
    for file in (copy.summary_file, copy.after_file):
        file.unlink()
    write_page(copy, copy.report_file)
    page = Page(copy.report_file.read_text())
    assert "This run has not ended yet." in page.text
    assert not [image for image in page.all("img") if str(image["alt"]).startswith("after")]
    assert "pictures of the same prompts" in str([image["alt"] for image in page.all("img")])


def test_a_run_that_goes_on_has_not_ended(copy: RunFolder) -> None:
    """Its last evaluation is of fewer images than it has had since."""
    summary = copy.summary()
    copy.summary_file.write_text(json.dumps(summary | {"images": 4}))
    write_page(copy, copy.report_file)
    assert "This run has not ended yet." in Page(copy.report_file.read_text()).text


def test_a_run_before_its_first_round(copy: RunFolder) -> None:
    for file in (copy.summary_file, copy.after_file, copy.metrics_file):
        file.unlink()
    shutil.rmtree(copy.pictures)
    write_page(copy, copy.report_file)
    assert Page(copy.report_file.read_text()).all("svg") == []
    copy.before_file.unlink()
    with pytest.raises(InvalidInputError, match="nothing to report yet"):
        write_page(copy, copy.report_file)


def test_control_characters_and_half_ones(copy: RunFolder) -> None:
    def renamed(evaluation: Evaluation) -> Evaluation:
        return dataclasses.replace(evaluation, prompts=["\x00\x1b[31m", "\ud83d", "a\tb", "🦊"])

    for file in (copy.before_file, copy.after_file):
        save_evaluation(renamed(load_evaluation(file)), file)
    write_page(copy, copy.report_file)
    text = copy.report_file.read_text(encoding="utf-8")
    assert "\ufffd\ufffd[31m" in text
    assert "🦊" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


@pytest.mark.parametrize("name", ["before.npz", "record.json", "summary.json", "picture"])
def test_damaged_files_are_named(name: str, copy: RunFolder) -> None:
    was = copy.report_file.read_bytes()
    file = next(copy.pictures.iterdir()) if name == "picture" else copy.path / name
    for damaged in (b"", b"[", b"\0" * 100, b'{"parts": [{}]}'):
        file.write_bytes(damaged)
        with pytest.raises(InvalidInputError):
            write_page(copy, copy.report_file)
        assert copy.report_file.read_bytes() == was


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_it(run: RunFolder, tmp_path: Path) -> None:
    command: list[Any] = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-sync"),
        *(f"--user-data-dir={tmp_path}", "--dump-dom", run.report_file.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert '<html lang="en" class="js">' in done.stdout  # our own script ran
    assert "<title>&lt;b&gt;run" in done.stdout  # and no other
    assert "--cut: 50%" in done.stdout
    assert done.stdout.count('data-round="0" hidden') == 1
    assert 'data-round="2" hidden' not in done.stdout
