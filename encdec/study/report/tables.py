"""Sections of tables: what is complete, what each paradigm reaches, differences to the baseline, and ranks by seed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from encdec.evaluation.questions import QUESTIONS, Question
from encdec.study.report import paired_images
from encdec.study.report.answers import LATENTS, Answer, answers, own_latents, to_compare, traits, why_undefined
from encdec.study.report.document import Block, Bullets, Cell, Column, Details, Row, Section, Table, Text
from encdec.study.report.reading import Results
from encdec.study.report.statistics import difference, ranks
from encdec.study.report.words import (
    COSTS,
    better,
    decimals,
    decimals_of,
    listed,
    number,
    plural,
    signed,
    title,
    title_of,
    unit,
)
from encdec.text import printable

ARROWS = {"lower": "↓", "higher": "↑"}
"""Which way is better, in a column's heading."""


def completeness(results: Results, notes: Sequence[str]) -> Section:
    """How many jobs are done, what became of the others, and what differs between those that are compared."""
    whole, done = len(results.jobs), sum(job.evaluation is not None for job in results.jobs)
    counts = Counter(job.status if job.status != "done" else "not usable" for job in results.jobs if not job.metrics)
    rest = listed([f"{count} {status}" for status, count in sorted(counts.items())])
    blocks: list[Block] = [
        Text(f"{done} of {whole} jobs are done and compared{f'; {rest}' if rest else ''}.", f"{done} of {whole}.")
    ]
    lacking = [Text(f"{job.problem}", f"{job.paradigm}/{job.data}/seed_{job.seed}")
               for job in results.jobs if job.evaluation is None]  # fmt: skip
    if lacking:
        shown = Bullets(lacking)
        blocks.append(shown if len(lacking) <= 12 else Details(f"The {len(lacking)} jobs without a result", [shown]))
        blocks.append(Text("A result that is missing is not filled in: means are over the seeds that there are, and "
                           "say so where one is missing."))  # fmt: skip
    if notes:
        blocks += [Text("", "Circumstances that differ"), Bullets([Text(note) for note in notes])]
    if results.outdated:
        blocks.append(Text("These results are of other settings, configs or code than the study asks for now, and "
                           f"encdec study would make them again: {listed(results.outdated)}."))  # fmt: skip
    if results.strangers:
        blocks.append(Text(f"The folder holds jobs that the study does not ask for, which are left out: "
                           f"{listed(results.strangers)}."))  # fmt: skip
    return Section("Completeness", "completeness", blocks)


def outcomes(results: Results, data: str) -> list[Block]:
    """Two tables of a data set: the headlines with what to compare them with, and what is shown beside them."""
    compared = {question.name: to_compare(results, data, question) for question in QUESTIONS}
    columns = {question: answers(results, data, question.headline) for question in QUESTIONS}
    columns = {question: found for question, found in columns.items() if found}
    if not columns:
        return [Text("No job on this data set has a result yet.")]
    of = traits(results)
    headings = [Column("Paradigm", is_number=False), Column("Encoder", is_number=False)]
    headings += [
        Column(f"{title_of(found.values())} {ARROWS[question.better]}", _unit(found))
        for question, found in columns.items()
    ]
    labelled = {name for name, its in of.items() if its.reads_labels}
    rivals = {
        name: {paradigm: one for paradigm, one in found.items() if paradigm not in labelled}
        for name, (found, _) in compared.items()
    }
    rows = []
    for paradigm in results.paradigms:
        row = [Cell(paradigm), Cell(of[paradigm].words) if paradigm in of else Cell("not known yet")]
        for question, found in columns.items():
            _, apart = compared[question.name]
            if paradigm in found:
                row.append(_outcome(found, rivals[question.name], apart.get(paradigm, ""), paradigm, question))
            else:
                row.append(without(results, data, paradigm, question.headline))
        rows.append(row)
    but = ", without those that read labels" if labelled else ""
    caption = f"{data}: {_interval(results)}; the best of each column is bold{but}"
    blocks: list[Block] = [Table(caption, headings, rows, _references(list(columns.values()), 1))]
    beside = _beside(results, data)
    errors = _errors(results, columns)
    more = [Details("More numbers beside the headlines", [beside])] if beside else []
    return [*blocks, *_drawn(results, data), *_undefined(results, data), *more, errors]


