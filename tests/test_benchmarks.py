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

import numpy as np
import pytest
import torch

from benchmarks import costs, draw, scaling, study, throughput
from benchmarks.baselines import Model
from benchmarks.records import interval, number, ratios, shown, summary
from benchmarks.tasks import CONFIGS, Task
from benchmarks.turns import Entrant, Worker, in_turns, orders
from encdec.networks import ConvDecoder, ConvEncoder
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE, Paradigm
from encdec.types import Batch

SHAPE = (1, 8, 8)
PARADIGMS: dict[str, type[Paradigm]] = {
    "AE": AE,
    "ConditionalDecoder": ConditionalDecoder,
    "VAE": VAE,
    "EncoderlessVAE": EncoderlessVAE,
}
COUNTER = """
from benchmarks.turns import Gate
gate = Gate()
while True:
    gate.step()
"""


def test_ratios_are_of_the_same_round_and_summarised_by_their_median() -> None:
    relative = ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])
    assert relative == [2.0, 3.0, 1.0]
    assert summary(relative) == {"median": 2.0, "low": 1.0, "high": 3.0, "rounds": relative}
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
    assert shown({"median": value, "low": value, "high": value}) == f"{text} ({text}–{text})"


@pytest.mark.parametrize("rounds", [6, 9, 15, 21])
def test_the_interval_holds_the_median_in_95_of_100_measurements(rounds: int) -> None:
    """Also of skewed distributions, of which nothing but the rounds is known; e^0 is the median of these."""
    measurements = np.random.default_rng(0).lognormal(0, 2, (4000, rounds))
    held = [low <= 1 <= high for low, high in map(interval, measurements.tolist())]
    assert 0.945 < sum(held) / 4000 < 0.99
    assert interval([3.0, 1.0, 2.0]) == (1, 3), "of few rounds it is all of them"


def test_comparison_is_computed_from_the_rounds() -> None:
    speeds = throughput.compare({"encdec": [9.0, 12.0, 11.0], "bare": [10.0, 10.0, 10.0]}, Task("", "Digits", 1438))
    assert speeds["encdec"]["images_per_second"]["median"] == 11 * 128
    assert speeds["bare"]["encdec_relative"]["rounds"] == [0.9, 1.2, 1.1]
    assert speeds["bare"]["target"] == 0.92
    assert "target" not in speeds["encdec"]


@pytest.mark.parametrize(
    ("networks", "batch", "least"), [("mlp", 128, 0.92), ("mlp", 1024, 0.97), ("conv", 128, 0.97), ("conv", 1024, 0.97)]
)
def test_the_targets_are_those_of_the_networks_and_the_batch(networks: str, batch: int, least: float) -> None:
    task = Task("", "Digits", 1438, networks=networks, batch=batch)
    assert throughput.target("bare", task) == least
    assert throughput.target("pythae", task) == 1.4
    assert throughput.target("lightning", task) == 1.5
    assert throughput.target("script", task) is None


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
    check_same_loss(ours, Model(Task("", "Digits", 1438, "EncoderlessVAE", samples=7), SHAPE))


def check_same_loss(ours: Paradigm, theirs: Model) -> None:
    weights = {name: value for name, value in ours.state_dict().items() if not name.startswith("ex_post.")}
    theirs.load_state_dict(weights)
    x, y = torch.rand(6, *SHAPE), torch.arange(6)
    torch.manual_seed(1)
    expected = ours.losses(Batch(x, y, torch.arange(6))).loss.mean()
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
from benchmarks.turns import Entrant, Worker
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
    assert (value["low"], value["high"]) == interval(value["rounds"])
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
    only = ["--paradigms", "VAE", "--networks", "mlp", "--batch", "128"]
    throughput.main(["--quick", "--threads", "1", "2", *only, "--out", str(out)])
    contents = read(out, "throughput")
    assert [result["threads"] for result in contents["results"]] == [1, 2]
    for result in contents["results"]:
        speeds = result["speeds"]
        assert {*speeds, *result["not_installed"]} == {"encdec", *throughput.BASELINES}
        assert all(speed > 0 for entry in speeds.values() for speed in entry["images_per_second"]["rounds"])
        ours = speeds.pop("encdec")["images_per_second"]["rounds"]
        for entry in speeds.values():
            pairs = zip(ours, entry["images_per_second"]["rounds"], strict=True)
            assert entry["encdec_relative"]["rounds"] == pytest.approx([a / b for a, b in pairs])
        assert check_summaries(result) == 2 * len(speeds)
    printed = capsys.readouterr().out
    assert "encdec relative to" in printed
    assert "≥ 0.92" in printed
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
@pytest.mark.parametrize("axes", [{"samples": 1}, {"processes": 2}, {"pictures": 1}], ids=" ".join)
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


def test_every_paradigm_has_its_config() -> None:
    assert set(CONFIGS) == set(PARADIGMS)


def test_a_study_is_compared_with_its_commands_round_by_round() -> None:
    found = study.compare({"commands": [10.0, 20.0], "study": [5.0, 4.0]})
    assert found["study"]["times_as_fast"]["rounds"] == [2.0, 5.0]
    assert found["commands"]["times_as_fast"]["rounds"] == [1.0, 1.0]
    assert found["study"]["seconds"]["median"] == 4.5


@pytest.mark.slow
def test_the_benchmark_of_studies_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study.json"
    study.main(["--quick", "--rounds", "1", "--out", str(out)])
    assert "2 jobs on Digits" in capsys.readouterr().out
    assert set(json.loads(out.read_text())["results"]) == {"commands", "study", "spawned"}
