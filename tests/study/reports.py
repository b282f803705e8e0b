"""Folders of studies whose evaluations are made up, for tests of the report."""

import csv
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from encdec.evaluation import image_values
from encdec.evaluation.image_values import ImageValues
from encdec.formats import REPORT_FORMAT
from encdec.study.report import write_report

KINDS = {
    "vae": {"paradigm": "VAE", "conditioning": "image", "has_encoder": True, "reads_labels": False},
    "ae": {"paradigm": "AE", "conditioning": "image", "has_encoder": True, "reads_labels": False},
    "svi": {"paradigm": "SVI", "conditioning": "image", "has_encoder": False, "reads_labels": False},
    "assignment": {"paradigm": "Assignment", "conditioning": "image", "has_encoder": False, "reads_labels": False},
    "gan": {"paradigm": "GAN", "conditioning": "None", "has_encoder": False, "reads_labels": False},
    "label": {"paradigm": "ConditionalDecoder", "conditioning": "label", "has_encoder": False, "reads_labels": True},
}
"""What the evaluations of these paradigms say about them."""
FRECHET = "squared distance of features, 10,000 samples vs 359 test images"


def metric(value: float, unit: str = "share", **more: Any) -> dict[str, Any]:
    """A metric of an evaluation."""
    return {"value": value, "unit": unit, **more}


def usual(level: float) -> dict[str, dict[str, Any]]:
    """The headlines and the costs of a paradigm, all better where `level` is lower."""
    real = {"reference": 8.0, "reference_name": "1,294 real training images"}
    mean_image = {"reference": 0.073, "reference_name": "mean image"}
    return {
        "mse": metric(0.01 * level, "per pixel", **mean_image),
        "nll_bound": metric(20 + level, "nats per image, Bernoulli, K = 64", standard_error=0.1),
        "frechet_classifier": metric(30 * level, FRECHET, **real),
        "frechet_classifier_prior": metric(30 * level, FRECHET),
        "frechet_classifier_mixture": metric(20 * level, FRECHET),
        "recall_classifier": metric(1 / (1 + level), standard_error=0.02),
        "memorised": metric(0.1, reference=0.4, reference_name="359 held-out images"),
        "target_near_encoder": metric(1 / (1 + level), "cosine of deviations from the mean image"),
        "elbo_amortisation_gap": metric(0.1 * level, "nats per image"),
        "decoder_calls": metric(1.0, "decoder passes per training image"),
        "parameters_training": metric(50_000.0, "parameters"),
        "latent_milliseconds": metric(0.5 * level, "milliseconds per test image"),
    }


def noise(*parts: object) -> float:
    """A number in [0, 1) that is a function of its arguments alone."""
    return zlib.crc32(repr(parts).encode()) / 2**32