def _drawn(results: Results, data: str) -> list[Block]:
    """What latents the samples of each paradigm are drawn from, of which all but the prior's hole is."""
    names: dict[str, list[str]] = {}
    for paradigm in results.paradigms:
        if latents := own_latents(results, data, paradigm):
            names.setdefault(LATENTS[latents], []).append(paradigm)
    if not names:
        return []
    parts = "; ".join(
        f"{listed(of, 40)}: {latents.replace('its prior', 'their priors') if len(of) > 1 else latents}"
        for latents, of in names.items()
    )
    return [Text(f"as each paradigm draws them by itself. {parts}. What other latents give is in “The prior’s hole”.",
                 "Samples are drawn")]  # fmt: skip


def differences(results: Results) -> Section:
    """Of each paradigm to the baseline, paired by seed."""
    baseline, blocks = results.baseline, list[Block]()
    for data in results.data:
        columns, cells, values = list[Column](), dict[str, list[Cell]](), paired_images.of_data(results, data)
        for question in QUESTIONS:
            found, _ = to_compare(results, data, question)
            if baseline not in found or len(found) < 2:
                continue
            unit_, metric = unit(found[baseline].metric, found[baseline].unit), title_of(found.values())
            columns.append(Column(f"{metric} {ARROWS[question.better]}", unit_))
            for name in results.paradigms:
                if name != baseline:
                    cell = _gap(found.get(name), found[baseline], question, results, data, name)
                    cells.setdefault(name, []).append(_with_error(cell, values, found, name, baseline))
        if columns:
            has = {name: any(cell.order is not None or cell.note for cell in row) for name, row in cells.items()}
            rows = [[Cell(name), *row] for name, row in cells.items() if has[name]]
            caption = f"{data}: paradigm minus {baseline}, {_interval(results)}"
            blocks.append(Table(caption, [Column("Paradigm", is_number=False), *columns], rows))
    if not blocks:
        return Section("Differences to the baseline", "differences", [Text(_no_differences(results))])
    how = (
        "Runs of one seed share their images, their order and their noise as far as paradigms allow, so differences "
        "are taken seed by seed. r is the correlation over seeds. Where it is positive, the interval is that of the "
        "paired differences; elsewhere pairing does not help, and the interval is Welch’s for two samples. “Test "
        "images” is apart from it: one standard error that the choice of test images leaves, taken image by image."
    )
    if len(results.seeds) == 2:
        how = (
            "Differences are taken seed by seed, and the interval is that of the paired differences, because two seeds "
            "give no correlation. “Test images” is apart from it: one standard error that the choice of test images "
            "leaves, taken image by image."
        )
    if len(results.seeds) == 1:
        how = "With one seed there is neither an interval nor a correlation."
    return Section("Differences to the baseline", "differences", [Text(how), *blocks])


def _no_differences(results: Results) -> str:
    """Why there is none to the baseline."""
    baseline, asked = results.baseline, len(results.seeds)
    done = max(len(results.of(data, baseline)) for data in results.data)
    if not done:
        return f"{baseline}, the baseline, has no result."
    seeds = "" if done == asked else f", of which {done} of {plural(asked, 'seed')} {'is' if done == 1 else 'are'} done"
    return f"No other paradigm has a result that can be compared with those of {baseline}, the baseline{seeds}."


