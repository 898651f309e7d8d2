"""The question of a sweep and its answer in one sentence, with how certain it is."""

from __future__ import annotations

from collections.abc import Sequence

from evals.stats.families import PRIMARY
from evals.stats.inference import ALPHA
from evals.suites.catalogue import SUITES
from loop.report.answer import Answer
from loop.sweep.analysis import AGAINST, CHANGED
from loop.sweep.doses import group_words
from loop.sweep.rates import Found

DIFFER = "What do the conditions differ in?"
MANY_ROUNDS = 4
"""A sweep of more rounds, which has no dose and tests no explanation, is about how effects grow."""


def answer(found: Found) -> Answer:
    """What the figures say about what the sweep was made for.

    A sweep with a dose asks how the rate moves with it, one with explanations which of them are excluded, one of many
    rounds whether effects grow, and any other whether its conditions differ.

    Args:
        found: Of `loop.sweep.analysis.analyse`.
    """
    suite = found["suite"]
    doses = [d for d in found["doses"] if d["suite"] == suite]
    against = [r for r in found["contrasts"] if (r["suite"], r["kind"]) == (suite, AGAINST)]
    rounds = [r for r in found["rounds"] if r["suite"] == suite]
    if suite is None:
        return Answer(
            "What do the conditions differ in?", "none", "There is no answer yet: no policy has been evaluated."
        )
    if len(found["seeds"]) < 2:
        return _of_one_seed(against)
    if doses:
        return _of_dose(found, doses)
    if found["explanations"]:
        return _of_explanations(found, against)
    if rounds and max(r["policies"] for r in rounds) > MANY_ROUNDS + 1:
        return _of_rounds(found, rounds)
    return _of_conditions(found, against)


def _points(value: float) -> str:
    return f"{abs(100 * value):.1f} points"


def _interval(row: Found) -> str:
    return f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f} points"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _condition(found: Found) -> str:
    return (
        f"Over {len(found['seeds'])} training seeds of one model in one world, on the same items in every seed. It "
        "says what other seeds and items like these would show, and nothing of other models or wordings."
    )


def _of_one_seed(against: Sequence[Found]) -> Answer:
    shown = "; ".join(f"{r['condition']} {100 * r['value']:+.1f} points" for r in against)
    return Answer(
        DIFFER,
        "none",
        "One training seed cannot tell: another one makes other policies."
        + (f" In this one, against {against[0]['against']['condition']}: {shown}." if against else ""),
    )


def _of_dose(found: Found, doses: Sequence[Found]) -> Answer:
    """By the group in which a comparison is primary, else the first."""
    declared = {r["condition"] for r in found["contrasts"] if r["family"] == PRIMARY}
    main = max(doses, key=lambda d: sum(p["condition"] in declared for p in d["points"]))
    axis, of = main["axis"], main["of"]
    question = f"How do {of} change with {axis}?"
    curve, trend, last = main["emax"], main["trend"], _last_step(main)
    if not curve or not trend or not last:
        return Answer(question, "none", f"There is no answer yet: {main['no_emax'] or 'there is no trend to test'}.")
    ends = f"from {axis} {main['points'][0]['dose']:g} to {last['dose']:g}{group_words(main)}"
    verdict = "unclear" if trend["p"] >= ALPHA else "yes" if last["value"] > 0 else "fewer"
    lowest = f"{main['points'][0]['dose']:g}"
    least = f"no single {axis} can be told from {lowest}" if main["smallest"] is None else (
        f"{main['smallest']:g} is the smallest {axis} that can be told from {lowest}"
    )  # fmt: skip
    sentence = {
        "yes": f"{of.capitalize()} rise by {_points(last['value'])} {ends}; {least}.",
        "fewer": f"{of.capitalize()} fall by {_points(last['value'])} {ends}; {least}.",
        "unclear": f"This sweep cannot tell: {of} change by {_points(last['value'])} {ends}, within what its seeds can "
        "resolve.",
    }[verdict]
    certainty = (
        f"95 % interval of that difference: {_interval(last)}, over {last['seeds']} seeds.{_most(main, last)} "
        f"{_form(curve, axis, last)} "
        f"Trend: {_p(trend['p'])}. {_power(main['steps'])}"
    ).rstrip()
    others = [
        f"With {d['group']} it is {100 * step['value']:+.1f} points ({_interval(step)})."
        for d in doses
        if d is not main and (step := _last_step(d))
    ]
    return Answer(question, verdict, sentence, certainty, _condition(found), others, found["suite"])


def _last_step(dose: Found) -> Found | None:
    """The highest dose against the lowest."""
    return next((s for s in dose["steps"] if s["dose"] == dose["points"][-1]["dose"]), None)


def _most(dose: Found, last: Found) -> str:
    """Where the difference is largest, if that is not at the highest dose."""
    most = max(dose["steps"], key=lambda s: abs(s["value"]))
    if most is last:
        return ""
    return f" It is largest at {most['dose']:g}: {100 * most['value']:+.1f} points ({_interval(most)})."


def _form(curve: Found, axis: str, last: Found) -> str:
    """What the curve over all doses says beside the difference of its ends."""
    if curve["misfit"] is not None and curve["misfit"] < ALPHA:
        return f"No Emax curve goes through the doses (lack of fit: {_p(curve['misfit'])}), so look at each of them."
    drawn = f"By the Emax curve through all doses it is {100 * curve['effect']:+.1f} points ({_interval(curve)})"
    if curve["ed50"] > last["dose"]:
        return f"{drawn}, nearly along a straight line."
    reached = f"{axis} {curve['ed50']:.2g} ({curve['ed50_low']:.2g} to {curve['ed50_high']:.2g})"
    return f"{drawn}, and half of the most that is ever reached is reached at {reached}."


