import json
from pathlib import Path

import pytest

from benchmarks.gpu_proof import report
from benchmarks.gpu_proof.__main__ import main
from benchmarks.gpu_proof.parts import FULL, ROOT, Part, run
from benchmarks.throughput.__main__ import job_of

MACHINE = {"device": "none"}


@pytest.mark.slow
def test_the_rehearsal(tmp_path: Path) -> None:
    assert main(["--toy", "--results", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "gpu_proof.json").read_text())
    tests, sizes, job = (part["figures"] for part in results["parts"])
    assert {test["outcome"] for test in tests["tests"]} == {"passed"}
    assert len(sizes["throughput"]["jobs"]) == 3
    assert job["run"]["images"] == 4
    page = (tmp_path / "gpu_proof.md").read_text()
    assert page.count("passed") == 3 + len(tests["tests"])


def test_parts_end_with_their_time(tmp_path: Path) -> None:
    """What hangs is stopped, and what would not fit is not begun."""
    hanging = Part(
        "hanging", "hangs", ("-c", "import time; print('so far', flush=True); time.sleep(60)"), 1
    )
    slow = Part("slow", "is long", ("-c", "pass"), 1000)
    quick = Part("quick", "is short", ("-c", "print('done')"), 0)
    outcomes = list(run([quick, slow, hanging, quick], tmp_path, minutes=3 / 60))
    assert [outcome.status for outcome in outcomes] == [0, None, None, None]
    assert outcomes[1].seconds == 0
    assert outcomes[2].seconds < 4
    assert "so far" in outcomes[2].output


def test_a_failure_is_told(tmp_path: Path) -> None:
    broken = Part("broken", "breaks", ("-c", "raise SystemExit('it broke')"), 0)
    (outcome,) = run([broken], tmp_path, minutes=1)
    assert outcome.status == 1
    page = report.page(report.gather([outcome], tmp_path, MACHINE))
    assert "| breaks | failed (1): it broke |" in page


def test_parts_are_commands_that_there_are() -> None:
    for part in FULL:
        module = part.arguments[1]
        if module != "pytest":
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
        if "--jobs" in part.arguments:
            for text in part.arguments[part.arguments.index("--jobs") + 1 :]:
                job = job_of(text, "cpu")
                settings = job.settings("emoji-64")  # every option is one that there is
                assert settings.run.num_envs % settings.agent.samples_per_prompt == 0
    assert sum(part.seconds for part in FULL[:4]) <= 6 * 60


def test_no_gpu_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        main([])
    assert "--toy" in capsys.readouterr().err