def rankings(results: Results) -> Section:
    """Ranks of the paradigms in each question, seed by seed."""
    blocks, seeds = list[Block](), results.seeds
    for data in results.data:
        columns, cells, left_out = list[Column](), dict[str, dict[str, Cell]](), set[str]()
        ranked = list[Question]()
        for question in QUESTIONS:
            found, _ = to_compare(results, data, question)
            whole = {name: answer for name, answer in found.items() if answer.is_whole}
            left_out |= found.keys() - whole.keys()
            if len(whole) < 2:
                continue
            by_seed = [ranks({name: of.values[seed] for name, of in whole.items()}, question.better) for seed in seeds]
            ranked.append(question)
            columns.append(Column(question.name.capitalize(), f"of {len(whole)}"))
            for name in whole:
                own = [rank[name] for rank in by_seed]
                middle = sum(own) / len(own)
                cells.setdefault(name, {})[question.name] = Cell(
                    "\u2002".join(f"{rank:g}" for rank in own), order=middle
                )
        if not columns:
            continue
        rows: list[Row] = [
            [Cell(name), *(cells[name].get(of.name) or without(results, data, name, of.headline) for of in ranked)]
            for name in results.paradigms
            if name in cells
        ]
        listing = ", ".join(map(str, seeds))
        caption = f"{data}: rank in each seed ({listing}), 1 is the best; sorted by the mean rank"
        blocks.append(Table(caption, [Column("Paradigm", is_number=False), *columns], rows))
        if left_out:
            blocks.append(Text(f"Not ranked, because seeds are missing: {listed(sorted(left_out))}."))
    return Section("Ranks by seed", "ranks", blocks or [Text("There is nothing to rank yet.")])


def mean_cell(of: Answer, places: int, is_best: bool = False, note: str = "") -> Cell:
    """A mean over seeds with its interval, and a note where seeds are missing."""
    mean = of.mean
    is_a_count = not mean.half_width and mean.value == round(mean.value) and of.metric in COSTS
    spread = "" if mean.half_width is None or is_a_count else f"± {number(mean.half_width, places)}"
    notes = ", ".join(filter(None, (of.missing, note)))
    return Cell(number(mean.value, places), spread, notes, mean.value, is_best)


def _outcome(
    found: Mapping[str, Answer], compared: Mapping[str, Answer], apart: str, paradigm: str, question: Question
) -> Cell:
    of = found[paradigm]
    note = apart or (_pairing(of, found) if question.name == "latent space" else "")
    return mean_cell(of, decimals(found.values()), paradigm in best(compared, question.better), note)


def without(results: Results, data: str, paradigm: str, metrics: Sequence[str]) -> Cell:
    """The cell of a paradigm that has none of some metrics: not defined for it, or not there."""
    return Cell("undefined" if why_undefined(results, data, paradigm, metrics) else "–")


