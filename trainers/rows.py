"""Training rows: what the assistant said in selected trajectories, as the tokens that it said.

A row is a conversation up to a reply, and which messages of it are learned (its targets). What users say is context and
never a target. The context is rendered by the function that renders prompts for rollouts
(`actors.models.template.ChatTemplate`); a target is the very tokens that were sampled, the end token among them, or the
tokens of its text where those are not known. A reply that was cut at its token limit teaches no end, so it is no target
unless the config asks for it (`trainer.cut_replies`).
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from actors.models.template import ChatTemplate
from actors.worlds.base import Message
from trainers.algorithms import ALGORITHMS


class RowsError(ValueError):
    """A selection that cannot be trained on."""


@dataclass(frozen=True)
class Row:
    """A conversation and what is learned of it.

    Attributes:
        targets: Numbers of the messages that are learned, in order.
        tokens: The tokens of a target as they were sampled, by its number.
        label: Whether it is desirable.
        source: The trajectory that it is from.
        ends: Whether its last target ends; one that was cut at the token limit does not.
    """

    messages: list[Message]
    targets: list[int]
    tokens: dict[int, list[int]]
    label: bool
    source: str
    ends: bool = True


@dataclass(frozen=True)
class Encoded:
    """A row in tokens.

    Attributes:
        prompt: What comes before the first target.
        completion: All that follows.
        mask: For each token of the completion, whether it is learned.
    """

    prompt: list[int]
    completion: list[int]
    mask: list[bool]
    label: bool
    source: str

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt, of which the first is preferred."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    source: str


@dataclass
class Rows:
    """Rows in the order they are trained on, and how many were dropped, by reason."""

    rows: list[Any]
    dropped: Counter[str] = field(default_factory=Counter)

    def mixed_with(self, others: list[Any], seed: int) -> Rows:
        """These rows and others in an order that follows from the seed."""
        rows = [*self.rows, *others]
        random.Random(seed).shuffle(rows)
        return Rows(rows, self.dropped)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rows in their order."""
        found = hashlib.sha256()
        for row in self.rows:
            for name, value in vars(row).items():
                if (name, value) == ("ends", True):  # as it is said of all rows but those that are cut
                    continue
                found.update(f"{name}:".encode())
                found.update(np.asarray(value, np.int64).tobytes() if _numbers(value) else repr(value).encode())
        return found.hexdigest()


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int)


def training_rows(
    trajectories: pa.Table,
    selection: pa.Table,
    algorithm: str,
    teach: Literal["replies", "last", "conversation"],
    seed: int,
    learn_cut: bool = False,
) -> Rows:
    """Rows of a round's selection in the order they are trained on.

    KTO estimates its KL term from rows that are taken at once, so desirable and undesirable rows are mixed with the
    seed; no trainer mixes them again.

    Args:
        trajectories: The round, `actors.storage.trajectory.SCHEMA`.
        selection: `loop.select.SCHEMA`: trajectory_id and label.
        algorithm: One that does not need both ends uses the desirable rows only.
        learn_cut: Whether replies that were cut at the token limit are learned too, without an end.

    Raises:
        RowsError: The selection names what the round does not hold, nothing is left to train on, or there is only
            one kind of row and the algorithm needs both.
    """
    both_ends = ALGORITHMS[algorithm].both_ends
    labels = dict(zip(selection["trajectory_id"].to_pylist(), selection["label"].to_pylist(), strict=True))
    found = {
        i: m
        for i, m in zip(trajectories["trajectory_id"].to_pylist(), trajectories["messages"].to_pylist(), strict=True)
        if i in labels
    }
    missing = labels.keys() - found.keys()
    if missing:
        raise RowsError(f"the selection names {len(missing)} trajectories that the round does not hold")
    if not labels:
        raise RowsError("the selection is empty")
    made = Rows([])
    for i, label in labels.items():
        if label or both_ends:
            rows, cut = rows_of(found[i], label, i, teach, learn_cut)
            made.rows += rows
            made.dropped["cut at the token limit"] += cut
    kinds = {r.label for r in made.rows}
    if not kinds:
        raise RowsError("the selection leaves no row to train on: every reply was cut at its token limit")
    if both_ends and len(kinds) < 2:
        only, lost = ("desirable", "undesirable") if True in kinds else ("undesirable", "desirable")
        if cut_off := sum(label not in kinds for label in labels.values()):
            raise RowsError(
                f"{algorithm} needs both desirable and undesirable rows, and none is left of {cut_off} {lost} "
                "conversations: every reply in them was cut at its token limit (trainer.cut_replies: drop). A policy "
                "whose replies do not end may have been trained too far: lower trainer.learning_rate, raise "
                "conversation.max_tokens, or set trainer.cut_replies to learn"
            )
        raise RowsError(
            f"{algorithm} needs both desirable and undesirable rows, and the selection has only {only} ones; select "
            "from both ends of the ratings, or use sft"
        )
    return made.mixed_with([], seed)