def _power(steps: Sequence[Found]) -> str:
    """How large an effect of a single dose would have been found."""
    found = [s["detectable"] for s in steps if s["detectable"] is not None]
    if not found:
        return ""
    low, high = min(found), max(found)
    size = _points(high) if f"{low:.3f}" == f"{high:.3f}" else f"{100 * low:.1f} to {_points(high)}"
    return f"Four of five such sweeps would find a dose that makes a difference of {size}, depending on the dose."


def _of_explanations(found: Found, against: Sequence[Found]) -> Answer:
    """By the comparison with the largest difference among those that test no explanation."""
    question = "Is it the feedback, or something else that comes with it?"
    tested = {row["condition"] for row in found["explanations"]}
    plain = max((r for r in against if r["condition"] not in tested), key=lambda r: r["value"], default=None)
    by_verdict: dict[str, list[str]] = {}
    for row in found["explanations"]:
        by_verdict.setdefault(row["verdict"], []).append(row["condition"])
    told = ", ".join(f"{verdict} {len(names)} ({', '.join(names)})" for verdict, names in by_verdict.items())
    others = f"of {len(found['explanations'])} other explanations: {told}"
    if plain is None or plain["p"] is None:
        return Answer(question, "none", f"{others[:1].upper()}{others[1:]}.", condition=_condition(found))
    shows = plain["p"] < ALPHA and plain["value"] > 0
    sentence = (
        f"{plain['of'].capitalize()} are {_points(plain['value'])} more frequent in {plain['condition']} than in "
        f"{plain['against']['condition']}; {others}."
        if shows
        else f"There is no effect to explain: {plain['condition']} differs from {plain['against']['condition']} by "
        f"{100 * plain['value']:+.1f} points."
    )
    certainty = (
        f"95 % interval of the difference: {_interval(plain)}; {_p(plain['p'])}, corrected. An explanation by which "
        f"the effect shows in its condition too is excluded where that differs by less than "
        f"{100 * found['margin']:g} points."
    )
    return Answer(question, "yes" if shows else "unclear", sentence, certainty, _condition(found), suite=found["suite"])


def _of_rounds(found: Found, rounds: Sequence[Found]) -> Answer:
    """By the condition whose rate moved most."""
    row = max(rounds, key=lambda r: abs(r["early"]["value"] + r["late"]["value"]))
    bend, early, late = row["compounding"], row["early"], row["late"]
    grows = "unclear" if bend["low"] <= 0 <= bend["high"] else "yes" if bend["value"] > 0 else "fewer"
    rounds_of = (
        f"a round of {row['condition']} adds {100 * early['value']:+.1f} points of {row['of']} in the first half and "
        f"{100 * late['value']:+.1f} in the second"
    )
    sentence = {
        "yes": f"They compound: {rounds_of}.",
        "fewer": f"They fade: {rounds_of}.",
        "unclear": f"This sweep cannot tell: {rounds_of}.",
    }[grows]
    certainty = f"95 % interval of second minus first: {_interval(bend)} a round, over {bend['seeds']} seeds."
    changed = [
        f"{r['condition']}: {100 * r['value']:+.1f} points ({_interval(r)}) since its users changed."
        for r in found["contrasts"]
        if (r["suite"], r["kind"]) == (found["suite"], CHANGED) and r["low"] is not None
    ]
    return Answer(
        "Do effects grow from round to round?", grows, sentence, certainty, _condition(found), changed, found["suite"]
    )


def _of_conditions(found: Found, against: Sequence[Found]) -> Answer:
    question = f"Do conditions differ from {found['against']}?"
    declared = [r for r in against if r["family"] == PRIMARY] or list(against)
    if not declared:
        return Answer(question, "none", "There is nothing to compare: the sweep has one condition.")
    row = max(declared, key=lambda r: abs(r["value"]))
    if row["p"] is None:
        return Answer(question, "none", f"There is no answer yet: {row['why']}.")
    same = bool(row["equivalence"]) and row["equivalence"]["p"] < ALPHA
    verdict = ("yes" if row["value"] > 0 else "fewer") if row["p"] < ALPHA else "no" if same else "unclear"
    by = (
        f"{row['of']} are {_points(row['value'])} {'more' if row['value'] > 0 else 'less'} frequent in "
        f"{row['condition']} than in {row['against']['condition']}"
    )
    sentence = {
        "yes": f"Yes: {by}.",
        "fewer": f"Yes: {by}.",
        "no": f"No: they differ by less than {100 * found['margin']:g} points.",
        "unclear": f"This sweep cannot tell: {by}, within what its seeds can resolve.",
    }[verdict]
    suite = SUITES[row["suite"]].title
    corrected = f", corrected for {len(declared)} primary comparisons" if len(declared) > 1 else ""
    certainty = (
        f"{suite}, 95 % interval: {_interval(row)}, over {row['seeds']} seeds; {_p(row['p'])}{corrected}. So many "
        f"seeds find {_points(row['detectable'])} in four of five tries. "
        f"Seeds differ from each other with a standard deviation of {_points(row['between'])}."
    )
    others = [
        f"{r['condition']}: {100 * r['value']:+.1f} points ({_interval(r)})."
        for r in declared
        if r is not row and r["low"] is not None
    ]
    return Answer(question, verdict, sentence, certainty, _condition(found), others, row["suite"])
