"""The assignment beside the VAE: which pairing, which solver, how many epochs, and what raises the recall.

python -m benchmarks.assignment             # all rows; those that are written are not run again
python -m benchmarks.assignment tree vae    # some of them, with all their seeds
python -m benchmarks.assignment --table     # what was found, as Markdown: means over seeds, ± half the range

Each row is `encdec fit` without validations, one thread, and `encdec test` of its last checkpoint; the seconds are
those of the whole `fit`. They belong together where the machine had nothing else to do.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from benchmarks.latents import command
from benchmarks.turns import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "assignment"
RUNS = Path("lightning_logs") / "assignment"
_TREE = "assignment --model.passes=3 --model.optimizer.init_args.lr=1e-3"
_VAE = "vae --model.latent_dim=32 --model.optimizer.init_args.lr=1e-3"
_CONV = "--model.decoder=ConvDecoder"
ROWS: dict[str, tuple[tuple[int, ...], int, str]] = {
    "tree": ((0, 1, 2), 8, _TREE),
    "vae": ((0, 1, 2), 8, _VAE),
    "exact": ((0, 1, 2), 8, f"{_TREE} --model.solver=exact"),
    "vae, tuned": ((0,), 8, "vae --model.latent_dim=8 --model.optimizer.init_args.lr=1e-2"),
    "tree, 24 epochs": ((0, 1, 2), 24, _TREE),
    "vae, 24 epochs": ((0, 1, 2), 24, _VAE),
    "batch": ((0,), 8, f"{_TREE} --model.pairing=batch"),
    "batch of 512": ((0,), 8, f"{_TREE} --model.pairing=batch --data.batch_size=512"),
    "fresh": ((0,), 8, f"{_TREE} --model.pairing=fresh"),
    "12 passes, leaf 105": ((0,), 8, f"{_TREE} --model.passes=12 --model.leaf=105"),
    "lr 3e-3": ((0,), 8, f"{_TREE} --model.optimizer.init_args.lr=3e-3"),
    "lr 1e-2": ((0,), 8, f"{_TREE} --model.optimizer.init_args.lr=1e-2"),
    "lr 3e-3, d = 16": ((0,), 8, f"{_TREE} --model.optimizer.init_args.lr=3e-3 --model.latent_dim=16"),
    "lr 3e-3, d = 16, 12 passes, leaf 105, 24 epochs": (
        (0,), 24, f"{_TREE} --model.optimizer.init_args.lr=3e-3 --model.latent_dim=16 --model.passes=12 "
                  "--model.leaf=105"
    ),
    "d = 4": ((0,), 8, f"{_TREE} --model.latent_dim=4"),
    "d = 16": ((0,), 8, f"{_TREE} --model.latent_dim=16"),
    "d = 32": ((0,), 8, f"{_TREE} --model.latent_dim=32"),
    "weight decay": ((0,), 8, f"{_TREE} --model.optimizer=torch.optim.AdamW "
                     "--model.optimizer.init_args.lr=1e-3 --model.optimizer.init_args.weight_decay=0.1"),
    "mnist": ((0,), 8, _TREE),
    "mnist, vae": ((0,), 8, _VAE),
    "conv": ((0,), 4, f"{_TREE} {_CONV}"),
    "conv, vae": ((0,), 4, f"{_VAE} {_CONV} --model.encoder=ConvEncoder"),
}  # fmt: skip
"""Each row's seeds, epochs, config and settings."""
WITH_LIKELIHOOD = ("tree", "vae", "tree, 24 epochs", "vae, 24 epochs")
"""Rows whose first seed is also tested for −log p(x) and reconstruction."""
COLUMNS = {
    "frechet_classifier": "Fréchet",
    "precision_classifier": "precision",
    "recall_classifier": "recall",
    "coverage_classifier": "coverage",
    "sample_variance": "variance",
    "memorised": "memorised",
    "nll_posterior": "−log p(x), bound",
    "seconds": "seconds",
}


def measure(name: str, seed: int, data: Path) -> None:
    """Train and test a row, and write what was found."""
    _, epochs, words = ROWS[name]
    config, *settings = words.split()
    path = RESULTS / f"{name.replace(', ', '_').replace(' ', '')}_{seed}.json"
    if path.exists():
        return
    folder = RUNS / path.stem
    data_set = "mnist" if name.startswith("mnist") else "fashion_mnist"
    place = [f"--data.data_dir={data}"] if data_set == "mnist" else []
    layers = f"--config={ROOT}/configs/{config}.yaml", f"--config={ROOT}/configs/data/{data_set}.yaml"
    seconds = command(
        "fit", *layers, f"--seed_everything={seed}", f"--trainer.max_epochs={epochs}", "--trainer.limit_val_batches=0",
        f"--trainer.default_root_dir={folder}", "--images.every_n_epochs=1000", *place, *settings,
    )  # fmt: skip
    checkpoint = max(folder.rglob("last.ckpt"), key=lambda found: found.stat().st_mtime)
    parts = "[samples,likelihood,reconstruction]" if name in WITH_LIKELIHOOD and seed == 0 else "[samples]"
    command("test", f"--ckpt_path={checkpoint}", f"--evaluation.parts={parts}", "--evaluation.num_images=2000",
            f"--evaluation.cache_dir={RUNS.parent / 'features'}")  # fmt: skip
    tested = json.loads(checkpoint.with_name("last.evaluation.json").read_text())
    metrics = {key: metric["value"] for key, metric in tested["metrics"].items()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"row": name, "seed": seed, "epochs": epochs, "seconds": seconds, **metrics}, indent=1))


def table() -> str:
    """What was found, as Markdown."""
    found = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    lines = ["| | seeds | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in ROWS:
        rows = [one for one in found if one["row"] == name]
        cells = []
        for key in COLUMNS:
            values = [float(one[key]) for one in rows if one.get(key) is not None]
            spread = f" ± {(max(values) - min(values)) / 2:.2g}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3g}{spread}" if values else "")
        if rows:
            lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Measure rows, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="of the table; all if none is named")
    parser.add_argument("--seeds", nargs="*", type=int, default=None, help="only these")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where MNIST lies")
    parser.add_argument("--table", action="store_true", help="print what was found")
    args = parser.parse_args()
    if args.table:
        print(table())
        return 0
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f"there is no row {unknown[0]!r}; known are {', '.join(ROWS)}")
    for name in args.rows or ROWS:
        for seed in ROWS[name][0]:
            if args.seeds is None or seed in args.seeds:
                measure(name, seed, args.data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