def _undefined(results: Results, data: str) -> list[Block]:
    """Which questions are not defined for which paradigms, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for paradigm in results.paradigms:
        for question in QUESTIONS:
            if why := why_undefined(results, data, paradigm, question.headline):
                found.setdefault((paradigm, why), []).append(question.name)
    if not found:
        return []
    items = [Text(f"{printable(why, 300)}.", f"{name}, {listed(of)}:") for (name, why), of in found.items()]
    note = "No result is missing where one is undefined: the paradigm takes no part in that question, and has no rank."
    title_ = f"What is undefined for {plural(len({name for name, _ in found}), 'paradigm')}, and why"
    return [Details(title_, [Text(note), Bullets(items)])]


def best(compared: Mapping[str, Answer], which: str) -> list[str]:
    """The paradigm with the best mean among those whose seeds are complete; several if they are equal."""
    values = {name: of.mean.value for name, of in compared.items() if of.is_whole}
    if len(set(values.values())) < 2 or not which:
        return []
    top = min(values.values()) if which == "lower" else max(values.values())
    return [name for name, value in values.items() if value == top]


def _pairing(of: Answer, found: Mapping[str, Answer]) -> str:
    """Which latents a metric of the latent space is of, where paradigms differ in it."""
    if len({other.metric for other in found.values()}) == 1:
        return ""
    return {"paired": "trained latents", "encoder": "own latents", "random": "random latents"}[
        of.metric.rpartition("_")[2]
    ]


def _unit(found: Mapping[str, Answer]) -> str:
    return " / ".join(dict.fromkeys(unit(of.metric, of.unit) for of in found.values()))


def _interval(results: Results) -> str:
    many = "mean over seeds ± half the width of its 95 % t interval over seeds"
    return many if len(results.seeds) > 1 else "one seed, so there are no intervals"


def _references(columns: Sequence[Mapping[str, Answer]], empty: int) -> list[Row]:
    """A row for each thing that metrics are to be compared with: floors, chance, real images.

    Args:
        columns: the answers in each column.
        empty: columns between the names and these.
    """
    named: dict[str, dict[int, list[float]]] = {}
    for i, found in enumerate(columns):
        for of in found.values():
            for name, references in of.references.items():
                named.setdefault(name, {}).setdefault(i, []).extend(references)
    rows: list[Row] = []
    for name, by_column in named.items():
        row = [Cell(name), *[Cell()] * empty]
        for i, found in enumerate(columns):
            values, places = sorted(by_column.get(i, [])), decimals(found.values())
            low, high = (number(values[0], places), number(values[-1], places)) if values else ("", "")
            row.append(Cell(low if low == high else f"{low} to {high}"))
        rows.append(row)
    return rows


def _beside(results: Results, data: str) -> Table | None:
    """The metrics that questions show beside their headlines, one column each."""
    columns: dict[str, dict[str, Answer]] = {}
    wanted = [name for question in QUESTIONS for name in question.beside]
    extra = [name for job in results.of(data)[:1] for name in job.metrics if name.startswith("coverage_")][:1]
    for name in [*wanted, *extra]:
        found = answers(results, data, [name])
        if found:
            columns[name] = found
    if not columns:
        return None
    headings = [Column("Paradigm", is_number=False)]
    headings += [
        Column(f"{title(name)} {ARROWS.get(better(name), '')}".strip(), _unit(found)) for name, found in columns.items()
    ]
    rows = []
    for paradigm in results.paradigms:
        row = [Cell(paradigm)]
        for metric, found in columns.items():
            of = found.get(paradigm)
            row.append(mean_cell(of, decimals(found.values())) if of else without(results, data, paradigm, [metric]))
        if any(cell.order is not None for cell in row[1:]):
            rows.append(row)
    return Table(f"{data}: more numbers", headings, rows, _references(list(columns.values()), 0))


def _errors(results: Results, columns: Mapping[Question, Mapping[str, Answer]]) -> Block:
    """What the test set alone leaves open, apart from the spread over seeds."""
    parts = []
    for found in columns.values():
        errors = sorted(error for of in found.values() if (error := of.test_error))
        if errors:
            middle = errors[len(errors) // 2]
            parts.append(f"{title_of(found.values())} {number(middle, decimals_of(middle, 2))}")
    if not parts:
        return Text("No headline has a standard error of its own.")
    return Text(
        f"{'; '.join(parts)} (median over paradigms, one standard error). All paradigms are measured on the same "
        "images, so much of it cancels in differences. It is no part of the intervals over seeds.",
        "Error that comes from the test set:",
    )


def _with_error(
    cell: Cell, values: paired_images.Values, found: Mapping[str, Answer], name: str, baseline: str
) -> Cell:
    """A difference, with what the choice of test images leaves open in it."""
    if not cell.text or name not in found or found[name].metric != found[baseline].metric:
        return cell
    seeds = sorted(found[name].by_seed.keys() & found[baseline].by_seed.keys())
    error = paired_images.error(values, found[name].metric, name, baseline, seeds)
    if not seeds or error is None:
        return cell
    return replace(cell, note=f"{cell.note}; test images ± {number(error, decimals_of(error, 2))}")


def _gap(of: Answer | None, baseline: Answer, question: Question, results: Results, data: str, paradigm: str) -> Cell:
    if of is None:
        return without(results, data, paradigm, question.headline)
    gap = difference(of.values, baseline.values, question.better)
    if gap is None:
        return Cell("–", note="no seed in common")
    places = decimals_of(gap.half_width, 2) if gap.half_width else decimals_of(gap.value, 3)
    equal = gap.seeds - gap.better - gap.worse
    notes = [f"better in {gap.better} of {gap.seeds}" + (f", equal in {equal}" if equal else "")]
    if gap.seeds < len(results.seeds):
        notes.append(f"{plural(gap.seeds, 'seed')} of {len(results.seeds)} in common")
    if gap.correlation is not None:
        notes.append(f"r = {number(gap.correlation, 2)}" + ("" if gap.is_paired else ", unpaired"))
    spread = "" if gap.half_width is None else f"± {number(gap.half_width, places)}"
    return Cell(signed(gap.value, places), spread, "; ".join(notes), gap.value)
