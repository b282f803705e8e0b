"""Draws the README's chart of the study: what K latents from the prior buy the VAE without its encoder.

python benchmarks/chart.py lightning_logs docs/images/codes.png
"""

import json
import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure

RUNS = {1: "vae_noenc", 8: "k8", 64: "k64", 512: "k512"}
PANELS = {
    "nll_posterior": "−log p(x), bound, nats per image",
    "frechet_classifier": "Fréchet distance (classifier)",
    "sample_variance": "variance of samples / of the data",
    "recall_classifier": "recall (classifier)",
}


def values(runs: Path, name: str, metric: str) -> list[float]:
    """A metric of all seeds of a run."""
    found = sorted((runs / name).glob("version_*/checkpoints/last.evaluation.json"))
    return [json.loads(path.read_text())["metrics"][metric]["value"] for path in found]


def main(runs: Path, image: Path) -> None:
    """Draw."""
    figure = Figure(figsize=(13, 3.2), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        of_k = [values(runs, run, name) for run in RUNS.values()]
        means = [statistics.fmean(seeds) for seeds in of_k]
        spreads = [statistics.stdev(seeds) for seeds in of_k]
        axes.errorbar(list(RUNS), means, spreads, marker="o", capsize=3, label="no encoder, K samples")
        for run, style in {"vae": "-", "energy_score": ":"}.items():
            axes.axhline(statistics.fmean(values(runs, run, name)), color="black", linestyle=style, label=run)
        if name == "nll_posterior":
            axes.axhline(
                values(runs, "vae_noenc", "bce_floor")[0], color="grey", linestyle="--", label="floor of the mean image"
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(RUNS), [str(k) for k in RUNS])
        axes.set_xlabel("K, latents from the prior")
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=7)
    figure.savefig(image, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