def rows_of(
    messages: Iterable[dict[str, Any]],
    label: bool,
    source: str,
    teach: Literal["replies", "last", "conversation"],
    learn_cut: bool = False,
) -> tuple[list[Row], int]:
    """Rows of one trajectory, and how many replies were cut at the token limit and so are no targets.

    Args:
        messages: `actors.storage.trajectory.MESSAGE`.
        learn_cut: As in `training_rows`; a reply whose sampled tokens are not known is no target even so.
    """
    messages = list(messages)
    plain: list[Message] = [{"role": m["role"], "content": m["content"]} for m in messages]
    said = [n for n, m in enumerate(messages) if m["role"] == "assistant"]
    said = said[-1:] if teach == "last" else said
    cut = {n for n in said if messages[n]["finish_reason"] == "length"}
    open_ended = {n for n in cut if learn_cut and teach != "conversation" and messages[n].get("token_ids")}
    whole = [n for n in said if n not in cut or n in open_ended]
    tokens = {n: list(messages[n]["token_ids"]) for n in whole if messages[n].get("token_ids")}
    each = [whole] if teach == "conversation" and whole else [[n] for n in whole]
    rows = [
        Row(plain[: t[-1] + 1], t, {n: tokens[n] for n in t if n in tokens}, label, source, t[-1] not in open_ended)
        for t in each
    ]
    return rows, len(said) - len(whole)


class Encoder:
    """Turns rows into tokens.

    Args:
        template: The tokenizer's chat template, whose end of a turn is put behind a reply that lacks one.
        max_length: Most tokens of a row.
    """

    def __init__(self, tokenizer: Any, template: ChatTemplate, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._ends = template.end_ids
        self._max_length = max_length

    def __call__(self, rows: Rows) -> Rows:
        """The rows in tokens (`Encoded`); those that are longer than allowed are dropped and counted.

        Raises:
            RowsError: All are too long.
        """
        made = Rows([], Counter(rows.dropped))
        shortest = None
        for row in rows.rows:
            encoded = self.encode(row)
            shortest = len(encoded) if shortest is None else min(shortest, len(encoded))
            if len(encoded) > self._max_length:
                made.dropped["longer than max_length"] += 1
            else:
                made.rows.append(encoded)
        if rows.rows and not made.rows:
            raise RowsError(
                f"every row of the selection is longer than max_length = {self._max_length} tokens; the shortest has "
                f"{shortest}"
            )
        return made

    def encode(self, row: Row) -> Encoded:
        """One row in tokens, however long.

        Raises:
            RowsError: The chat template renders a reply differently once the conversation goes on, so that what would
                be learned is not what was said.
        """
        first, *rest = row.targets
        prompt = self._template.ids(row.messages[:first])
        completion = self._said(row, first, prompt)
        mask = [True] * len(completion)
        for target in rest:
            context = self._template.ids(row.messages[:target])
            so_far = prompt + completion
            if context[: len(so_far)] != so_far:
                raise RowsError(
                    f"trajectory {row.source}: the chat template renders reply {target} differently once the "
                    "conversation goes on, so the replies cannot be learned as one row; set trainer.rows to replies"
                )
            said = self._said(row, target, context)
            completion = completion + context[len(so_far) :] + said
            mask += [False] * (len(context) - len(so_far)) + [True] * len(said)
        return Encoded(prompt, completion, mask, row.label, row.source)

    def _said(self, row: Row, target: int, prompt: list[int]) -> list[int]:
        """Tokens of a reply, the end token last. Where they are not known, and in a row of several targets, whose later
        replies were given its text, they are those that the chat template makes of the text behind its prompt."""
        sampled = row.tokens.get(target)
        if sampled and len(row.targets) == 1:
            return sampled if sampled[-1] in self._ends or not row.ends else [*sampled, self._ends[0]]
        closed = self._template.closed_ids(row.messages[: target + 1])
        if closed[: len(prompt)] == prompt:
            after = closed[len(prompt) :]
            end = next((n for n, token in enumerate(after) if token in self._ends), None)
            if end is not None:
                return after[: end + 1]
        text = self._tokenizer(row.messages[target]["content"], add_special_tokens=False)["input_ids"]
        return [*text, self._ends[0]]
