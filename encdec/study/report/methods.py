"""How the numbers were made: methods, budget, tuning, caveats, versions, fingerprints and the exact commands."""

import shlex
from collections.abc import Mapping, Sequence

from encdec.evaluation.questions import QUESTIONS
from encdec.study.report.answers import traits
from encdec.study.report.document import Block, Bullets, Cell, Code, Column, Details, Section, Table, Text
from encdec.study.report.reading import Result, Results
from encdec.study.report.words import COSTS, better, decimals_of, listed, number, plural, title
from encdec.study.schedule import COPY
from encdec.study.state import JobState
from encdec.text import printable, word


def tuning(results: Results) -> Section:
    """The trials of each paradigm, and which of them was chosen."""
    blocks: list[Block] = []
    tune = results.settings.get("tune")
    if not tune:
        return Section(
            "Tuning", "tuning", [Text("Nothing was tuned: every paradigm ran with the settings it was given.")]
        )
    by = tune.get("by", "frechet") if isinstance(tune, dict) else "frechet"
    counts = {len(found) for found in results.trials.values()}
    blocks.append(
        Text(
            f"Trials are scored on the validation split by {by} (lower is better), with the first seed, "
            f"{results.seeds[0]}; the test split has no part in it. "
            + (f"Each paradigm has {plural(next(iter(counts)), 'trial')} on each data set." if len(counts) == 1 else
               "Not all paradigms have as many trials: see below." if counts else "No trial has begun.")
        )
    )  # fmt: skip
    for data in results.data:
        found = {
            paradigm: results.trials[key]
            for paradigm in results.paradigms
            if (key := (paradigm, data)) in results.trials
        }
        if found:
            blocks.append(_winners(data, found))
            blocks.append(Details(f"{data}: all trials", [_trials(data, found)]))
    return Section("Tuning", "tuning", blocks)


def methods(results: Results, notes: Sequence[str]) -> Section:
    """What was run on what, how it was measured, and what to be careful about."""
    blocks: list[Block] = [_data(results), _paradigms(results), Text("", "Metrics"), Bullets(_metrics(results))]
    blocks += [Text("", "Statistics"), Bullets([Text(line) for line in _STATISTICS])]
    blocks += [Text("", "Caveats"), Bullets([Text(line) for line in [*_caveats(results), *notes]])]
    return Section("Methods and caveats", "methods", blocks)


def commands(results: Results) -> Section:
    """Versions, and the commands that make all of it again."""
    done = [job for job in results.jobs if job.evaluation is not None]
    versions = _common([job.evaluation["versions"] for job in done if job.evaluation and "versions" in job.evaluation])
    blocks: list[Block] = [
        Text(", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded", "Versions:"),
        Text("The whole study is made, and made again, by one command, with this file:"),
        Code(f"encdec study {word(f'lightning_logs/studies/{results.name}/{COPY}')}"),
        Code((results.folder / COPY).read_text(encoding="utf-8").strip()),
    ]
    for paradigm in results.paradigms:
        lines = [_command(job) for job in results.jobs if job.paradigm == paradigm and job.state]
        if lines:
            blocks.append(Details(f"Commands of {paradigm}", [Code("\n".join(lines))]))
    return Section("Versions and commands", "commands", blocks)


_STATISTICS = (
    "Means are over seeds, with Student’s 95 % t interval; a percentile bootstrap of 3 seeds would cover 75 %.",
    "Differences are paired by seed where the correlation over seeds is positive, and elsewhere Welch’s; in "
    "simulations of 3 and 5 normal seeds, at correlations from 0 to 0.9, this choice covers 93 to 95 %.",
    "“Better in 3 of 3” counts seeds in which the number is strictly better. There are no stars and no p-values.",
    "The standard error that comes from the test set is stated apart: it is of other test images, not of other seeds.",
    "What is missing is not filled in. A paradigm that lacks a seed is left out of ranks and verdicts, and a mean over "
    "fewer seeds says so.",
)


def _caveats(results: Results) -> list[str]:
    of = traits(results)
    found = []
    if len(results.seeds) == 1:
        found.append("One seed: there is no spread over seeds, and no statement about other seeds.")
    spaces = {space for job in results.jobs if job.evaluation and (space := job.evaluation.get("feature_space"))}
    if any("classifier" in name for job in results.jobs for name in job.metrics):
        found.append(
            "Distances named classifier are in the features of a small network that was trained on the training split "
            "of each data set. They are not the published FID, and are not to be compared between data sets."
        )
    found += [f"Feature space: {printable(space, 300)}" for space in sorted(spaces)]
    labelled = [name for name in of if of[name].reads_labels]
    if labelled:
        found.append(f"{listed(labelled)}: the decoder reads the image’s label, so its likelihood is p(x|y), and its "
                     "samples are drawn with the labels of the data.")  # fmt: skip
    aggregate = [name for name in of if of[name].is_aggregate]
    if aggregate:
        found.append(f"{listed(aggregate)}: no output is paired with an image, so its MSE, if any, is that of the "
                     "nearest of several samples.")  # fmt: skip
    found.append("The bound on −log p(x) is an upper bound; how tight it is may differ between paradigms.")
    found.append("The best of several was chosen by the numbers that are shown, which makes it look a little better "
                 "than it is.")  # fmt: skip
    return found


