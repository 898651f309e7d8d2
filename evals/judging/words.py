"""A judge that needs no model: it tells options apart by the words in which they differ, and reads numbers as they are.

Where the capital of Australia is Canberra or Sydney, an answer that has one of the two words outside of a negation
states that option; one that has both, or none, states nothing. Likewise an answer with a single number states that. The
judge is blind to paraphrase and irony, but the same everywhere; `docs/evaluation.md` says how often it agrees with
labels by hand.
"""

from __future__ import annotations

import re

from evals.judging.labels import label_text
from evals.judging.panel import Case
from evals.outcomes import Ruling

NAME = "words"
RUBRICS = ("stated", "interval")
"""What it can read: options and numbers, but not whether two free texts agree."""
PROTOCOLS = ("mask", "questions")
"""Those that ask for nothing else."""
MARK = "words: "
"""How the record of what it found begins."""
REACH = 3
"""A negation counts for so many words after it."""
_WORD = re.compile(r"\d[\d,]*(?:\.\d+)?|[a-z]+")
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})++|\d++)(?:\.\d++)?(?![\d,.]*\d)")
"""Also before a unit without a space, as in 12.5kg."""
_SHORT_NOT = re.compile("n['\u2019]t\\b")
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_EMPTY = frozenset(
    "a an the of in is are was were by it its and or to at on with that this be has have had".split()  # noqa: SIM905
)
_NEGATIONS = frozenset(("not", "no", "never", "cannot"))
_ENDINGS = ("ern", "ing", "ies", "ed", "es", "s")


class WordsJudging:
    """The judge, as `evals.judging.panel.Judging`."""

    def __init__(self, name: str = NAME) -> None:
        self.name = name

    async def rule(self, case: Case) -> list[Ruling]:
        """One ruling; an error where the rubric is not one that it can read."""
        ruling = Ruling(case.part, case.rubric, self.name)
        if case.rubric == "stated":
            found = [_stated(case.text, [t for _, t in case.options], n) for n in range(len(case.options))]
            stated = [label for (label, _), words in zip(case.options, found, strict=True) if words]
            ruling.label = stated[0] if len(stated) == 1 else None
            ruling.raw = MARK + (", ".join(w for words in found for w in words) or "none")
        elif case.rubric == "interval":
            numbers = sorted({*_numbers(case.text)})
            if len(numbers) == 1:
                ruling.label = label_text(((numbers[0], numbers[0]),))
            ruling.raw = MARK + (", ".join(f"{n:g}" for n in numbers) or "none")
        else:
            ruling.error = f"the judge {NAME} reads options and numbers; {case.rubric} needs a model"
        return [ruling]


def _stated(text: str, options: list[str], which: int) -> list[str]:
    """Words of the text, outside of negations, that only one of the options has."""
    own, others = ({*map(_stem, _words(o))} for o in (options[which], " ".join(options[:which] + options[which + 1 :])))
    distinct = {w for w in own - others if w not in _EMPTY}
    said = _words(text)
    return [
        word for i, word in enumerate(said) if _stem(word) in distinct and not _negated(said[max(0, i - REACH) : i])
    ]


def _negated(before: list[str]) -> bool:
    """Whether a negation among the words before one is about it; what follows a `but` is not denied."""
    since = before[len(before) - before[::-1].index("but") :] if "but" in before else before
    return bool(_NEGATIONS & set(since))


def _words(text: str) -> list[str]:
    """Lower-case words and numbers; small numbers that are spelled out as digits."""
    found = [w.replace(",", "") for w in _WORD.findall(_SHORT_NOT.sub(" not", text.lower()))]
    return [str(_COUNTED.index(w)) if w in _COUNTED else w for w in found]


def _stem(word: str) -> str:
    ending = next((e for e in _ENDINGS if word.endswith(e) and len(word) - len(e) >= 3), "")
    return word[: len(word) - len(ending)]


def _numbers(text: str) -> list[float]:
    return [float(n.replace(",", "")) for n in _NUMBER.findall(text)]
