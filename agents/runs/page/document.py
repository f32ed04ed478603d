"""The page: what a run folder holds, put into the template."""

import base64
import hashlib
import io
import itertools
import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from PIL import Image

from agents.evaluation import Evaluation
from agents.evaluation.evaluation import mean, spread
from agents.files import atomic
from agents.runs.builders import load_evaluation
from agents.runs.comparison import comparison_sections, shortcomings
from agents.runs.page.charts import credit_chart, reward_chart
from agents.runs.page.repeat import repeating_command
from agents.runs.pictures import PROMPTS, SHOWN
from agents.runs.run_folder import RunFolder, training_seconds
from agents.runs.screen import command
from diffusion_gym.errors import InvalidInputError, first_line
from diffusion_gym.images import Frame
from diffusion_gym.parsing import parse

FOLDER = Path(__file__).parent

LONGEST_SIDE, LONGEST_SHEET = 320, 1024
"""Of a picture, and of a sheet of pictures, in pixels; larger ones are made smaller."""

LOSSLESS = 600
"""Up to so many pixels a side pictures stay as they are; larger ones become JPEGs."""

SHEETS = 12
"""Most sheets of pictures from during the training, spread over all that there are."""

SIZES = {"wide": (720.0, 300.0), "narrow": (340.0, 240.0)}
"""Width and height of a chart in wide and in narrow windows."""


def write_page(run: RunFolder, file: Path) -> None:
    """Writes the page of a run, of one that has not ended with what there is.

    Nothing is loaded but files of the run's folder, and nothing is drawn or measured.

    Args:
        run: The run.
        file: Where to.

    Raises:
        InvalidInputError: A file of the run is damaged, or there is nothing to show yet.
    """
    try:
        text = _printable(_template().render(**_content(run)))
    except (KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise InvalidInputError(
            f"expected the files of a training run in {run.path}, got some that are damaged or of "
            f"another version ({type(error).__name__}: {first_line(error)})"
        ) from error
    with atomic(file) as partial:
        partial.write_text(text, encoding="utf-8")


def _template() -> Any:
    loader = FileSystemLoader(FOLDER)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _content(run: RunFolder) -> dict[str, Any]:
    """Everything that the template shows."""
    metrics, records, settings = run.metrics(), run.records(), run.settings
    if not (records and run.before_file.is_file()):
        raise InvalidInputError(
            f"expected a run whose base model has been evaluated in {run.path}: there is nothing "
            "to report yet"
        )
    reward, before = str(records[0]["reward"]["name"]), load_evaluation(run.before_file)
    summary = _summary(run, metrics)
    after = load_evaluation(run.after_file) if summary and run.after_file.is_file() else None
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    credit = run.mean_credit() if metrics else []
    return {
        "name": run.path.resolve().name,
        "reward": reward,
        "ended": summary is not None,
        "where": (summary or {}).get("evaluated_on", "evaluated"),
        "facts": _facts(metrics, records, settings.run.images),
        "before": before,
        "sections": comparison_sections(before, after, reward) if after else [],
        "shortcomings": shortcomings(before, after) if after else [],
        "base_figures": before.scalars(),
        "pairs": _pairs(before, after),
        "reward_charts": _reward_charts(metrics, before, after) if metrics else {},
        "rounds": metrics,
        "credit": credit,
        "credit_charts": {k: credit_chart(credit, *v) for k, v in SIZES.items()} if credit else {},
        "sheets": _sheets(run),
        "settings": {name: _text(value) for name, value in settings.flat().items()},
        "records": records,
        "starts": [command(["python", *record["command"]]) for record in records],
        "repeat": repeating_command(settings, int(records[-1].get("processes", 1))),
        "style": (FOLDER / "page.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _summary(run: RunFolder, metrics: list[dict[str, float]]) -> dict[str, Any] | None:
    """The final figures; None where the run has not ended, or goes on."""
    if not (metrics and run.summary_file.is_file()):
        return None
    try:
        summary: dict[str, Any] = parse(json.loads, run.summary_file.read_text(encoding="utf-8"))
        return summary if summary["images"] == metrics[-1]["count/reward_queries"] else None
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"expected the figures of a run in {run.summary_file}, got {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def _facts(
    metrics: list[dict[str, float]], records: list[dict[str, Any]], images: int
) -> dict[str, str]:
    """What a run has taken, by what it is."""
    first = records[0]
    facts = {"model": str(first["model"]["name"])}
    if metrics:
        last = metrics[-1]
        seconds = training_seconds(metrics)
        drawn = last["count/reward_queries"]
        facts |= {
            "images": f"{drawn:,.0f} of {images:,}" if drawn < images else f"{drawn:,.0f}",
            "rounds": f"{last['count/rounds']:,.0f}",
            "training time": _duration(seconds),
            "images per second": f"{drawn / seconds:.1f}",
            "denoiser evaluations": f"{last['count/denoiser_evaluations']:,.0f}",
        }
    facts["device"] = str(first["device"])
    if first.get("processes", 1) > 1:
        facts["processes"] = str(first["processes"])
    return facts


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _pairs(before: Evaluation, after: Evaluation | None) -> list[dict[str, Any]]:
    """The first picture of some prompts, before and after training."""
    return [
        {
            "prompt": before.prompts[k],
            "before": _uri(before.images[k, 0], LONGEST_SIDE),
            "after": None if after is None else _uri(after.images[k, 0], LONGEST_SIDE),
        }
        for k in spread(len(before.prompts), SHOWN)
    ]


def _reward_charts(
    metrics: list[dict[str, float]], before: Evaluation, after: Evaluation | None
) -> dict[str, Any]:
    training = [(row["count/reward_queries"], row["rollout/reward_mean"]) for row in metrics]
    held_out = [(0.0, mean(before.rewards))]
    # An evaluation stands beside the round that follows it.
    for earlier, row in itertools.pairwise(metrics):
        if "eval/reward" in row:
            held_out.append((earlier["count/reward_queries"], row["eval/reward"]))
    if after:
        held_out.append((metrics[-1]["count/reward_queries"], mean(after.rewards)))
    return {name: reward_chart(training, held_out, *size) for name, size in SIZES.items()}


def _sheets(run: RunFolder) -> list[dict[str, Any]]:
    """Some of the pictures from during the training, by round."""
    files = sorted(run.pictures.glob("round-*.png")) if run.pictures.is_dir() else []
    chosen = [files[k] for k in spread(len(files), SHEETS)] if files else []
    sheets = []
    for file in chosen:
        try:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("RGB"))
                prompts = str(picture.info.get(PROMPTS, "")).splitlines()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InvalidInputError(
                f"expected a picture in {file}, got {type(error).__name__}: {first_line(error)}"
            ) from error
        number = file.stem.removeprefix("round-").lstrip("0") or "0"
        uri = _uri(pixels, LONGEST_SHEET)
        sheets.append({"round": number, "uri": uri, "prompts": prompts})
    return sheets


def _uri(pixels: Frame, longest: int) -> str:
    """A picture ``[H, W, 3]`` as an address that holds it."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest))
    lossless = max(picture.size) <= (LOSSLESS if longest > LOSSLESS else longest // 2)
    kind, options = ("png", {"optimize": True}) if lossless else ("jpeg", {"quality": 85})
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return "none" if value is None else str(value)


def _printable(text: str) -> str:
    """Text that a file can hold and a page show: control characters and half ones replaced."""
    kinds = {c: unicodedata.category(c) for c in set(text)}
    kept = {c for c, kind in kinds.items() if kind not in ("Cc", "Cs") or c in "\n\t"}
    return "".join(c if c in kept else "\ufffd" for c in text)
