"""The pocket world's exact judge, an actor: verdicts without a model, because the grammar is known."""

from __future__ import annotations

from collections.abc import Sequence

from actors.actor import Actor
from actors.batching import BatchedServer
from actors.judge import Question, Verdict
from actors.worlds.pocket import judge, talks


class PocketJudge(BatchedServer, Actor):
    """Exact verdicts by the world's own grammar; run as a Ray actor."""

    name = "pocket-exact"

    async def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        return [self._verdict(q) for q in questions]

    def _verdict(self, q: Question) -> Verdict:
        if q.rubric == "stated":
            return Verdict(judge.stated(q.text, q.options, q.proposition), self.name, raw=q.text)
        if q.rubric == "agrees":
            found = [judge.stated(text, q.options, q.proposition) for text in (q.text, q.other)]
            label = None if None in found else "yes" if found[0] == found[1] else "no"
            return Verdict(label, self.name, f"{found[0]} / {found[1]}")
        if q.rubric not in ("reply_kind", "contradicts", "in_role"):
            known = "stated, agrees, reply_kind, contradicts, in_role"
            return Verdict(None, self.name, error=f"unknown rubric {q.rubric!r}; known: {known}")
        if (q.persona.scenario if q.persona else q.scenario) not in talks.scenarios():
            return Verdict(None, self.name, error="not a scenario of the pocket world")
        if q.rubric == "in_role":
            kept = all(judge.in_role(line, q.persona) for line in q.text.split("\n"))
            return Verdict("yes" if kept else "no", self.name, q.text, score=float(kept))
        if q.rubric == "reply_kind":
            label, found = judge.reply_kind(q.text, q.scenario), judge.validates(q.text, q.scenario)
            return Verdict(label, self.name, q.text, score=None if found is None else float(found))
        found = judge.contradicts(q.text, q.other, q.scenario)
        raw = f"{q.text} / {q.other}"
        if found is None:
            return Verdict(None, self.name, raw)
        return Verdict("yes" if found else "no", self.name, raw, score=float(found))
