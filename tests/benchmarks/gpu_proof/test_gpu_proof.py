import json
import signal
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu_proof import parts, report
from benchmarks.gpu_proof.__main__ import main
from benchmarks.gpu_proof.parts import FULL, ROOT, Outcome, Part, run
from benchmarks.throughput.__main__ import job_of

MACHINE = {"device": "none"}


@pytest.mark.slow
def test_the_rehearsal(tmp_path: Path) -> None:
    assert main(["--toy", "--results", str(tmp_path)]) == 0
    assert not (tmp_path / "gpu_proof.json").exists()  # it proves nothing of a GPU
    results = json.loads((tmp_path / "gpu_proof_toy.json").read_text())
    tests, sizes, job = (part["figures"] for part in results["parts"])
    assert {test["outcome"] for test in tests["tests"]} == {"passed"}
    assert len(sizes["throughput"]["jobs"]) == 3
    assert job["run"]["images"] == 4
    page = (tmp_path / "gpu_proof_toy.md").read_text()
    assert page.startswith("# A rehearsal")
    assert page.count("passed") == 3 + len(tests["tests"])


def test_parts_end_with_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is stopped and leaves time to others; what would not fit is not begun."""
    monkeypatch.setattr(parts, "GRACE", 0.1)
    # It does not listen to Ctrl-C, and what it has started holds its output open.
    deaf = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print('so far', child.pid, flush=True); time.sleep(60)"
    )
    hanging = Part("hanging", "hangs", ("-c", deaf), 1)
    slow = Part("slow", "is long", ("-c", "pass"), 1000)
    quick = Part("quick", "is short", ("-c", "print('done')"), 0)
    outcomes = list(run([quick, slow, hanging, quick], tmp_path, minutes=10 / 60))
    assert [outcome.status for outcome in outcomes] == [0, None, None, 0]
    assert outcomes[1].seconds == 0
    assert 5 <= outcomes[2].seconds < 10
    assert outcomes[2].output.endswith("stopped: its time was over")
    child = int(outcomes[2].output.partition("so far ")[2].split()[0])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_what_is_stopped_writes_what_it_has(tmp_path: Path) -> None:
    """It is told as by Ctrl-C, also where a shell's background job would not listen."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = "{folder}/measured.json"
    code = (
        "import pathlib, time\ntry: time.sleep(60)\n"
        f"except KeyboardInterrupt: pathlib.Path({folder!r}).write_text('[3]')"
    )
    try:
        part = Part("long", "takes long", ("-S", "-c", code), 0)
        (outcome,) = run([part], tmp_path, minutes=10 / 60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.status is None
    (gathered,) = report.gather([outcome], tmp_path, MACHINE)["parts"]
    assert gathered["figures"] == {"memory": [3]}


def test_a_failure_is_told(tmp_path: Path) -> None:
    broken = Part("broken", "breaks", ("-c", "raise SystemExit('it broke')"), 0)
    (outcome,) = run([broken], tmp_path, minutes=1)
    assert outcome.status == 1
    page = report.page(report.gather([outcome], tmp_path, MACHINE))
    assert "| breaks | failed (1): it broke |" in page


def test_what_could_not_be_measured_is_said(tmp_path: Path) -> None:
    """One prompt, for instance, has no interval."""
    part = Part("run", "a job", (), 0)
    (tmp_path / "run" / "run").mkdir(parents=True)
    summary = {"images": 8, "difference": 0.25, "difference_low": None}
    (tmp_path / "run" / "run" / "summary.json").write_text(json.dumps(summary))
    page = report.page(report.gather([Outcome(part, 0, 1.0, "")], tmp_path, MACHINE))
    assert "| difference | 0.250 |" in page
    assert "| difference_low | not measured |" in page


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "six"])
def test_minutes_are_a_time(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--toy", "--minutes", minutes])
    assert "--minutes" in capsys.readouterr().err


def test_parts_are_commands_that_there_are() -> None:
    for part in FULL:
        module = part.arguments[1]
        if module == "pytest":
            assert (ROOT / part.arguments[3]).is_file()
        else:
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
