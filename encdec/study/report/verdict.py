"""The verdict in sentences that are made from the numbers, and say no more than these support."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encdec.evaluation.questions import QUESTIONS, Question
from encdec.formats import FEW_STEPS
from encdec.study.report.answers import LATENTS, Answer, Traits, own_latents, to_compare, traits
from encdec.study.report.document import Block, Bullets, Section, Text
from encdec.study.report.reading import Results
from encdec.study.report.statistics import CONFIDENCE, Difference, difference
from encdec.study.report.words import decimals, decimals_of, in_sentence, listed, number, plural, title_of, unit

QUESTION = "Do generative models of images need an encoder?"


@dataclass(frozen=True)
class Contest:
    """The best paradigm without an encoder against the best with one, on one data set, in one question.

    Attributes:
        data: the data set.
        question: what is asked.
        without, with_one: their names.
        answers: of all paradigms that take part.
        gap: of the one without an encoder minus the one with it.
    """

    data: str
    question: Question
    without: str
    with_one: str
    answers: Mapping[str, Answer]
    gap: Difference

    @property
    def winner(self) -> str:
        """`without`, `with`, or nobody where the seeds do not separate them."""
        if not self.gap.is_separated:
            return ""
        return "without" if (self.gap.value < 0) == (self.question.better == "lower") else "with"


def contests(results: Results) -> list[Contest]:
    """All that can be held: in each, both kinds have a paradigm whose seeds are complete."""
    found, of = [], traits(results)
    for data in results.data:
        for question in QUESTIONS:
            answers, _ = to_compare(results, data, question)
            # what reads labels is told something that the others are not
            whole = {name: answer for name, answer in answers.items() if answer.is_whole and not of[name].reads_labels}
            without, with_one = _best(whole, of, question, False), _best(whole, of, question, True)
            if without is None or with_one is None:
                continue
            gap = difference(whole[without].values, whole[with_one].values, question.better)
            assert gap is not None, "both have all seeds"
            found.append(Contest(data, question, without, with_one, answers, gap))
    return found


def section(results: Results, notes: Sequence[str]) -> Section:
    """What is asked, and what the numbers answer; `notes` say what makes evaluations differ."""
    of, held = traits(results), contests(results)
    blocks: list[Block] = [Text(results.question or QUESTION, "Question.")]
    blocks += [Text(sentence, lead) for lead, sentence in _summary(results, of, held)]
    if held:
        blocks += [Text(sentence, "Careful.") for data in results.data for sentence in _too_early(results, data)]
    for data in results.data:
        sentences = [_sentence(results, contest) for contest in held if contest.data == data]
        if sentences:
            blocks += [Text("", f"On {data}"), Bullets(sentences)]
    blocks += [Text(sentence) for sentence in _limits(results, held, notes)]
    return Section("Question and verdict", "verdict", blocks)


def _summary(results: Results, of: Mapping[str, Traits], held: Sequence[Contest]) -> list[tuple[str, str]]:
    names = {kind: [name for name in results.paradigms if name in of and of[name].has_encoder is kind]
             for kind in (True, False)}  # fmt: skip
    if not of:
        return [("Verdict.", "None yet: no job of this study has an evaluation.")]
    if not names[True] or not names[False]:
        lacking = "with an encoder" if names[False] else "without an encoder"
        is_open = any(job.evaluation is None for job in results.jobs if job.paradigm not in of)
        can = "has been evaluated yet, so this report" if is_open else "has been evaluated, so this study"
        return [("Verdict.", f"None: no paradigm {lacking} {can} can't answer it.")]
    if not held:
        return [("Verdict.", "None yet: in no question does a paradigm of both kinds have all of its seeds.")]
    parts = ", ".join(f"{name} ({of[name].kind})" for name in names[True])
    without = listed([f"{name} ({of[name].kind})" for name in names[False]], 40)
    who = (
        f"With an encoder, a trained network of its own that reads an image and gives its latent: {parts}. Without: "
        f"{without}."
    )
    seeds = len(results.seeds)
    if seeds == 1:
        lower = sum((c.gap.value < 0) == (c.question.better == "lower") and c.gap.value != 0 for c in held)
        verdict = (
            f"With one seed there is no interval over seeds, so nothing here says whether another seed would agree. "
            f"In {lower} of {plural(len(held), 'comparison')} the best paradigm without an encoder has the better "
            "number."
        )
        return [("Verdict.", verdict), ("", who)]
    won_without, won_with = [[c for c in held if c.winner == kind] for kind in ("without", "with")]
    open_ones = len(held) - len(won_without) - len(won_with)
    verdict = (
        f"Of {plural(len(held), 'comparison')} of the best paradigm without an encoder and the best with one, over "
        f"{plural(seeds, 'seed')}, the one without is ahead in {len(won_without)}{_where(won_without)}, the one "
        f"with an encoder in {len(won_with)}{_where(won_with)}, and in {open_ones} the seeds do not separate them."
    )
    return [("Verdict.", verdict), ("", who)]


def _where(won: Sequence[Contest]) -> str:
    by_question: dict[str, list[str]] = {}
    for contest in won:
        by_question.setdefault(contest.question.name, []).append(contest.data)
    parts = [f"{name} on {listed(data)}" for name, data in by_question.items()]
    return f" ({'; '.join(parts)})" if parts else ""


def _sentence(results: Results, contest: Contest) -> Text:
    first, second = contest.answers[contest.without], contest.answers[contest.with_one]
    places = max(decimals(contest.answers.values()), decimals_of(contest.gap.value, 2))
    name = in_sentence(title_of((first, second)))
    measured = f"{name}, {unit(first.metric, first.unit)}; {contest.question.better} is better"
    drawn = ""
    if contest.question.name == "samples":
        of = [(name, LATENTS.get(own_latents(results, contest.data, name), ""))
              for name in (contest.without, contest.with_one)]  # fmt: skip
        drawn = "".join(f"; {name}: {latents}" for name, latents in of if latents)
    text = (
        f"{contest.without} {_value(first, places)} without an encoder, {contest.with_one} {_value(second, places)} "
        f"with one ({measured}{drawn}). {_judged(contest, places, len(results.seeds))}"
    )
    return Text(text, f"{contest.question.name[0].upper()}{contest.question.name[1:]}:")


def _judged(contest: Contest, places: int, seeds: int) -> str:
    gap, winner = contest.gap, contest.winner
    size = number(abs(gap.value), places)
    if gap.half_width is None:
        ahead = contest.without if gap.better else contest.with_one
        return f"{ahead} is better by {size} in this seed." if gap.value else "They are equal in this seed."
    by = f"{size} ± {number(gap.half_width, places)}"
    if winner:
        ahead, count = (contest.without, gap.better) if winner == "without" else (contest.with_one, gap.worse)
        return f"{ahead} is ahead by {by}, and better in {count} of {plural(seeds, 'seed')}."
    wins = f"{contest.without} is better in {gap.better} of {plural(seeds, 'seed')}"
    return f"Not separated: they differ by {by}, and {wins}."


def _too_early(results: Results, data: str) -> list[str]:
    """Which models are near their start, or broken, so that differences of them say little."""
    steps: dict[int, list[str]] = {}
    for name in results.paradigms:
        made = [job.evaluation["step"] for job in results.of(data, name) if job.evaluation and "step" in job.evaluation]
        if made and min(made) < FEW_STEPS:
            steps.setdefault(min(made), []).append(name)
    found = [
        f"On {data}, {listed(names)} {'is' if len(names) == 1 else 'are'} hardly trained, after "
        f"{plural(count, 'step')}: the comparisons are of their beginnings."
        for count, names in sorted(steps.items())
    ]
    answers, _ = to_compare(results, data, QUESTIONS[0])
    measured = {name: next(iter(answer.by_seed.values())) for name, answer in answers.items()}
    failing = [
        name
        for name, one in measured.items()
        if one.reference is not None and answers[name].mean.value >= one.reference
    ]
    if failing:
        floor = listed([f"the {name}" for name in dict.fromkeys(n for of in failing for n in answers[of].references)])
        some = f"{listed(failing)} reconstruct{'s' if len(failing) == 1 else ''} no better"
        who = "none of the paradigms reconstructs better" if len(failing) == len(measured) else some
        found.append(
            f"On {data}, {who} than {floor}: differences to {'it' if len(failing) == 1 else 'them'} say little."
        )
    return found


def _limits(results: Results, held: Sequence[Contest], notes: Sequence[str]) -> list[str]:
    sentences = []
    if held:
        chosen = "The best of each kind was chosen by these same numbers, which favors the kind with more paradigms"
        sentences.append(f"{chosen}; the intervals do not account for it." if len(results.seeds) > 1 else f"{chosen}.")
    labelled = [name for name, its in traits(results).items() if its.reads_labels]
    if labelled:
        sentences.append(
            f"{listed(labelled)} read{'s' if len(labelled) == 1 else ''} labels, which the others are not given: in "
            "the tables, but in no comparison of this verdict."
        )
    if len(results.seeds) > 1 and held:
        by_chance = (1 - CONFIDENCE) * len(held)
        sentences.append(
            f"Intervals are {100 * CONFIDENCE:.0f} % t intervals over {plural(len(results.seeds), 'seed')}, one "
            f"comparison at a time: if nothing differed, about {by_chance:.1f} of {len(held)} would still leave out 0."
        )
    if not results.settings.get("tune"):
        sentences.append("Nothing was tuned in this study: what it says is about these settings of the paradigms.")
    lacking = sum(job.evaluation is None for job in results.jobs)
    if lacking:
        sentences.append(
            f"{lacking} of {plural(len(results.jobs), 'job')} have no result that can be compared; a paradigm takes "
            "part in a comparison only where all of its seeds do."
        )
    if notes:
        sentences.append("The evaluations were not all made under the same circumstances: see Completeness.")
    return sentences


def _best(answers: Mapping[str, Answer], of: Mapping[str, Traits], question: Question, kind: bool) -> str | None:
    sign = 1 if question.better == "lower" else -1
    of_kind = [name for name in answers if of[name].has_encoder is kind]
    return min(of_kind, key=lambda name: sign * answers[name].mean.value, default=None)


def _value(answer: Answer, places: int) -> str:
    mean = answer.mean
    spread = "" if mean.half_width is None else f" ± {number(mean.half_width, places)}"
    return number(mean.value, places) + spread
