"""The tables of docs/results.md, from the numbers of the answer's study.

python -m benchmarks.answer_table docs/answer/results.csv   # writes them into docs/results.md, between its marks
"""

import argparse
import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from benchmarks.turns import ROOT

PAGE = ROOT / "docs" / "results.md"
_MARKED = re.compile(r"<!-- table (?P<data>\w+) -->\n(?P<table>.*?)\n<!-- /table -->", re.DOTALL)
LATENT_BY = {
    "ae": "encoder", "ae_zeros": "nothing (zeros)", "assignment": "a permutation of draws", "autodecoder": "table",
    "cvae": "encoder, label", "decoder": "the label", "dgd": "table, learned prior", "drifting": "sets are compared",
    "energy_score": "sets are compared", "fixed": "nothing (random, fixed)", "flow_matching": "noise of each pixel",
    "gan": "a critic", "glo": "table", "gon": "gradient at 0", "imle": "nearest of 512 draws", "iwae": "encoder",
    "k512": "best of 512 draws", "mean_flow": "noise of each pixel", "mmd": "sets are compared", "r3gan": "a critic",
    "rae": "encoder", "savae": "encoder + descent", "short_run": "Langevin chain", "sinkhorn": "sets are compared",
    "sliced_wasserstein": "sets are compared", "svi": "descent", "vad": "table of posteriors", "vae": "encoder",
    "vae_noenc": "nothing (random)", "vgon": "gradient at 0", "wae": "encoder",
}  # fmt: skip
"""Where a paradigm's latents come from: what the study's numbers do not say."""
_FROM_LABELS = ("cvae", "decoder")  # their bounds are of p(x|y), and they are best at nothing
_COLUMNS = (
    ("mse", "MSE", ".4f", min),
    ("nll_bound", "−log p(x), bound", ".1f", min),
    ("frechet_classifier", "Fréchet", ".1f", min),
    ("frechet_classifier_gaussian", "… Gaussian", ".1f", min),
    ("frechet_classifier_mixture", "… mixture", ".1f", min),
    ("recall_classifier", "recall", ".3f", max),
    ("recall_classifier_mixture", "… mixture", ".3f", max),
    ("coverage_classifier", "coverage", ".3f", max),
    ("fit_seconds", "training, s", ".0f", None),
    ("latent_milliseconds", "a latent, ms", ".2g", None),
)


def table(results: Path, data: str) -> str:
    """Markdown of one data set: a row for each paradigm, from the least Fréchet distance on; means over seeds.

    Args:
        results: a study's results.csv.
        data: its name in the study.
    """
    values: dict[str, dict[str, list[float]]] = {}
    with results.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["data"] == data and row["value"] and not row["problem"]:
                values.setdefault(row["paradigm"], {}).setdefault(row["metric"], []).append(float(row["value"]))
    means = {name: {metric: mean(found) for metric, found in metrics.items()} for name, metrics in values.items()}
    names = sorted(means, key=lambda name: means[name].get("frechet_classifier", math.inf))
    best = {}
    for metric, _, _, choose in _COLUMNS:
        known = [means[name][metric] for name in names if metric in means[name] and name not in _FROM_LABELS]
        if known and choose is not None:
            best[metric] = choose(known)
    lines = [
        f"| | a latent by | {' | '.join(title for _, title, _, _ in _COLUMNS)} |",
        f"|---|---|{'---:|' * len(_COLUMNS)}",
    ]
    for name in names:
        cells = [_cell(name, means[name], metric, style, best) for metric, _, style, _ in _COLUMNS]
        lines.append(f"| `{name}` | {LATENT_BY[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name: str, means: Mapping[str, float], metric: str, style: str, best: Mapping[str, float]) -> str:
    if metric not in means:
        return ""
    text = format(means[metric], style)
    if metric == "nll_bound" and name in _FROM_LABELS:
        return f"{text} (given y)"
    return f"**{text}**" if name not in _FROM_LABELS and means[metric] == best.get(metric) else text


def marked(page: str) -> dict[str, str]:
    """The tables between a page's marks, by data set."""
    return {found["data"]: found["table"] for found in _MARKED.finditer(page)}


def main(argv: list[str] | None = None) -> None:
    """Write the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="a study's results.csv")
    results = parser.parse_args(argv).results
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_MARKED.sub(lambda found: _marked(found["data"], results), page), encoding="utf-8")


def _marked(data: str, results: Path) -> str:
    return f"<!-- table {data} -->\n{table(results, data)}\n<!-- /table -->"


if __name__ == "__main__":
    main()
