"""What an encoder buys, one step at a time: amortisation, the prior's hole, stochastic latents, and pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from encdec.evaluation.questions import QUESTIONS, SPACES
from encdec.study.report.answers import (
    LATENTS,
    Answer,
    Traits,
    answer,
    answers,
    own_latents,
    question,
    to_compare,
    traits,
)
from encdec.study.report.document import Block, Cell, Column, Section, Table, Text
from encdec.study.report.reading import Results
from encdec.study.report.statistics import Difference, difference
from encdec.study.report.tables import ARROWS, best, mean_cell
from encdec.study.report.words import better, decimals, decimals_of, in_sentence, listed, number, signed, title, unit

_NEGATIVE = (
    "Where the gap of the MSE is negative, the own latent reconstructs better than the fitted posterior: this weighs "
    "the reconstruction against the prior, and own latents may lie where the prior has none."
)


def section(results: Results) -> Section:
    """All steps of the decomposition, each with a sentence where the study lacks what it needs."""
    blocks: list[Block] = []
    for heading, text, of in (
        ("Amortisation.", "An encoder answers at once what a search answers in many steps. The gap is what its answer "
         "lacks of the best Gaussian posterior for the same decoder; VAE against SVI is the same objective trained "
         "with the one and with the other.", _amortisation),
        ("The prior’s hole.", "Latents of real images need not look like the prior that samples are drawn from. Prior "
         "against densities fitted after training, for the same weights.", _hole),
        ("Stochastic latents.", "AE against VAE: the same networks with and without noise on the latent.", _stochastic),
        ("Pairing.", "Objectives that compare many samples with many images at once (aggregate) against those that "
         "pair each output with an image, the best of each kind.", _pairing),
    ):  # fmt: skip
        blocks += [Text(text, heading), *of(results)]
    return Section("What an encoder buys, in parts", "decomposition", blocks)


def _amortisation(results: Results) -> list[Block]:
    blocks: list[Block] = []
    for data in results.data:
        columns = {
            metric: found
            for metric in ("elbo_amortisation_gap", "mse_amortisation_gap")
            if (found := answers(results, data, [metric]))
        }
        if columns:
            blocks.append(_metrics(results, f"{data}: what the own latent or posterior gives away", columns))
            blocks += _given_away(results, data)
            if any(gap.mean.value < 0 for gap in columns.get("mse_amortisation_gap", {}).values()):
                blocks.append(Text(_NEGATIVE))
    return [*blocks, *_of_classes(results, "VAE", "SVI")]


def _hole(results: Results) -> list[Block]:
    blocks: list[Block] = []
    for data in results.data:
        for space in SPACES:
            columns = {
                name: found
                for name in (f"frechet_{space}_{latents}" for latents in LATENTS)
                if (found := answers(results, data, [name]))
            }
            if columns:
                caption = f"{data}: Fréchet distance of samples, by where their latents are drawn from"
                blocks.append(_metrics(results, caption, columns, by_row=True))
                blocks += _headlines(results, data, space)
                blocks += _deepest(data, columns, f"frechet_{space}")
    return blocks or [_lacks("the prior’s hole", "samples by several densities")]


def _headlines(results: Results, data: str, space: str) -> list[Block]:
    """Which of the numbers is the one of all other tables."""
    names: dict[str, list[str]] = {}
    for paradigm in answers(results, data, [f"frechet_{space}"]):
        if latents := own_latents(results, data, paradigm):
            names.setdefault(latents, []).append(paradigm)
    parts = [f"“{latents}” for {listed(of, 40)}" for latents, of in names.items()]
    return [Text(f"{'; '.join(parts)}.", "The headline of the other tables and of the verdict is:")] if parts else []


def _given_away(results: Results, data: str) -> list[Block]:
    """What encoders give away, in nats."""
    of, gaps = traits(results), answers(results, data, ["elbo_amortisation_gap"])
    places = decimals(gaps.values())
    parts = [f"{name} {mean_cell(gap, places).plain}" for name, gap in gaps.items() if of[name].has_encoder]
    return [Text(f"encoders give away {listed(parts)} nats per image.", f"On {data}:")] if parts else []


def _deepest(data: str, columns: Mapping[str, Mapping[str, Answer]], stem: str) -> list[Block]:
    """Which paradigm gains most from a density that is fitted to its latents, as a factor."""
    prior = columns.get(f"{stem}_prior", {})
    gains = {}
    for name, from_prior in prior.items():
        fitted = [columns[of][name] for of in columns if of != f"{stem}_prior" and name in columns[of]]
        lowest = min((one.mean.value for one in fitted), default=None)
        if lowest and lowest > 0:
            gains[name] = from_prior.mean.value / lowest
    if not gains:
        return []
    most = max(gains, key=lambda name: gains[name])
    worse = sum(gain < 1 for gain in gains.values())
    helps = f"a fitted density helps {most} most, whose distance from the prior is {gains[most]:.1f} times as large"
    text = (
        f"{helps if gains[most] > 1 else 'a fitted density helps none'}; for {worse} of {len(gains)} the prior is "
        "better than what is fitted."
    )
    return [Text(text, f"On {data}:")]


def _stochastic(results: Results) -> list[Block]:
    return _of_classes(results, "AE", "VAE")


def _pairing(results: Results) -> list[Block]:
    of = traits(results)
    kinds = {
        "aggregate": [name for name in of if of[name].is_aggregate],
        "pairs": [name for name in of if of[name].conditioning == "image"],
    }
    if not all(kinds.values()):
        return [_lacks("pairing", "paradigms of both kinds")]
    duels = []
    for data in results.data:
        for asked in QUESTIONS:
            found, _ = to_compare(results, data, asked)
            whole = {name: answer for name, answer in found.items() if answer.is_whole}
            chosen = [best_of(whole, names, asked.better) for names in kinds.values()]
            if chosen[0] and chosen[1]:
                duels.append(_against(data, chosen[0], chosen[1], whole, asked.better))
    names = f"aggregate: {listed(kinds['aggregate'])}"
    caption = f"The best aggregate objective minus the best of pairs ({names})"
    return _differences(results, caption, ("aggregate", "pairs"), duels)


def best_of(found: Mapping[str, Answer], names: Sequence[str], which: str) -> str:
    """The name with the best mean among some; empty if none of them has one."""
    sign = 1 if which == "lower" else -1
    return min((name for name in names if name in found), key=lambda name: sign * found[name].mean.value, default="")


def _of_classes(results: Results, first: str, second: str) -> list[Block]:
    """Differences between paradigms of two classes, the baseline first where it is one of them."""
    of = traits(results)
    names = [_of_class(results, of, kind) for kind in (first, second)]
    if not (names[0] and names[1]):
        return [_lacks(f"{first} against {second}", f"both {first} and {second}")]
    duels = []
    metrics: list[tuple[Sequence[str], str]] = [(asked.headline, asked.better) for asked in QUESTIONS]
    metrics += [((f"frechet_{space}_mixture",), "lower") for space in SPACES] + [(("mse_encoder",), "lower")]
    for data in results.data:
        for wanted, which in metrics:
            pair = {name: found for name in names if (found := answer(results, data, name, wanted)) is not None}
            if (
                len(pair) == 2
                and len({found.metric for found in pair.values()}) == 1
                and _one_unit(results, data, pair)
            ):
                duels.append(_against(data, names[0], names[1], pair, which))
    if not duels:
        return [_lacks(f"{first} against {second}", f"results of both {names[0]} and {names[1]} in one unit")]
    caption = f"{names[0]} ({first}) minus {names[1]} ({second})"
    return _differences(results, caption, (names[0], names[1]), duels)


def _one_unit(results: Results, data: str, pair: Mapping[str, Answer]) -> bool:
    asked = question("likelihood")
    if not any(found.metric in asked.headline for found in pair.values()):
        return True
    compared, _ = to_compare(results, data, asked)
    return all(name in compared for name in pair)


def _of_class(results: Results, of: Mapping[str, Traits], kind: str) -> str:
    wants_encoder = kind in ("AE", "VAE")
    names = [name for name, its in of.items() if its.kind == kind and its.has_encoder is wants_encoder]
    return results.baseline if results.baseline in names else next(iter(names), "")


@dataclass(frozen=True)
class _Duel:
    """One metric of two paradigms on one data set; `gap` is None where they share no seed."""

    data: str
    first: str
    second: str
    metric: str
    unit: str
    better: str
    gap: Difference | None

    @property
    def winner(self) -> str:
        """`first`, `second`, or nobody where the seeds do not separate them."""
        if self.gap is None or not self.gap.is_separated:
            return ""
        return "first" if (self.gap.value < 0) == (self.better == "lower") else "second"

    def row(self, seeds: int) -> list[Cell]:
        """In a table; `seeds` are those that the study asks for."""
        name = f"{title(self.metric)} {ARROWS.get(self.better, '')}".strip()
        row = [Cell(self.data), Cell(name), Cell(unit(self.metric, self.unit)), Cell(self.first), Cell(self.second)]
        gap = self.gap
        if gap is None:
            return [*row, Cell("–"), Cell("no seed in common")]
        places = decimals_of(gap.half_width, 2) if gap.half_width else decimals_of(gap.value, 3)
        spread = "" if gap.half_width is None else f"± {number(gap.half_width, places)}"
        count = f"{gap.better} of {gap.seeds}"
        if gap.seeds < seeds:
            count += f" (of {seeds} asked for)"
        return [*row, Cell(signed(gap.value, places), spread, order=gap.value), Cell(count, order=gap.better)]


def _against(data: str, first: str, second: str, of: Mapping[str, Answer], which: str) -> _Duel:
    gap = difference(of[first].values, of[second].values, which)
    return _Duel(data, first, second, of[first].metric, of[first].unit, which, gap)


def _differences(results: Results, caption: str, sides: tuple[str, str], duels: Sequence[_Duel]) -> list[Block]:
    """What the seeds separate, in a sentence for each data set, and a table of all differences."""
    columns = [Column(name, is_number=False) for name in ("Data", "Metric", "Unit", "First", "Second")]
    last = [Column("First − second", "± 95 % t interval"), Column("First is better", "seeds")]
    table = Table(caption, [*columns, *last], [duel.row(len(results.seeds)) for duel in duels])
    return [*(_said(results, data, sides, duels) for data in results.data if len(results.seeds) > 1), table]


def _said(results: Results, data: str, sides: tuple[str, str], duels: Sequence[_Duel]) -> Text:
    by_winner = {
        winner: [in_sentence(title(duel.metric)) for duel in duels if duel.data == data and duel.winner == winner]
        for winner in ("first", "second", "")
    }
    parts = [f"{sides[0]} ahead in {listed(by_winner['first'])}"] if by_winner["first"] else []
    parts += [f"{sides[1]} ahead in {listed(by_winner['second'])}"] if by_winner["second"] else []
    parts += [f"not separated by the seeds: {listed(by_winner[''])}"] if by_winner[""] else []
    return Text(f"{'; '.join(parts) or 'nothing to compare'}.", f"On {data}:")


def _metrics(
    results: Results, caption: str, columns: Mapping[str, Mapping[str, Answer]], by_row: bool = False
) -> Table:
    headings = [Column("Paradigm", is_number=False)]
    arrow: Callable[[str], str] = lambda name: ARROWS.get(better(name), "")  # noqa: E731
    headings += [
        Column(f"{title(name)} {arrow(name)}".strip(), unit(name, next(iter(found.values())).unit))
        for name, found in columns.items()
    ]
    places = {name: decimals(found.values()) for name, found in columns.items()}
    if by_row:
        places = dict.fromkeys(columns, max(places.values()))
    rows = []
    for paradigm in results.paradigms:
        own = {name: found[paradigm] for name, found in columns.items() if paradigm in found}
        tops = best(own, better(next(iter(columns)))) if by_row else []
        if own:
            cells = [mean_cell(own[name], places[name], name in tops) if name in own else Cell("–") for name in columns]
            rows.append([Cell(paradigm), *cells])
    return Table(caption + ("; the best of each row is bold" if by_row else ""), headings, rows)


def _lacks(of: str, what: str) -> Text:
    return Text(f"This study has no results for {of}: it needs {what}.")
