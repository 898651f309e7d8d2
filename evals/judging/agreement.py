"""How far judges agree, with each other, with themselves and with people."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Label = str | None
"""What a judge said; None where it said nothing."""
Alike = Callable[[str, str], bool]
"""Whether two labels say the same, where that is not whether they are equal: of intervals, for example."""


class AgreementError(ValueError):
    """Labels that say nothing about agreement."""


@dataclass(frozen=True)
class Agreement:
    """Of several judges on the same texts.

    Attributes:
        texts: How many texts at least two judges labelled.
        observed: Share of pairs of judges that agree, over all texts.
        cohen: Cohen's kappa of each pair of judges, over the texts that both labelled; None where both always said the
            same one thing.
        fleiss: Fleiss' kappa over the texts that all labelled; None where there are none, or nothing to disagree on.
        krippendorff: Krippendorff's alpha, which takes texts with missing labels too; None where nobody could disagree.
    """

    texts: int
    observed: float
    cohen: dict[tuple[str, str], float | None]
    fleiss: float | None
    krippendorff: float | None


def agreement(labels: dict[str, Sequence[Label]], alike: Alike | None = None) -> Agreement:
    """Agreement of judges.

    With `alike`, kappa and alpha are the weighted ones whose weight is 1 for labels that say the same and 0 for others
    (Cohen 1968; Gwet 2014; Krippendorff 2011): agreement, observed and by chance, then goes by the same rule as
    outcomes do.

    Args:
        labels: By judge, one label a text in the same order.
        alike: Symmetric; None for equality.

    Raises:
        AgreementError: There are fewer than two judges, they labelled different numbers of texts, or no two of them
            labelled the same text.
    """
    lengths = {judge: len(said) for judge, said in labels.items()}
    if len(labels) < 2 or len(set(lengths.values())) > 1:
        raise AgreementError(f"at least two judges of the same texts are needed, found {lengths}")
    rows = list(zip(*labels.values(), strict=True))
    shared = [[x for x in row if x is not None] for row in rows]
    pairs = [(a, b) for row in shared for i, a in enumerate(row) for b in row[i + 1 :]]
    if not pairs:
        raise AgreementError("no text was labelled by two judges")
    kinds = sorted({x for row in shared for x in row})
    same = np.array([[a == b or (alike is not None and alike(a, b)) for b in kinds] for a in kinds], float)
    number = {kind: i for i, kind in enumerate(kinds)}
    names = list(labels)
    cohen = {
        (first, second): cohen_kappa([(number[r[i]], number[r[j]]) for r in rows if None not in (r[i], r[j])], same)
        for i, first in enumerate(names)
        for j, second in enumerate(names)
        if i < j
    }
    return Agreement(
        texts=sum(len(row) > 1 for row in shared),
        observed=float(np.mean([same[number[a], number[b]] for a, b in pairs])),
        cohen=cohen,
        fleiss=_fleiss([[number[x] for x in row] for row in rows if None not in row], same),
        krippendorff=None if same.all() else _alpha(rows, number, same),
    )


def cohen_kappa(pairs: Sequence[tuple[int, int]] | np.ndarray, same: np.ndarray) -> float | None:
    """Kappa of two judges from the numbers of their labels; None where chance alone would have them agree.

    Args:
        pairs: For each text the numbers of the two labels, shape (texts, 2).
        same: Whether two labels say the same, by their numbers, as 1 and 0.
    """
    if not len(pairs):
        return None
    table = np.zeros(same.shape)
    np.add.at(table, tuple(np.array(pairs).T), 1)
    observed, expected = (table * same).sum() / len(pairs), table.sum(1) @ same @ table.sum(0) / len(pairs) ** 2
    return _beyond_chance(float(observed), float(expected))


def _fleiss(rows: Sequence[Sequence[int]], same: np.ndarray) -> float | None:
    """Kappa of several judges who all labelled each of some texts."""
    if not rows:
        return None
    counts = np.array([np.bincount(row, minlength=len(same)) for row in rows])
    judges = len(rows[0])
    agreeing = ((counts * (counts @ same)).sum(1) - judges) / (judges * (judges - 1))
    share = counts.sum(0) / counts.sum()
    return _beyond_chance(float(agreeing.mean()), float(share @ same @ share))


def _beyond_chance(observed: float, expected: float) -> float | None:
    return None if np.isclose(expected, 1) else (observed - expected) / (1 - expected)


def _alpha(rows: list[tuple[Label, ...]], number: dict[str, int], same: np.ndarray) -> float:
    import krippendorff

    def apart(v1: np.ndarray, v2: np.ndarray, **unused: object) -> np.ndarray:
        return 1 - same[np.asarray(v1, int), np.asarray(v2, int)]

    data = [[np.nan if x is None else number[x] for x in judge] for judge in zip(*rows, strict=True)]
    return float(krippendorff.alpha(np.array(data, float), level_of_measurement=apart))


def consistency(repeats: Sequence[Sequence[Label]], alike: Alike | None = None) -> float | None:
    """How often a judge says the same of a text again: the mean share of agreeing pairs; None without repeats.

    Args:
        repeats: For each text, what the judge said each time.
        alike: As in `agreement`.
    """
    shares = []
    same = alike or operator.eq
    for said in repeats:
        pairs = [same(a, b) for i, a in enumerate(said) for b in said[i + 1 :] if a is not None and b is not None]
        if pairs:
            shares.append(sum(pairs) / len(pairs))
    return sum(shares) / len(shares) if shares else None
