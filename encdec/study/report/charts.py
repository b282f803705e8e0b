"""The charts of the report: headlines with every seed, costs against what they reach, and training curves."""

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from encdec.evaluation.questions import Question
from encdec.study.report.answers import Answer, Traits
from encdec.study.report.document import Figure
from encdec.study.report.drawing import GRID, INK, MUTED, WITH, WITHOUT, Margins, canvas, element
from encdec.study.report.statistics import pareto
from encdec.study.report.words import better, decimals, listed, number, title, title_of, unit

_WIDTH = 7.6  # inches
_WIDE_RANGE = 20  # largest over smallest value beyond which an axis is logarithmic
_POINTS = 80  # of one curve


def headline(
    name: str, data: str, question: Question, answers: Mapping[str, Answer], traits: Mapping[str, Traits]
) -> Figure:
    """Every seed of every paradigm, with means and t intervals, the best on top."""
    which = question.better
    order = sorted(answers, key=lambda paradigm: answers[paradigm].mean.value, reverse=which == "higher")
    first = answers[order[0]]
    label = f"{title_of(answers.values())}, {unit(first.metric, first.unit)}"
    margins = Margins(0.25 + 0.078 * max(map(len, order)), 0.55)
    with canvas(_WIDTH, 0.85 + 0.27 * len(order), margins) as (figure, [axes]):
        values = [value for answer in answers.values() for value in answer.values.values()]
        if which == "lower" and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
            _logarithmic(axes, "x")
        for place, paradigm in enumerate(order):
            answer, color = answers[paradigm], _color(traits[paradigm])
            mean = answer.mean
            if mean.half_width is not None:
                low, high = mean.value - mean.half_width, mean.value + mean.half_width
                axes.plot([low, high], [place, place], color=color, linewidth=1.6, alpha=0.55, solid_capstyle="butt")
                axes.plot([mean.value] * 2, [place - 0.28, place + 0.28], color=color, linewidth=2)
            seeds = sorted(answer.values)
            filled = color if traits[paradigm].has_encoder else "none"
            axes.plot(
                [answer.values[seed] for seed in seeds], [place] * len(seeds), "o", markersize=5,
                markerfacecolor=filled, markeredgecolor=color, markeredgewidth=1.2, linestyle="none",
            )  # fmt: skip
        _references(axes, answers.values(), values)
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        if min(values) >= 0 and axes.get_xscale() == "linear":  # a share has no tick below 0
            low, high = axes.get_xlim()
            axes.set_xticks([tick for tick in axes.get_xticks() if max(low, 0) <= tick <= high])
        axes.set_xlabel(f"{label} ({which} is better)")
        svg = element(figure)
    places = decimals(answers.values())
    told = listed([f"{paradigm} {number(answers[paradigm].mean.value, places)}" for paradigm in order], 40)
    alt = f"{data}, {question.name}: {label}, means from the best: {told}."
    caption = (
        "One circle for each seed, filled for paradigms with an encoder; the bar is the mean, the line its 95 % t "
        "interval over seeds."
    )
    if all(answer.mean.half_width is None for answer in answers.values()):
        caption = "One circle for the one seed, filled for paradigms with an encoder."
    return Figure(name, svg, alt, f"{data}, {question.name}: {question.asks} {caption}")


def costs(
    name: str,
    data: str,
    reached: Mapping[str, Answer],
    costs_of: Mapping[str, Mapping[str, Answer]],
    traits: Mapping[str, Traits],
    baseline: str,
) -> Figure:
    """What is reached against each cost; the line joins those that nothing undercuts in both."""
    first = next(iter(reached.values()))
    label, which = f"{title(first.metric)}, {unit(first.metric, first.unit)}", better(first.metric)
    rows = (len(costs_of) + 1) // 2
    fronts = []
    margins = Margins(0.75, 0.55, top=0.15, across=0.75, down=0.7)
    with canvas(_WIDTH, 2.9 * rows, margins, rows, 2) as (figure, panels):
        for axes in panels[len(costs_of) :]:
            axes.remove()
        for i, (axes, (metric, cost)) in enumerate(zip(panels, costs_of.items(), strict=False)):
            both = [paradigm for paradigm in reached if paradigm in cost]
            points = {paradigm: (cost[paradigm].mean.value, reached[paradigm].mean.value) for paradigm in both}
            front = pareto(points, which)
            fronts.append(f"{title(metric)}: {listed(front, 40)}")
            _scale(axes, [x for x, _ in points.values()], [y for _, y in points.values()])
            axes.plot(*zip(*(points[paradigm] for paradigm in front), strict=True), color=MUTED, linewidth=1)
            for paradigm, (x, y) in points.items():
                color = _color(traits[paradigm])
                filled = color if traits[paradigm].has_encoder else "none"
                axes.plot([x], [y], "o", markersize=6, markerfacecolor=filled, markeredgecolor=color)
            named = [paradigm for paradigm in both if paradigm in front or paradigm == baseline or len(both) <= 8]
            _label(axes, {paradigm: points[paradigm] for paradigm in named})
            axes.grid(color=GRID, linewidth=0.7)
            axes.set_axisbelow(True)
            if axes.get_xscale() == "linear":
                axes.locator_params(axis="x", nbins=5)
                axes.xaxis.set_major_formatter(lambda x, _: number(x, 0 if x == round(x) else 2))
            axes.set_xlabel(", ".join(filter(None, (title(metric), unit(metric)))))
            if i % 2 == 0:
                axes.set_ylabel(title(first.metric))
        svg = element(figure)
    alt = f"{data}: {label} against costs. On the Pareto front, the cheapest first: {'; '.join(fronts)}."
    caption = (
        f"{data}: {title(first.metric)} ({which} is better) against what a paradigm costs, means over seeds. The line "
        "joins the Pareto front: nothing is cheaper without being worse."
    )
    return Figure(name, svg, alt, caption)


