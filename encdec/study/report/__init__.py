"""The report of a study: one page, the same as Markdown, and all numbers as a table."""

from pathlib import Path

from encdec.files import written_whole
from encdec.study.report import decomposition, html, markdown, methods, numbers, pictures, tables, verdict
from encdec.study.report.comparable import comparable
from encdec.study.report.document import Document, Section
from encdec.study.report.reading import Results, read
from encdec.study.report.words import listed, plural

__all__ = ["compose", "write_report"]

IMAGES = "report_images"
"""The folder beside report.md with its charts and images."""


def write_report(folder: Path) -> list[Path]:
    """Write report.html, report.md with its folder of images, and results.csv into a study's folder.

    Only the small files of the folder are read, never a checkpoint: study.yaml, and of each job state.json, the
    evaluation, the curves and the images beside it. The same results give the same bytes.

    Args:
        folder: of the study; its jobs may be done, failed, or not begun.

    Returns:
        The three files.

    Raises:
        UserError: the folder is not a study's, or a file can't be written.
    """
    found = read(folder)
    results, notes = comparable(found)
    report = compose(results, notes)
    text, images = markdown.render(report, IMAGES)
    contents = {
        folder / "report.html": html.render(report).encode(),
        folder / "report.md": text.encode(),
        folder / "results.csv": numbers.as_csv(results).encode(),
    }
    for name, content in images.items():
        with written_whole(folder / IMAGES / name) as file:
            file.write(content)
    for path in sorted((folder / IMAGES).glob("*")):
        if path.name not in images and path.suffix in (".svg", ".webp"):
            path.unlink()  # of an earlier report
    for path, content in contents.items():
        with written_whole(path) as file:
            file.write(content)
    return list(contents)


def compose(results: Results, notes: list[str]) -> Document:
    """The report of results that may be compared; `notes` are sentences on the circumstances in which they differ."""
    outcomes = []
    for data in results.data:
        anchor = f"data-{pictures.file_name(data)}"
        blocks = [*tables.outcomes(results, data), *pictures.headlines(results, data)]
        outcomes.append(Section(f"Results on {data}", anchor, blocks))
    sections = [
        verdict.section(results, notes),
        tables.completeness(results, notes),
        *outcomes,
        tables.differences(results),
        tables.rankings(results),
        pictures.costs(results),
        decomposition.section(results),
        pictures.grids(results),
        pictures.training(results),
        methods.methods(results, notes),
        methods.tuning(results),
        methods.commands(results),
    ]
    done = sum(job.evaluation is not None for job in results.jobs)
    seeds = f"seed{'s' if len(results.seeds) > 1 else ''} {', '.join(map(str, results.seeds))}"
    subtitle = (
        f"{plural(len(results.paradigms), 'paradigm')} on {listed(results.data)}, {seeds}: "
        f"{done} of {plural(len(results.jobs), 'job')} with a result. Baseline: {results.baseline}."
    )
    return Document(results.title or f"Study {results.name}", subtitle, sections)
