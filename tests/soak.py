"""Stops a training again and again at random moments, goes on with it, and compares it with one that was left alone.

    python -m tests.soak --kills 50
    python -m tests.soak --kills 20 --config configs/autodecoder.yaml --processes 2

Other flags are those of `fit`, such as --trainer.accumulate_grad_batches=3. Signals are SIGKILL (half of them), SIGTERM
and SIGINT, to all processes of the run. After each, every checkpoint there must be readable; in the end weights, the
optimizer's state, curves and pictures must have the bits of the whole run.
"""

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from encdec.runs.checkpoints import read_checkpoint
from tests import killing
from tests.conftest import ENVIRONMENT, ROOT

SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


def main(args: Sequence[str] | None = None) -> int:
    """Run the soak test.

    Args:
        args: of the command line; taken from sys.argv if None.

    Returns:
        How many values differ from those of the whole run.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how often the run is stopped")
    parser.add_argument("--config", default="configs/vae.yaml", help="what is trained, on the digits")
    parser.add_argument("--processes", type=int, default=1, help="of the run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--epochs", type=int, default=None, help="of 22 steps and a checkpoint; enough for all kills")
    options, flags = parser.parse_known_args(args)
    epochs = options.epochs or 8 * options.kills
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shared in ("configs", "plugins"):
            (folder / shared).symlink_to(ROOT / shared)
        return _soak(folder, options, epochs, flags)


def _soak(folder: Path, options: argparse.Namespace, epochs: int, flags: list[str]) -> int:
    run = [f"--config={options.config}", f"--trainer.max_epochs={epochs}", f"--images.every_n_epochs={epochs // 4 + 1}",
           "--data.batch_size=60", "--trainer.accelerator=cpu", f"--trainer.devices={options.processes}"]  # fmt: skip
    run += ["--model.code_steps=2"] if "autodecoder" in options.config else []
    run += flags
    began = time.monotonic()
    process = _start(folder, "whole", run)
    _wait_for_training(folder, process)
    started = time.monotonic()
    assert process.wait() == 0, _output(folder)
    seconds = time.monotonic() - started
    print(f"whole run: {epochs} epochs in {seconds:.0f} s, after {started - began:.0f} s of start-up", flush=True)

    dice, counts = random.Random(options.seed), collections.Counter[str]()
    checkpoints = folder / "lightning_logs/killed/version_0/checkpoints"
    steps = [0]
    while counts.total() < options.kills:
        process = _start(folder, "killed", run)
        if dice.random() < 0.8:  # the others come while it starts
            _wait_for_training(folder, process)
        time.sleep(dice.uniform(0, 1.2 * seconds / options.kills))
        if process.poll() is not None:
            print(f"the run was over after {counts.total()} of {options.kills} kills: give more --epochs")
            break
        number = dice.choice(SIGNALS)
        os.killpg(process.pid, number)
        code = process.wait(60)
        before_main = "Failed to import the site module" in _output(folder)  # Python itself was still starting
        assert code in (-number, 128 + number, 0) or before_main, (
            f"exit code {code} after {number.name}: {_output(folder)}"
        )
        counts[number.name] += 1
        readable = [read_checkpoint(path)["global_step"] for path in sorted(checkpoints.glob("*.ckpt"))]
        steps.append(max(readable, default=0))
        assert steps[-1] >= steps[-2], f"a kill lost steps: {steps[-2:]}"
        print(f"{counts.total():3} {number.name:7} exit code {code:4}  newest checkpoint: step {steps[-1]}", flush=True)
    assert _start(folder, "killed", run).wait() == 0, _output(folder)
    both = [killing.left(folder / f"lightning_logs/{name}/version_0") for name in ("whole", "killed")]
    differing = killing.differences(*both)
    print(f"{counts.total()} kills ({', '.join(f'{n} {name}' for name, n in counts.items())}), "
          f"{len(both[0])} tensors, curves and pictures compared, {len(differing)} differ")  # fmt: skip
    for name in differing:
        print(f"  {name}{_points(*(of.get(name) for of in both))}")
    return len(differing)


def _points(whole: object, killed: object) -> str:
    """Which points of a curve only one of two runs has, the first of them."""
    if not isinstance(whole, list) or not isinstance(killed, list):
        return ""
    missing, added = ([p for p in a if p not in b] for a, b in ((whole, killed), (killed, whole)))
    return f": {len(missing)} missing, first {missing[:1]!r:.80}; {len(added)} instead, first {added[:1]!r:.80}"


def _start(folder: Path, name: str, run: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "encdec", "fit", "--resume", *run, f"--name={name}"]
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores Ctrl-C
        )  # fmt: skip


def _wait_for_training(folder: Path, process: subprocess.Popen[bytes]) -> None:
    while "images of" not in _output(folder) and process.poll() is None:  # in the line that a run begins with
        time.sleep(0.02)


def _output(folder: Path) -> str:
    return (folder / "output.txt").read_text(errors="replace")


if __name__ == "__main__":
    raise SystemExit(main() > 0)