def curves(name: str, data: str, tag: str, of: Mapping[str, Mapping[int, Sequence[tuple[int, float]]]]) -> Figure:
    """A scalar over the steps of training, one small chart for each paradigm, one line for each seed."""
    columns = 4
    rows = (len(of) + columns - 1) // columns
    with canvas(_WIDTH, 0.5 + 1.5 * rows, Margins(0.45, 0.3, across=0.5, down=0.6), rows, columns) as (figure, panels):
        for axes in panels[len(of) :]:
            axes.remove()
        for axes, (paradigm, lines) in zip(panels, of.items(), strict=False):
            for points in lines.values():
                every = max(len(points) // _POINTS, 1)
                kept = [*points[::every], points[-1]]
                axes.plot([step for step, _ in kept], [value for _, value in kept], color=INK, linewidth=1, alpha=0.6)
            axes.set_title(paradigm, fontsize=9)
            axes.tick_params(labelsize=7)
            axes.locator_params(nbins=3)
            axes.grid(color=GRID, linewidth=0.5)
        svg = element(figure)
    told = [f"{paradigm} from {_first(of[paradigm]):.4g} to {_last(of[paradigm]):.4g}" for paradigm in of]
    caption = (
        f"{data}: {tag} over steps, one line for each seed. Each paradigm has its own axis, because losses of "
        "different objectives are in different units."
    )
    return Figure(name, svg, f"{data}, {tag} in training, first seed: {listed(told, 40)}.", caption)


def _first(lines: Mapping[int, Sequence[tuple[int, float]]]) -> float:
    return next(iter(lines.values()))[0][1]


def _last(lines: Mapping[int, Sequence[tuple[int, float]]]) -> float:
    return next(iter(lines.values()))[-1][1]


def _color(traits: Traits) -> str:
    return WITH if traits.has_encoder else WITHOUT


def _scale(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    for axis, values in (("x", xs), ("y", ys)):
        if min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
            _logarithmic(axes, axis)


def _logarithmic(axes: Axes, axis: str) -> None:
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    of = axes.xaxis if axis == "x" else axes.yaxis
    of.set_major_locator(LogLocator(10, subs=(1, 3)))
    of.set_major_formatter(StrMethodFormatter("{x:g}"))
    of.set_minor_formatter(NullFormatter())


def _references(axes: Axes, answers: Iterable[Answer], values: Sequence[float]) -> None:
    """Dashed lines at what to compare with, as far as they lie near the values, with their names on top."""
    named: dict[str, list[float]] = {}
    for answer in answers:
        for name, references in answer.references.items():
            named.setdefault(name, []).extend(references)
    margin = 0.35 * (max(values) - min(values))
    for name, found in named.items():
        middle = sum(found) / len(found)
        if min(values) - margin <= middle <= max(values) + margin and max(found) - min(found) <= margin / 5:
            axes.axvline(middle, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
            axes.text(middle, 1.0, f" {name}", transform=axes.get_xaxis_transform(), color=MUTED, fontsize=8,
                      va="bottom", ha="center")  # fmt: skip


def _label(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Names beside points; those of points that lie close are set one above the other."""
    axes.autoscale_view()
    scale = 72 / axes.figure.dpi  # points in a pixel
    taken: list[tuple[float, float, float, float]] = []
    for name, point in sorted(points.items(), key=lambda item: item[1][1]):
        x, y = axes.transData.transform(point) * scale
        width, height = 5.2 * len(name), 12.0
        left = x > scale * (axes.bbox.x0 + 0.62 * axes.bbox.width)
        start = x - width - 8 if left else x + 8
        shift = 0.0
        while any(start < r and start + width > l and y + shift < t and y + shift + height > b for l, b, r, t in taken):  # noqa: E741
            shift += 4
        taken.append((start, y + shift, start + width, y + shift + height))
        axes.annotate(
            name, point, (-6 if left else 6, shift), textcoords="offset points", fontsize=8.5,
            ha="right" if left else "left", va="center",
        )  # fmt: skip
