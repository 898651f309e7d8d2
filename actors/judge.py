"""The judge: verdicts on text.

Whoever needs a verdict asks a `Judge`, and does not know whether the world's grammar or a language model answers. A
verdict that could not be reached has an `error` and no label; it is never read as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.lifeline import Actor, answer


@dataclass(frozen=True)
class Question:
    """What is to be judged.

    Attributes:
        rubric: `stated` (which of `options` does the text state?) or `reply_kind` (what does this reply in a talk
            about `scenario` do: help, challenge, validate?).
        text: What somebody said.
    """

    rubric: str
    text: str
    options: tuple[str, ...] = ()
    scenario: str = ""


@dataclass(frozen=True)
class Verdict:
    """A judge's answer: a label, or None where no option applies; `error` where it could not be reached.

    `raw` is what the judge said in full, so that any figure can be followed back to it.
    """

    label: str | None
    judge: str
    raw: str = ""
    error: str | None = None


class Judge(Protocol):
    """Anything that answers questions about text, in the order asked."""

    async def verdicts(self, questions: Sequence[Question]) -> list[Verdict]: ...


class PocketJudge(Actor):
    """Exact verdicts for the pocket world, whose grammar is known; run as a Ray actor."""

    name = "pocket-exact"

    async def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        from actors.worlds.pocket import judge, talks

        out = []
        for q in questions:
            if q.rubric == "stated":
                label = judge.stated(q.text, q.options)
            elif q.rubric == "reply_kind" and q.scenario not in talks.scenarios():
                out.append(Verdict(None, self.name, error="not a scenario of the pocket world"))
                continue
            elif q.rubric == "reply_kind":
                label = judge.reply_kind(q.text, q.scenario)
            else:
                out.append(Verdict(None, self.name, error=f"unknown rubric {q.rubric!r}; known: stated, reply_kind"))
                continue
            out.append(Verdict(label, self.name, raw=q.text))
        return out


class JudgeHandle:
    """A judge reached by actor handle; the same interface on this side of the wire."""

    def __init__(self, actor: object) -> None:
        self._actor = actor

    async def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        return await answer(self._actor.verdicts.remote(list(questions)), "judge")
