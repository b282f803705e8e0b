"""Sections with charts and images: headlines, costs, training curves, grids of samples and reconstructions."""

import io
import re
from collections.abc import Iterator, Mapping

from PIL import Image

from encdec.evaluation.questions import QUESTIONS
from encdec.study.report import charts
from encdec.study.report.answers import Answer, answers, question, to_compare, traits
from encdec.study.report.document import Block, Cell, Column, Details, Gallery, Picture, Section, Table, Text
from encdec.study.report.reading import Result, Results
from encdec.study.report.tables import best, mean_cell, without
from encdec.study.report.words import COSTS, better, decimals, decimals_of, plural, title, unit

_ALL_IMAGES = 3 << 20  # bytes, beyond which all are compressed more
_QUALITIES = ((80, 1), (60, 1), (40, 1), (25, 1), (25, 2), (10, 4))  # of WebP, and by how much images are made smaller
_GRIDS = {
    "samples": ("Samples, of the same noise for every paradigm where it takes as much", ".samples.png"),
    "reconstructions": ("Reconstructions: test images above, what becomes of them below", ".reconstructions.png"),
}
_CURVES = ("val/loss", "train/loss")


def headlines(results: Results, data: str) -> list[Block]:
    """One chart for each headline of a data set, with every seed."""
    found: list[Block] = []
    for of in QUESTIONS:
        compared, apart = to_compare(results, data, of)
        if compared:
            name = file_name("headline", of.name, data)
            found.append(charts.headline(name, data, of, compared, traits(results)))
        if apart:
            who = "; ".join(f"{paradigm} {why}" for paradigm, why in apart.items())
            found.append(Text(f"Not in this chart, because the number is another: {who}."))
    return found


def costs(results: Results) -> Section:
    """What each paradigm costs, and what it reaches for that."""
    blocks: list[Block] = []
    for data in results.data:
        of_costs = {metric: found for metric in COSTS if (found := answers(results, data, [metric]))}
        if not of_costs:
            continue
        blocks.append(_costs_table(results, data, of_costs))
        for place, name in enumerate(("samples", "likelihood")):
            compared, _ = to_compare(results, data, question(name))
            if len(compared) > 1:
                chart = charts.costs(
                    file_name("costs", name, data), data, compared, of_costs, traits(results), results.baseline
                )
                blocks.append(chart if place == 0 else Details(f"{data}: costs against the {name} headline", [chart]))
    note = (
        "Seconds are wall-clock time of training on the machine of the study, with as many jobs at a time as it ran; "
        "they repeat less exactly than the other columns. Finding a latent is timed on test images after training."
    )
    return Section("What it costs, and what it reaches", "costs", [Text(note), *blocks] if blocks else [_NOTHING])


def training(results: Results) -> Section:
    """Training curves of every paradigm."""
    blocks: list[Block] = []
    for data in results.data:
        curves = {job.folder: job.curves() for job in results.of(data)}
        for tag in _CURVES:
            of: dict[str, dict[int, list[tuple[int, float]]]] = {}
            for job in results.of(data):
                if len(points := curves[job.folder].get(tag, [])) > 1:
                    of.setdefault(job.paradigm, {})[job.seed] = points
            if of:
                chart = charts.curves(file_name("curve", tag, data), data, tag, of)
                blocks.append(Details(f"{data}: {tag} of {plural(len(of), 'paradigm')}", [chart]))
                break
    return Section("Training curves", "curves", blocks or [Text("No job has kept its curves.")])


def grids(results: Results) -> Section:
    """Samples and reconstructions of the first seed of each paradigm."""
    chosen = [
        (data, kind, job, path)
        for data in results.data
        for kind, (_, ending) in _GRIDS.items()
        for job in _first_seeds(results, data)
        if (path := job.beside(ending)) is not None
    ]
    for quality, smaller in _QUALITIES:
        made = {
            (data, kind, job.paradigm): _webp(path.read_bytes(), quality, smaller) for data, kind, job, path in chosen
        }
        if sum(len(content) for content, _ in made.values()) <= _ALL_IMAGES:
            break
    blocks: list[Block] = []
    for data in results.data:
        for kind, (what, _) in _GRIDS.items():
            pictures = []
            for job in (job for data_, kind_, job, _ in chosen if (data_, kind_) == (data, kind)):
                content, size = made[data, kind, job.paradigm]
                alt = f"{kind} of {job.paradigm} on {data}, seed {job.seed}"
                name = file_name(kind, job.paradigm, data)
                caption = f"{job.paradigm}, seed {job.seed}"
                pictures.append(Picture(name, content, "image/webp", _shown(size), alt, caption))
            if pictures:
                blocks.append(Details(f"{data}: {kind} ({plural(len(pictures), 'paradigm')})",
                                      [Text(f"{what}."), Gallery(pictures)]))  # fmt: skip
    intro = Text("Of the first seed that has a result; none is chosen by how it looks.")
    return Section(
        "Samples and reconstructions", "images", [intro, *blocks] if blocks else [Text("No job has images.")]
    )


_NOTHING = Text("No evaluation of this study holds what it costs.")


def file_name(*parts: str) -> str:
    """A name for a file, the same for the same parts, of letters that every file system takes."""
    return "-".join(re.sub(r"[^a-z0-9_.+]+", "-", part.lower()).strip("-.") or "x" for part in parts)


def _costs_table(results: Results, data: str, of_costs: Mapping[str, Mapping[str, Answer]]) -> Table:
    columns = dict(of_costs)
    for name in ("samples", "likelihood"):
        compared, _ = to_compare(results, data, question(name))
        if compared:
            columns[next(iter(compared.values())).metric] = compared
    headings = [Column("Paradigm", is_number=False)]
    headings += [Column(title(metric), unit(metric)) for metric in columns]
    rows = []
    for paradigm in results.paradigms:
        row = [Cell(paradigm)]
        for metric, found in columns.items():
            if paradigm not in found:
                row.append(without(results, data, paradigm, [metric]))
                continue
            places = 0 if metric.startswith("parameters") else decimals(found.values())
            if metric == "latent_milliseconds":  # from microseconds to seconds: to two digits, each by itself
                places = decimals_of(found[paradigm].mean.value, 2)
            row.append(mean_cell(found[paradigm], places, paradigm in best(found, better(metric))))
        if any(cell.order is not None for cell in row[1:]):
            rows.append(row)
    return Table(f"{data}: costs, and what is reached", headings, rows)


def _first_seeds(results: Results, data: str) -> Iterator[Result]:
    for paradigm in results.paradigms:
        yield from results.of(data, paradigm)[:1]


def _webp(content: bytes, quality: int, smaller: int) -> tuple[bytes, tuple[int, int]]:
    """An image as WebP, and the size that it had before it was made smaller."""
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    written = io.BytesIO()
    image.reduce(smaller).save(written, "WEBP", quality=quality, method=4)
    return written.getvalue(), image.size


def _shown(size: tuple[int, int], widest: int = 260) -> tuple[int, int]:
    """The size on the page: small grids by a whole factor larger."""
    factor = max(widest // max(size), 1)
    return size[0] * factor, size[1] * factor