class Folder:
    """A study's folder that is made up.

    Args:
        path: where it is.
        paradigms, data, seeds: as in the study's file.
        more: other keys of the study's file.
    """

    def __init__(
        self,
        path: Path,
        paradigms: Sequence[str] = ("vae", "svi"),
        data: Sequence[str] = ("digits",),
        seeds: Sequence[int] = (0, 1, 2),
        **more: Any,
    ) -> None:
        self.path, self.paradigms, self.data, self.seeds = path, paradigms, data, seeds
        settings = {
            "name": path.name,
            "seeds": list(seeds),
            "data": {name: ["--data", "Digits"] for name in data},
            "paradigms": {name: ["--config", f"configs/{name}.yaml"] for name in paradigms},
            "common": ["--trainer.max_epochs", "8"],
            "report": {"baseline": paradigms[0]},
            **more,
        }
        path.mkdir(parents=True, exist_ok=True)
        (path / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

    def job(self, paradigm: str, data: str, seed: int) -> Path:
        """The folder of a job."""
        return self.path / paradigm / data / f"seed_{seed}"

    def fill(self, spread: float = 0.1) -> None:
        """Write every job: the later a paradigm stands in the study, the better it is; curves and images too."""
        for place, paradigm in enumerate(self.paradigms):
            for data in self.data:
                for seed in self.seeds:
                    level = 1 + 0.5 * (len(self.paradigms) - place) + spread * noise(paradigm, data, seed)
                    self.done(paradigm, data, seed, usual(level))

    def done(
        self,
        paradigm: str,
        data: str,
        seed: int,
        metrics: Mapping[str, Mapping[str, Any]],
        *,
        state: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
        values: Mapping[str, ImageValues] | None = None,
    ) -> None:
        """Write a job that is done, with its evaluation, curves and images."""
        checkpoints = Path("lightning_logs", paradigm, "version_0", "checkpoints")
        folder = self.job(paradigm, data, seed)
        self.state(
            paradigm, data, seed, status="done", checkpoint=(checkpoints / "last.ckpt").as_posix(), **state or {}
        )
        (folder / checkpoints).mkdir(parents=True, exist_ok=True)
        kind = KINDS.get(
            paradigm, {"paradigm": "Other", "conditioning": "image", "has_encoder": len(paradigm) % 2 == 0}
        )
        found = {
            "format": REPORT_FORMAT,
            "name": paradigm,
            "seed": seed,
            "checkpoint": "last.ckpt",
            "step": 880,
            **kind,
            "data": {
                "class": "Digits",
                "image_shape": [1, 8, 8],
                "images": {"train": 1294, "val": 144, "test": 359},
                "fingerprint": f"of {data}",
            },
            "versions": {"encdec": "0.2.0", "torch": "2.15.0"},
            "machine": {"device": "cpu", "device_name": "x86_64", "threads": 1, "system": "Linux"},
            "precision": "32-true",
            "feature_space": "penultimate layer of a small CNN.",
            "settings": {"num_images": 1000, "num_samples": 10_000, "cache_dir": None},
            "metrics": metrics,
            **(evaluation or {}),
        }
        (folder / checkpoints / "last.evaluation.json").write_text(json.dumps(found))
        if values is not None:
            with (folder / checkpoints / "last.evaluation.npz").open("wb") as file:
                image_values.write(file, values)
        (folder / "curves.csv").write_text(curve(paradigm, seed))
        for name, shift in (("samples", 0), ("reconstructions", 1)):
            (folder / checkpoints / f"last.{name}.png").write_bytes(grid(shift + len(paradigm)))

    def state(self, paradigm: str, data: str, seed: int, **state: Any) -> None:
        """Write the state of a job."""
        folder = self.job(paradigm, data, seed)
        folder.mkdir(parents=True, exist_ok=True)
        found = {
            "format": 1,
            "paradigm": paradigm,
            "data": data,
            "seed": seed,
            "hash": "0" * 64,
            "stage": "test",
            "command": f"encdec fit --config configs/{paradigm}.yaml --seed_everything {seed}",
            "fit_seconds": 10.0,
            "threads": 1,
            "device": "cpu",
            "epochs": 8,
            **state,
        }
        (folder / "state.json").write_text(json.dumps(found))


def curve(paradigm: str, seed: int) -> str:
    """A table of curves."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(("step", "tag", "value"))
    writer.writerows((step, "val/loss", 20 + 10 / (1 + step) + noise(paradigm, seed, step)) for step in range(0, 88, 4))
    return written.getvalue()


def grid(shift: int, size: int = 64) -> bytes:
    """A grey image as PNG, smooth as images of things are."""
    y, x = np.mgrid[:size, :size]
    pixels = 127 + 100 * np.sin((x + 3 * shift) / 9) * np.cos(y / (5 + shift))
    written = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(written, "PNG")
    return written.getvalue()


def markdown(folder: Folder) -> str:
    """The report as Markdown, without the backslashes that keep names from being markup."""
    write_report(folder.path)
    return re.sub(r"\\(.)", r"\1", (folder.path / "report.md").read_text(encoding="utf-8"))


def section(text: str, title: str) -> str:
    """A section of the report."""
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(folder: Folder) -> list[dict[str, str]]:
    """The rows of results.csv."""
    with (folder.path / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
