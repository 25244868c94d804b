"""From CTC logits to symbols, a piece at a time, as of the whole: the best path, and prefix beam search."""

from __future__ import annotations

import heapq
import math

from torch import Tensor

from tokenmix.mixer import check_positive

_NEVER = -math.inf
_WORD = 8  # bytes of a score, and of a symbol


class GreedyCTC:
    """The likeliest symbol of each token, repeated ones as one, without blanks.

        best_t = argmax logits_t,   symbol best_t is written where best_t != best_(t - 1) and best_t != blank

    A symbol is certain as soon as its first token is.

    Args:
        blank: the symbol of no label.

    Example:
        >>> import torch
        >>> decoder, sure = GreedyCTC(blank=0), 9 * torch.eye(3)
        >>> decoder.read(sure[[1, 1]]), decoder.read(sure[[1, 0, 1, 2]]), decoder.finish()
        ([1], [1, 2], [])

    Source:
        Graves et al. 2006, "Connectionist Temporal Classification", section 3.2 (best path).
    """

    nbytes = _WORD

    def __init__(self, blank: int) -> None:
        self.blank = self._last = blank

    def read(self, logits: Tensor) -> list[int]:
        """Symbols that (T, vocab_size) logits make certain."""
        symbols = []
        for symbol in logits.argmax(-1).tolist():
            if symbol not in (self._last, self.blank):
                symbols.append(symbol)
            self._last = symbol
        return symbols

    def finish(self) -> list[int]:
        """Symbols that the end makes certain: none."""
        self._last = self.blank
        return []


class BeamCTC:
    """Prefix beam search: the likeliest labelling, each summed over the alignments that were kept.

        P(prefix, t) = P_blank + P_symbol: alignments of the first t tokens that collapse to the prefix and end so
        P_blank(y, t) = P(y, t - 1) p_t(blank)
        P_symbol(y + s, t) = p_t(s) (P_symbol(y + s, t - 1) + P(y, t - 1), or P_blank(y, t - 1) where y ends with s)

    After each token the `beams` likeliest prefixes are kept. What all of them begin with is certain, since every later
    prefix grows from one of them; it is given out and forgotten. Where prefixes differ for so long that one of them has
    more than `undecided` symbols that are not certain, the likeliest decides the first of these, and those that begin
    otherwise are dropped. All of this happens token by token, so a stream gives what the whole does, in a memory of at
    most beams * (undecided + 3) numbers.

    Args:
        blank: the symbol of no label.
        beams: prefixes kept. With as many as there are labellings the search is exact, up to `undecided` tokens.
        undecided: symbols of a prefix that may wait for others to decide.

    Raises:
        ValueError, TypeError: beams or undecided that are no positive integer.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()  # two blanks: 0.36; "a": 0.24 + 0.24 + 0.16
        >>> decoder = BeamCTC(blank=0, beams=2)
        >>> decoder.read(logits), round(math.exp(decoder.score), 2), decoder.finish()
        ([], 0.64, [1])

    Source:
        Graves 2012, arXiv 1211.3711, section 2.5, for the search; the recursion is that of CTC, Graves et al. 2006.
    """

    def __init__(self, blank: int, beams: int, undecided: int = 32) -> None:
        check_positive("beams", beams)
        check_positive("undecided", undecided)
        self.blank, self.beams, self.undecided = blank, beams, undecided
        self._begin()

    @property
    def nbytes(self) -> int:
        """Bytes of the scores and of the symbols that are not certain yet."""
        return sum(2 * _WORD + _WORD * len(prefix) for prefix in self._live)

    @property
    def score(self) -> float:
        """Log-probability of the best labelling of what was read, over the alignments that were kept."""
        return max(_add(*scores) for scores in self._live.values())

    def read(self, logits: Tensor) -> list[int]:
        """Symbols that (T, vocab_size) logits make certain."""
        symbols: list[int] = []
        for row in logits.double().log_softmax(-1).tolist():
            self._step(row)
            symbols += self._take_certain() + self._decide()
        return symbols

    def finish(self) -> list[int]:
        """Symbols of the best labelling that were not certain before the end."""
        best = next(iter(self._live))
        self._begin()
        return list(best[1:])

    def _begin(self) -> None:
        """One prefix, which is empty. The first of its symbols is the last certain one, at first the blank."""
        self._live: dict[tuple[int, ...], tuple[float, float]] = {(self.blank,): (0.0, _NEVER)}

    def _step(self, row: list[float]) -> None:
        """Advance all prefixes by one token of log-probabilities, and keep the best, the likeliest first."""
        grown: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, symbol) in self._live.items():
            total, last = _add(blank, symbol), prefix[-1]
            stay = grown.setdefault(prefix, [_NEVER, _NEVER])
            stay[0] = total + row[self.blank]
            for number, score in enumerate(row):
                if number == self.blank:
                    continue
                if number == last:
                    stay[1] = _add(stay[1], symbol + score)
                longer = grown.setdefault((*prefix, number), [_NEVER, _NEVER])
                longer[1] = _add(longer[1], (blank if number == last else total) + score)
        ranked = heapq.nsmallest(self.beams, grown.items(), key=lambda item: (-_add(*item[1]), item[0]))
        self._live = {prefix: (scores[0], scores[1]) for prefix, scores in ranked}

    def _take_certain(self) -> list[int]:
        """Symbols that all prefixes begin with, all but the last of which they then forget."""
        first, last = min(self._live), max(self._live)  # in order, so what these two share, all do
        shared = 1
        while shared < min(len(first), len(last)) and first[shared] == last[shared]:
            shared += 1
        if shared > 1:
            self._live = {prefix[shared - 1 :]: scores for prefix, scores in self._live.items()}
        return list(first[1:shared])

    def _decide(self) -> list[int]:
        """Symbols that the likeliest prefix decides, so that none waits for too long."""
        symbols, longest = [], self.undecided + 1
        while max(map(len, self._live)) > longest:
            best = next(iter(self._live))
            if len(best) == 1:
                self._live = {prefix: scores for prefix, scores in self._live.items() if len(prefix) <= longest}
                continue
            symbols.append(best[1])
            self._live = {prefix[1:]: scores for prefix, scores in self._live.items() if prefix[:2] == best[:2]}
        return symbols


def build_decoder(blank: int, beams: int) -> GreedyCTC | BeamCTC:
    """Greedy for one beam, and else prefix beam search.

    Example:
        >>> build_decoder(blank=0, beams=4).beams
        4
    """
    check_positive("beams", beams)
    return GreedyCTC(blank) if beams == 1 else BeamCTC(blank, beams)


def _add(a: float, b: float) -> float:
    """The logarithm of exp a + exp b."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
