"""Tunes each paradigm in the same way: the same trials, the same budget, one score on the validation split.

python -m benchmarks.tune vae svi        # some of them; all without arguments
python -m benchmarks.tune --table        # what was found, as Markdown

A trial trains on a quarter of the training images for as many epochs as the results have (tables of latents are then
visited as often), and is scored by the Fréchet distance of 10,000 samples, drawn as the model draws them, to as many
images of the validation split, in the features that `encdec test` uses. Trials are three learning rates times three
values of the setting that the paradigm is most sensitive to; the first of each is the untuned default. Each trial is
written as it ends, and what is written is not run again.
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import tempfile
import time
from pathlib import Path

import torch

import encdec
from benchmarks.records import Json
from benchmarks.turns import ROOT
from encdec.cli import main as run
from encdec.data import DataModule, FashionMNIST, Images
from encdec.data.fingerprints import fingerprint
from encdec.evaluation.context import Context
from encdec.evaluation.features import FeatureSpace, find_space
from encdec.evaluation.frechet import Frechet
from encdec.evaluation.view import DRAWS, View
from encdec.paradigms import Paradigm
from encdec.types import scaled

RESULTS = ROOT / "benchmarks" / "results" / "tuning"
RATES = ("1e-3", "3e-3", "1e-2")
EPOCHS, VAL_FRACTION, SAMPLES = 8, 0.75, 10_000
SENSITIVE: dict[str, tuple[str, tuple[str, ...]]] = {
    "ae": ("model.latent_dim", ("32", "16", "8")),
    "vae": ("model.latent_dim", ("32", "16", "8")),
    "vae_noenc": ("model.num_prior_samples", ("64", "256", "512")),
    "autodecoder": ("model.code_lr", ("0.02", "0.1", "0.3")),
    "glo": ("model.latent_lr", ("0.1", "0.03", "0.01")),
    "iwae": ("model.latent_dim", ("32", "16", "8")),
    "cvae": ("model.latent_dim", ("32", "16", "8")),
    "imle": ("model.latent_dim", ("32", "16", "8")),
    "rae": ("model.beta", ("0.01", "0.1", "1")),
    "wae": ("model.mmd_weight", ("200", "50", "1000")),
    "assignment": ("model.passes", ("3", "6", "12")),
    "gon": ("model.step_size", ("1", "0.3", "0.1")),
    "gon_variational": ("model.step_size", ("1", "0.3", "0.1")),
    "short_run": ("model.step_size", ("0.3", "0.2", "0.1")),
    "vad": ("model.latent_lr", ("0.5", "0.1", "0.03")),
    "energy_score": ("model.latent_dim", ("32", "16", "8")),
    "gan": ("model.penalty", ("1", "0.1", "10")),
    "dgd": ("model.latent_lr", ("0.1", "0.2", "0.05")),
    "savae": ("model.latent_dim", ("32", "16", "8")),
    "svi": ("model.latent_dim", ("32", "16", "8")),
}
"""The setting of each config that matters most beside the learning rate, and its values; the first is the default."""


def trials(name: str) -> list[dict[str, str]]:
    """The settings of a paradigm's trials."""
    flag, values = SENSITIVE[name]
    rate = "model.optimizer.init_args.lr"
    return [{rate: lr, flag: value} for lr, value in itertools.product(RATES, values)]


def trained(name: str, settings: dict[str, str], folder: str) -> tuple[Paradigm, float]:
    """A paradigm that was trained with some settings, and the seconds that it took."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(
            [
                "fit",
                f"--config={ROOT}/configs/{name}.yaml",
                f"--config={ROOT}/configs/data/fashion_mnist.yaml",
                f"--data.val_fraction={VAL_FRACTION}",
                f"--trainer.max_epochs={EPOCHS}",
                f"--trainer.check_val_every_n_epoch={EPOCHS + 1}",
                "--trainer.enable_progress_bar=false",
                f"--images.every_n_epochs={EPOCHS + 1}",
                f"--trainer.default_root_dir={folder}",
                *(f"--{key}={value}" for key, value in settings.items()),
            ]
        )
    seconds = time.perf_counter() - began
    (path,) = Path(folder).rglob("last.ckpt")
    return encdec.load(path), seconds


class Score:
    """The Fréchet distance of a paradigm's samples to validation images."""

    def __init__(self, data: DataModule) -> None:
        data.prepare_data()
        data.setup("fit")
        self._val: Images = data.splits["val"]
        self._data = data
        self._space: FeatureSpace | None = None

    @torch.no_grad()
    def of(self, paradigm: Paradigm) -> float:
        """Its distance; infinite where the samples are not finite."""
        view = View(paradigm.eval())
        train = self._data.splits["train"]
        if self._space is None:
            context = Context(view, train, self._data.splits["test"], 1, SAMPLES)
            folder = RESULTS.parents[2] / "lightning_logs" / "features"
            self._space = find_space(context, "classifier", folder, fingerprint(train))
        frechet = Frechet(self._space.dim, torch.device("cpu"))
        parts = torch.arange(SAMPLES).split(1000)
        for pixels in self._val.stream(parts):
            frechet.update(self._space.features(scaled(pixels)).double())
        frechet.next_set()
        for part in parts:
            images = view.images(view.noise(DRAWS["samples"], part), self._val.labels[part])
            if not images.isfinite().all():
                return math.inf
            frechet.update(self._space.features(images).double())
        return float(frechet.compute())


def tune(name: str, score: Score) -> None:
    """Run the trials of a paradigm that are not yet written."""
    path = RESULTS / f"{name}.json"
    found: list[Json] = json.loads(path.read_text()) if path.exists() else []
    for settings in trials(name):
        if any(trial["settings"] == settings for trial in found):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                paradigm, seconds = trained(name, settings, folder)
                result: Json = {"frechet": round(score.of(paradigm), 2), "seconds": round(seconds, 1)}
            except SystemExit as error:  # such as a loss that is not finite; not a signal
                if error.code not in (1, 2):
                    raise
                result = {"frechet": None, "failed": str(error.code)}
        found.append({"settings": settings, **result})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(name, *(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items()), result, flush=True)


def table() -> str:
    """The default's and the best trial of each paradigm, as Markdown."""
    rows = ["| config | untuned | Fréchet | tuned | Fréchet | seconds |", "|---|---|---|---|---|---|"]
    for name in SENSITIVE:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        found = [trial for trial in json.loads(path.read_text()) if trial["frechet"] is not None]
        best = min(found, key=lambda trial: float(trial["frechet"]))
        first = next(trial for trial in found if trial["settings"] == trials(name)[0])
        shown = [
            ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in trial["settings"].items())
            for trial in (first, best)
        ]
        rows.append(
            f"| {name} | {shown[0]} | {first['frechet']} | {shown[1]} | {best['frechet']} | {best['seconds']:.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Tune, or show what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("names", nargs="*", default=[], help="configs; all if none")
    parser.add_argument("--table", action="store_true", help="only show what was found")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return
    score = Score(FashionMNIST(val_fraction=VAL_FRACTION))
    for name in arguments.names or SENSITIVE:
        tune(name, score)


if __name__ == "__main__":
    main()
