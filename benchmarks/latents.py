"""Every way to give an image a latent, on one data set, with one decoder, for equal epochs: trains, tests, tabulates.

python -m benchmarks.latents                # all rows; those that are written are not run again
python -m benchmarks.latents vae svi        # some of them
python -m benchmarks.latents --table        # what was found, as Markdown

Each row is `encdec fit` and `encdec test` on Fashion-MNIST, seed 0, one thread; likelihoods and reconstructions are
those of the first 2,000 test images, which are in no order. Its JSON file holds the metrics of the test, the seconds of
the training, and the milliseconds that the latent of a test image takes, in batches of 100.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

import encdec
from benchmarks.records import Json
from benchmarks.turns import ROOT
from encdec.data import FashionMNIST
from encdec.evaluation.view import View
from encdec.paradigms import encodes
from encdec.types import Batch, scaled

RESULTS = ROOT / "benchmarks" / "results" / "latents"
RUNS = Path("lightning_logs") / "latents"
EPOCHS, IMAGES, TIMED = 8, 2000, 1000
_FASTER = "--model.optimizer.init_args.lr=1e-2"
ROWS: dict[str, str] = {
    "ae": "ae --model.optimizer.init_args.lr=3e-3",
    "vae": f"vae --model.latent_dim=8 {_FASTER}",
    "vae, untuned": "vae",
    "iwae": "iwae",
    "cvae": "cvae",
    "rae": "rae",
    "wae": "wae",
    "savae": "savae",
    "vae_noenc": "vae_noenc",
    "fixed": "vae_noenc --model.latents=fixed",
    "k512": f"vae_noenc --model.num_prior_samples=512 {_FASTER}",
    "imle": "imle",
    "assignment": "assignment",
    "autodecoder": "autodecoder",
    "glo": "glo",
    "dgd": "dgd",
    "vad": "vad",
    "svi": "svi",
    "gon": "gon",
    "gon, detached": "gon --model.detach=true",
    "gon_variational": "gon_variational",
    "short_run": "short_run",
    "short_run, persistent": "short_run --model.persistent=true --model.latent_steps=5 --model.step_size=0.5",
}
"""Each row's name, its config and its settings: the winners of `benchmarks.tune`, as far as the config has others."""
COLUMNS = {
    "mse_encoder": "MSE",
    "frechet_classifier": "Fréchet",
    "recall_classifier": "recall",
    "coverage_classifier": "coverage",
    "nll_posterior": "−log p(x), bound",
    "elbo_amortisation_gap": "amortisation gap",
    "memorised": "memorised",
}


def command(*args: str) -> float:
    """Run encdec with one thread; the seconds that it took.

    Raises:
        RuntimeError: it fails; with the end of what it wrote.
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "encdec", *args],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"encdec {' '.join(args)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - began


def latent_milliseconds(checkpoint: Path) -> float | None:
    """What the latent of a test image takes on one thread, in batches of 100; None where images have none."""
    paradigm = encdec.load(checkpoint)
    view = View(paradigm)
    if not encodes(paradigm):
        return None
    torch.set_num_threads(1)
    data = FashionMNIST()
    data.prepare_data()
    data.setup("test")
    images = data.splits["test"]
    parts = torch.arange(TIMED).split(100)
    batches = [
        Batch(scaled(pixels), images.labels[part], part, "test")
        for part, pixels in zip(parts, images.stream(parts), strict=True)
    ]
    with torch.no_grad():
        view.encode(batches[0])
        began = time.perf_counter()
        for batch in batches:
            view.encode(batch)
    return 1000 * (time.perf_counter() - began) / TIMED


def _result(name: str) -> Path:
    return RESULTS / f"{name.replace(', ', '_')}.json"


def measure(name: str, fit_only: bool = False) -> None:
    """Train and test a row, and write what was found."""
    config, *settings = ROWS[name].split()
    path = _result(name)
    folder = RUNS / path.stem
    layers = f"--config={ROOT}/configs/{config}.yaml", f"--config={ROOT}/configs/data/fashion_mnist.yaml"
    timed = folder / "seconds.json"
    if not timed.exists():
        shutil.rmtree(folder, ignore_errors=True)
        seconds = command(
            "fit", *layers, f"--trainer.max_epochs={EPOCHS}", f"--trainer.default_root_dir={folder}",
            "--trainer.enable_progress_bar=false", *settings,
        )  # fmt: skip
        timed.write_text(json.dumps(seconds))
    seconds = json.loads(timed.read_text())
    if fit_only:
        return
    (checkpoint,) = folder.rglob("last.ckpt")
    cache = RUNS.parent / "features"
    test = command(
        "test", f"--ckpt_path={checkpoint}", f"--evaluation.cache_dir={cache}", f"--evaluation.num_images={IMAGES}"
    )
    report: Json = json.loads(checkpoint.with_suffix(".evaluation.json").read_text())
    found = {
        "command": f"encdec fit --config configs/{ROWS[name]} --config configs/data/fashion_mnist.yaml",
        "epochs": EPOCHS,
        "fit_seconds": round(seconds, 1),
        "test_seconds": round(test, 1),
        "latent_milliseconds": latent_milliseconds(checkpoint),
        "settings": report["settings"],
        "versions": report["versions"],
        "metrics": {key: metric["value"] for key, metric in report["metrics"].items()},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{name}: {seconds:.0f} s to train, {test:.0f} s to test", flush=True)


def table() -> str:
    """What was found, as Markdown."""
    rows = [
        f"| | {' | '.join(COLUMNS.values())} | training, s | a latent, ms |",
        f"|---|{'---|' * (len(COLUMNS) + 2)}",
    ]
    for name in ROWS:
        path = _result(name)
        if path.exists():
            found = json.loads(path.read_text())
            values = [found["metrics"].get(key) for key in COLUMNS]
            values += [found["fit_seconds"], found["latent_milliseconds"]]
            rows.append(f"| {name} | {' | '.join('' if v is None else f'{v:.4g}' for v in values)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure, or show what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latents", description=__doc__)
    parser.add_argument("names", nargs="*", default=[], help="rows; all if none")
    parser.add_argument("--table", action="store_true", help="only show what was found")
    parser.add_argument("--fit", action="store_true", help="only train")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return
    for name in arguments.names or ROWS:
        if not _result(name).exists():
            measure(name, arguments.fit)


if __name__ == "__main__":
    main()
