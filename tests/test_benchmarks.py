"""The benchmarks run, say what they measured, and compute what they say; no test asserts a time."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import costs, draw, scaling, throughput
from benchmarks.common import CONFIGS, Entrant, Task, Worker, in_turns, number, orders, ratios, shown, summary
from benchmarks.ways import Model
from encdec import loops
from encdec.networks import ConvDecoder, ConvEncoder
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE, Paradigm
from encdec.types import Batch

from .conftest import RunCLI

SHAPE = (1, 8, 8)
PARADIGMS: dict[str, type[Paradigm]] = {
    "AE": AE,
    "ConditionalDecoder": ConditionalDecoder,
    "VAE": VAE,
    "EncoderlessVAE": EncoderlessVAE,
}
COUNTER = """
from benchmarks.common import Gate
gate = Gate()
while True:
    gate.step()
"""


def test_ratios_are_of_the_same_round_and_summarised_by_their_median() -> None:
    relative = ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])
    assert relative == [2.0, 3.0, 1.0]
    assert summary(relative) == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": relative}
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_in_every_round_each_has_one_turn_and_nobody_always_follows_the_same() -> None:
    rounds = list(orders(["a", "b", "c"], 6))
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert rounds[:3] == [["a", "b", "c"], ["a", "c", "b"], ["c", "a", "b"]]
    assert {order[0] for order in rounds} == {order[-1] for order in rounds} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("value", "text"), [(0.9534, "0.953"), (1.0, "1.00"), (25.41, "25.4"), (123.4, "123"), (48123.0, "48,123")]
)
def test_numbers_are_shown_with_three_digits(value: float, text: str) -> None:
    assert number(value) == text
    assert shown({"median": value, "min": value, "max": value}) == f"{text} ({text}–{text})"


def test_comparison_is_computed_from_the_rounds() -> None:
    ways = throughput.compare({"encdec": [9.0, 12.0, 11.0], "bare": [10.0, 10.0, 10.0]}, Task("", "Digits", 1438))
    assert ways["encdec"]["images_per_second"]["median"] == 11 * 128
    assert ways["encdec"]["relative_to_bare"]["median"] == 1.1
    assert ways["bare"]["encdec_relative_to_it"]["rounds"] == [0.9, 1.2, 1.1]
    assert ways["bare"]["target"] == 0.95


def test_compiled_is_compared_with_compiled() -> None:
    task = Task("", "Digits", 1438, networks="conv", batch=1024, accelerator="gpu", compilation="reduce-overhead")
    speeds = {"encdec": [10.0], "encdec_compiled": [33.0], "bare": [11.0], "bare_compiled": [30.0]}
    ways = throughput.compare(speeds, task)
    assert ways["bare_compiled"]["encdec_relative_to_it"]["median"] == 1.1
    assert ways["bare_compiled"]["target"] == 0.95
    assert ways["encdec_compiled"]["relative_to_bare"]["median"] == 3
    assert "encdec_relative_to_it" not in ways["encdec_compiled"]
    assert "--compile=reduce-overhead" in task.command("encdec_compiled")
    assert not any("--compile" in word for word in task.command("encdec"))


@pytest.mark.parametrize("batch", [128, 1000, 1024])
@pytest.mark.parametrize("total", [1438, 60000])
def test_all_batches_are_full(batch: int, total: int) -> None:
    task = Task("", "Digits", total, batch=batch)
    assert task.images % batch == 0
    assert 0 < task.images <= 0.9 * total
    assert total - round(total * task.val_fraction) == task.images


@pytest.mark.parametrize("networks", ["mlp", "conv"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_the_bare_model_has_the_loss_and_the_size_of_encdecs(paradigm: str, networks: str) -> None:
    arguments: dict[str, Any] = {"image_shape": SHAPE, "num_classes": 10}
    if networks == "conv":
        arguments["decoder"] = ConvDecoder
        arguments |= {"encoder": ConvEncoder} if paradigm in ("AE", "VAE") else {}
    check_same_loss(PARADIGMS[paradigm](**arguments), Model(Task("", "Digits", 1438, paradigm, networks), SHAPE))


def test_the_bare_model_has_the_same_bound() -> None:
    ours = EncoderlessVAE(image_shape=SHAPE, num_classes=10, num_prior_samples=7)
    check_same_loss(ours, Model(Task("", "Digits", 1438, "EncoderlessVAE", codes=7), SHAPE))


def check_same_loss(ours: Paradigm, theirs: Model) -> None:
    weights = {name: value for name, value in ours.state_dict().items() if not name.startswith("codes.")}
    theirs.load_state_dict(weights)
    x, y = torch.rand(6, *SHAPE), torch.arange(6)
    torch.manual_seed(1)
    expected = ours.losses(Batch(x, y, torch.arange(6)))["loss"].mean()
    torch.manual_seed(1)
    torch.testing.assert_close(theirs(x, y), expected)


def test_workers_stand_still_between_their_turns_and_end_with_their_parent(tmp_path: Path) -> None:
    entrant = Entrant([sys.executable, "-c", COUNTER], threads=1, ramp=2)
    worker = Worker(entrant, str(tmp_path))
    try:
        assert worker.turn(50)[0] == 50
        status = Path(f"/proc/{worker.pid}/stat")
        if status.exists():
            assert status.read_text().rpartition(")")[2].split()[0] == "T"
        speeds = in_turns({"only": worker}, rounds=3, seconds=0.01)
        assert len(speeds["only"]) == 3
        assert all(speed > 0 for speed in speeds["only"])
    finally:
        worker.close()


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        Worker(Entrant([sys.executable, "-c", "raise SystemExit('no such thing')"], 1, 1), str(tmp_path))


def test_stopped_workers_die_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = f"""
import sys, time
from benchmarks.common import Entrant, Worker
worker = Worker(Entrant([sys.executable, "-c", {COUNTER!r}], 1, 1), {str(tmp_path)!r})
worker.turn(1)
print(worker.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    os.kill(child, 0)  # it is there
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    if alive(child):
        os.kill(child, signal.SIGKILL)
        pytest.fail("the worker outlived its parent")


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def check_summaries(value: Any) -> int:
    """Every summary holds what its rounds give, all of it finite and positive; how many there are."""
    if isinstance(value, list):
        return sum(check_summaries(item) for item in value)
    if not isinstance(value, dict):
        return 0
    if "rounds" not in value or "median" not in value:
        return sum(check_summaries(item) for item in value.values())
    assert value["median"] == statistics.median(value["rounds"])
    assert value["min"] == min(value["rounds"])
    assert value["max"] == max(value["rounds"])
    assert all(math.isfinite(item) for item in value["rounds"])
    return 1


def read(path: Path, benchmark: str) -> Any:
    text = path.read_text()
    assert str(Path.home()) not in text
    assert str(Path(__file__).parent.parent) not in text
    contents = json.loads(text)
    assert contents["benchmark"] == f"python -m benchmarks.{benchmark}"
    assert {"cpu", "cores", "gpu", "system"} == set(contents["machine"])
    assert {"python", "torch", "lightning", "encdec"} <= set(contents["versions"])
    return contents


@pytest.mark.slow
def test_throughput_runs_and_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "throughput.json"
    ways = ["encdec", "bare", "pythae", "script_4"]
    only = ["--paradigms", "VAE", "--networks", "mlp", "--batch", "128", "--ways", *ways]
    throughput.main(["--quick", "--threads", "1", *only, "--out", str(out)])
    contents = read(out, "throughput")
    (result,) = contents["results"]
    assert {*result["ways"], *result["not_installed"]} == set(ways)
    assert result["ways"]["script_4"]["target"] == 25
    assert all(speed > 0 for entry in result["ways"].values() for speed in entry["images_per_second"]["rounds"])
    bare = result["ways"]["bare"]["images_per_second"]["rounds"]
    for entry in result["ways"].values():
        pairs = zip(entry["images_per_second"]["rounds"], bare, strict=True)
        assert entry["relative_to_bare"]["rounds"] == pytest.approx([a / b for a, b in pairs])
    assert check_summaries(contents) == 3 * len(result["ways"]) - 1
    printed = capsys.readouterr().out
    assert "encdec relative to" in printed
    assert "≥ 0.95" in printed
    draw.main(out, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 0


@pytest.mark.slow
def test_costs_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "costs.json"
    only = ["--paradigms", "VAE", "--networks", "mlp", "--batch", "256"]
    costs.main(["--quick", "--threads", "1", *only, "--out", str(out)])
    results = read(out, "costs")["results"]
    assert set(results["start_up"]["seconds"]) >= {"--help", "--version", "a wrong command", "first step"}
    (commands,) = results["whole_commands"]
    assert set(commands["seconds"]) == {"encdec", "bare"}
    assert commands["seconds_relative_to_bare"]["bare"]["median"] == 1
    assert check_summaries(results) == 5 + 1 + 5 + 3 * 2
    assert results["within_a_run"]["validation_images_per_second"]["median"] > 0
    assert "first step relative to the import" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes", [{"codes": 1, "products": 2}, {"choices": 2}, {"processes": 2}, {"pictures": 1}], ids=" ".join
)
def test_scaling_runs(axes: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scaling.json"
    scaling.main(["--quick", "--threads", "2", "--axes", *axes, "--out", str(out)])
    printed = capsys.readouterr().out
    for axis, count in axes.items():
        rows = read(out, "scaling")["results"][axis]
        assert len(rows) == count
        assert all(axis in row for row in rows)
        assert check_summaries(rows) >= 3
        assert axis in printed


def test_choices_are_undone(cli: RunCLI, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `scaling` measures without the plain step trains without it."""
    plain = []
    monkeypatch.setattr(loops.EpochLoop, "_step", lambda *_: plain.append(1))
    hook = "--trainer.callbacks+=benchmarks.hooks.LightningsLoop"
    cli("fit", "--config=configs/vae.yaml", "--trainer.max_epochs=1", hook)
    assert not plain


def test_every_paradigm_has_its_config() -> None:
    assert set(CONFIGS) == set(PARADIGMS)
