"""Draws the README's chart of training speed, from what `benchmarks.throughput` wrote.

python -m benchmarks.draw benchmarks/results/throughput.json docs/images/speed.png
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.records import Json, number

NAMES = {
    "encdec": "encdec fit, everything on",
    "bare": "bare loop, one tensor, fused Adam",
    "lightning": "Lightning, plainly",
    "pythae": "pythae's trainer",
    "script": "script, DataLoader, 4 workers",
}


def panels(results: list[Json]) -> list[Json]:
    """The MLPs at batch 128 with the most threads, one for each paradigm."""
    most = max(result["threads"] for result in results)
    chosen = {"networks": "mlp", "batch": 128, "threads": most}
    return [result for result in results if chosen.items() <= result.items()]


def caption(contents: Json) -> str:
    """On what it was measured."""
    machine, versions = contents["machine"], contents["versions"]
    where = machine["cpu"] if contents["options"]["accelerator"] == "cpu" else machine["gpu"]
    about = panels(contents["results"])[0]
    return (
        f"images/s in training, MLPs, batch 128, {about['data']}, {about['precision']}; median of "
        f"{contents['options']['rounds']} rounds in turns, whiskers: 95 % interval of the median;\n"
        f"{about['threads']} threads, {where}, torch {versions['torch']}"
    )


def main(source: Path, image: Path) -> None:
    """Draw."""
    contents = json.loads(source.read_text())
    shown = panels(contents["results"])
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(6.5 * columns, 2.2 * rows + 0.5), layout="constrained")
    every = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for unused in every[len(shown) :]:
        unused.axis("off")
    for axes, result in zip(every, shown, strict=False):
        entries = dict(reversed(result["speeds"].items()))  # the first is drawn on top
        speeds = [entry["images_per_second"] for entry in entries.values()]
        medians = [speed["median"] for speed in speeds]
        whiskers = [[s["median"] - s["low"] for s in speeds], [s["high"] - s["median"] for s in speeds]]
        colors = ["tab:blue" if name == "encdec" else "lightgrey" for name in entries]
        axes.barh([NAMES[name] for name in entries], medians, xerr=whiskers, color=colors, ecolor="grey", capsize=2)
        for row, (name, entry) in enumerate(entries.items()):
            text = f" {number(medians[row])}"
            if "encdec_relative" in entry:
                text += f"   encdec: {number(entry['encdec_relative']['median'])} ×"
            end = speeds[row]["high"]
            weight = "bold" if name == "encdec" else "normal"
            axes.text(end, row, text, va="center", fontsize=8, weight=weight)
        axes.set_title(result["paradigm"], loc="left", fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.3)
    figure.supxlabel(caption(contents), fontsize=7)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