def _data(results: Results) -> Table:
    columns = [Column(name, is_number=False) for name in ("Data", "Class", "Shape")]
    columns += [Column(name, "images") for name in ("Train", "Validate", "Test")]
    rows = []
    for data in results.data:
        of = next((job.evaluation["data"] for job in results.of(data) if job.evaluation), None)
        if of is None:
            rows.append([Cell(data), *[Cell("–")] * 6])
            continue
        images, shape = of.get("images", {}), "×".join(map(str, of.get("image_shape", [])))
        counts = [images.get(split) for split in ("train", "val", "test")]
        sizes = [Cell(number(count, 0), order=count) if isinstance(count, int) else Cell("–") for count in counts]
        rows.append([Cell(data), Cell(str(of.get("class", ""))), Cell(shape), *sizes, Cell(of["fingerprint"])])
    return Table(
        "Data sets, with the fingerprint of their images", [*columns, Column("Fingerprint", is_number=False)], rows
    )


def _paradigms(results: Results) -> Table:
    of = traits(results)
    titles = ("Paradigm", "Class", "Encoder", "Output is compared with its image by", "Arguments")
    columns = [Column(name, is_number=False) for name in titles]
    columns.append(Column("Budget", "epochs"))
    common = list(map(str, results.settings.get("common") or []))
    rows = []
    for name in results.paradigms:
        its = of.get(name)
        given = results.settings["paradigms"].get(name, [])
        args = given.get("args", []) if isinstance(given, dict) else given
        arguments = shlex.join(map(str, [*(args or []), *common])) if isinstance(args, list) else str(args)
        budgets = sorted(
            {job.state.epochs for job in results.jobs if job.paradigm == name and job.state and job.state.epochs}
        )
        first = (its.kind, its.words, _CONDITIONS.get(its.conditioning, "–")) if its else ("–", "–", "–")
        budget = Cell(" / ".join(map(str, budgets)) or "–", order=budgets[0] if budgets else None)
        rows.append([*map(Cell, (name, *first, printable(arguments, 300))), budget])
    return Table("Paradigms, with the arguments that the study gives to each and to all", columns, rows)


_CONDITIONS = {
    "image": "its own latent",
    "label": "its label",
    "none": "nothing: any latent",
    None: "nothing: no output belongs to an image",
}


def _metrics(results: Results) -> list[Text]:
    found = []
    names = [*(name for question in QUESTIONS for name in (*question.headline, *question.beside)), *COSTS]
    for name in names:
        of = next((job.metrics[name] for job in results.jobs if name in job.metrics), None)
        if of is not None:
            which = better(name)
            found.append(Text(f"{name}: {of.unit}{f'; {which} is better' if which else ''}.", title(name)))
    questions = [Text(question.asks, f"{question.name[0].upper()}{question.name[1:]}:") for question in QUESTIONS]
    return [*questions, *found]


def _winners(data: str, trials: Mapping[str, Sequence[JobState]]) -> Table:
    columns = [Column("Paradigm", is_number=False), Column("Trials", "done of all"), Column("Chosen", is_number=False)]
    columns += [Column("Best score", "validation, lower is better"), Column("Worst score", "of finite ones")]
    rows = []
    for paradigm, states in trials.items():
        scores = _scores(states)
        done = sum(state.status == "done" for state in states)
        count = Cell(f"{done} of {len(states)}", order=done)
        if not scores:
            rows.append([Cell(paradigm), count, Cell("–"), Cell("–"), Cell("–")])
            continue
        first = min(scores, key=lambda place: (scores[place], place))
        chosen = _settings(states[first]) if done == len(states) else f"open; so far {_settings(states[first])}"
        low, high = scores[first], max(scores.values())
        places = decimals_of(low, 4)
        rows.append([Cell(paradigm), count, Cell(chosen), Cell(number(low, places), order=low),
                     Cell(number(high, places), order=high)])  # fmt: skip
    return Table(f"{data}: what the trials chose", columns, rows)


def _trials(data: str, trials: Mapping[str, Sequence[JobState]]) -> Table:
    columns = [
        Column("Paradigm", is_number=False),
        Column("Settings", is_number=False),
        Column("Score", "lower is better"),
    ]
    rows = []
    for paradigm, states in trials.items():
        scores = _scores(states)
        low = min(scores.values(), default=None)
        for place, state in enumerate(states):
            score = scores.get(place)
            if score is None:
                said = printable(state.error or "not finite", 120)
                ended = said if state.status in ("failed", "done") else state.status
                rows.append([Cell(paradigm), Cell(_settings(state)), Cell(ended)])
            else:
                cell = Cell(number(score, decimals_of(score, 4)), order=score, is_best=score == low)
                rows.append([Cell(paradigm), Cell(_settings(state)), cell])
    return Table(f"{data}: trials", columns, rows)


def _scores(states: Sequence[JobState]) -> dict[int, float]:
    """The score of each trial that has one, by its place."""
    return {
        place: state.score for place, state in enumerate(states) if state.status == "done" and state.score is not None
    }


def _settings(state: JobState) -> str:
    return ", ".join(f"{name} = {value}" for name, value in state.settings.items()) or "–"


def _common(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Each package's version; several are all named."""
    names = dict.fromkeys(name for of in versions for name in of)
    return {name: " / ".join(dict.fromkeys(str(of[name]) for of in versions if name in of)) for name in names}


def _command(job: Result) -> str:
    return printable(job.state.command) if job.state else ""
