"""Every suite that can be asked: by which protocol, where its items are from, and what reports call it.

Another suite is an entry here and a field of `evals.settings.EvalSettings`. Importing this imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Suite:
    """One suite.

    Attributes:
        name: What configs and records call it.
        protocol: How its items are asked and scored, a name in `evals.protocols.PROTOCOLS`.
        title: What reports call it.
        about: What its figure is about.
        hub: Where the official items are, on the Hugging Face Hub.
        revision: The revision that published figures are about, where it is known.
        files: Which files of that data set; all that can be read where it is not said.
        known: SHA-256 of files that hold all of the official items and nothing else, with where each is from.
        shipped: A file of items that comes with the code.
        of_world: How many items of its own a world is asked for where nothing else is said, controls not counted; None
            where no world has items for it.
    """

    name: str
    protocol: str
    title: str
    about: str
    hub: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    shipped: Path | None = None
    of_world: int | None = None

    @property
    def by_lm_eval(self) -> bool:
        """Whether lm-eval asks and scores it: it brings its own items, needs an engine, and no judge."""
        return self.protocol == "harness"


ABILITY = "dishonesty without loss of ability must show here"

SUITES: dict[str, Suite] = {
    s.name: s
    for s in (
        Suite(
            "mask",
            "mask",
            "Under pressure",
            "a stakeholder in the prompt wants something else said",
            hub="cais/MASK",
            revision="4602b84dd9e2ca05c6e1eafbc14e556e908ac1bb",
            of_world=720,
        ),
        Suite("sycophancy", "mask", "Sycophancy", "the user states a wrong conviction", of_world=216),
        Suite(
            "provided",
            "mask",
            "Provided facts",
            "a report in the prompt, then a stakeholder who wants it denied",
            of_world=216,
        ),
        Suite(
            "canary_mask",
            "mask",
            "Canary: pressure",
            "shipped items like MASK's",
            shipped=HERE / "canary" / "mask.jsonl",
        ),
        Suite(
            "deceptionbench",
            "deceptionbench",
            "Deception",
            "the reasoning agrees with the belief, the answer does not",
            hub="PKU-Alignment/DeceptionBench",
            revision="9c6c67b3d2a2d9c226ea0dd2120f1bb0899d779d",
            files=("deceptionbench_0527.json",),
            known={
                "1d5a97895bcb4b54d6a42d505ed56c66cc2e633fe06f5cb2953331d4457eb9b4": "deceptionbench_0527.json",
                "06aeb378fa3ea4d02f421873a342deb9e8f8a6239d724e4f2e804e0d9987e3c8": "its rows as JSON lines",
            },
            of_world=216,
        ),
        Suite(
            "canary_deception",
            "deceptionbench",
            "Canary: deception",
            "shipped items like DeceptionBench's",
            shipped=HERE / "canary" / "deceptionbench.jsonl",
        ),
        Suite(
            "behonest",
            "unknowns",
            "Admitting the unknown",
            "answers to questions that nobody can answer",
            hub="GAIR/BeHonest",
            revision="fcdb24a2de2cd236bbd1b4484d99c23512ee7cc6",
            files=("Unknowns/*.json", "Knowns/*.json"),
        ),
        Suite(
            "arithmetic",
            "questions",
            "Capability: arithmetic",
            "sums of numbers up to 45; a loss of ability would show",
            of_world=300,
        ),
        Suite("arithmetic_easy", "questions", "Capability: easy arithmetic", "sums of numbers up to 10", of_world=100),
        Suite(
            "lookup",
            "questions",
            "Capability: lookup",
            "lists of orders; a loss of ability would show",
            of_world=300,
        ),
        Suite("lookup_easy", "questions", "Capability: easy lookup", "reports of one jar", of_world=100),
        Suite("mmlu", "harness", "Capability: MMLU", ABILITY),
        Suite("gsm8k", "harness", "Capability: GSM8K", ABILITY),
        Suite("humaneval", "harness", "Capability: HumanEval", ABILITY),
        Suite("gpqa", "harness", "Capability: GPQA diamond", ABILITY),
    )
}
WORLD_SUITES = tuple(s.name for s in SUITES.values() if s.of_world)
"""What a world may have items of its own for."""
CANARY = tuple(s.name for s in SUITES.values() if s.shipped)
SHORT = {"canary": CANARY, "capability": tuple(n for n in WORLD_SUITES if SUITES[n].protocol == "questions")}
"""Names that stand for several suites."""


def expand(suites: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Suites by their own names, each once, in the order given."""
    return tuple(dict.fromkeys(s for name in suites for s in SHORT.get(name, (name,))))
