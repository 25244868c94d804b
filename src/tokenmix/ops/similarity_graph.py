"""Graphs of rows that are alike, by their features and by sets of codes: no matrix of all pairs is ever held."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenmix.ops.code_sets import CodeSets
from tokenmix.ops.graph import Graph
from tokenmix.ops.points import smallest
from tokenmix.ops.similarity_scores import BLOCK, ScoredRows, blocks, drawn_quantile, exact_quantile

Codes = CodeSets | Sequence[Collection[int]] | tuple[Tensor, Tensor]
_EXACT_ROWS = 20_000  # up to so many rows, the quantile is taken over every pair


@dataclass(frozen=True, eq=False)
class SimilarityRule:
    """When two rows are neighbours: what `fit` learnt from the training rows, and nothing else.

    S_ij = alpha cos(z_i, z_j) + (1 - alpha) |c_i & c_j| / |c_i | c_j|,   z = (x - mean) / std

    and an edge joins i and j where S_ij > threshold. The cosine with a row of zeros, and the overlap of two empty sets,
    are 0. S is computed in float64 and kept in float32, so that the way rows are cut into blocks does not show.

    Args:
        mean, std: (F,) float64 of the training rows; a feature that never changes has std 1.
        threshold: of the scores.
        alpha: share of the features, 0 to 1.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.1], [-1.0, 0.0], [0.0, 3.0]])
        >>> rule = SimilarityRule.fit(x, [{1, 2}, {1, 2}, {3}, set()], quantile=0.8)
        >>> graph, weights = rule.graph(x, [{1, 2}, {1, 2}, {3}, set()])
        >>> graph.edges().tolist()
        [[1, 0], [0, 1]]

    Source:
        The similarity of arXiv 2508.00615, from its abstract and its authors' notes: a reconstruction. There the graph
        is made over all rows, test rows included; here the training rows alone decide.
    """

    mean: Tensor
    std: Tensor
    threshold: float
    alpha: float = 0.7

    @classmethod
    def fit(
        cls,
        features: Tensor,
        codes: Codes | None = None,
        *,
        alpha: float = 0.7,
        quantile: float = 0.9,
        standardise: bool = True,
        exact: bool | None = None,
        seed: int = 0,
    ) -> SimilarityRule:
        """Learn scale and threshold from training rows.

        Args:
            features: (N, F), N >= 2.
            codes: sets of non-negative integers, or (indptr, indices) in compressed rows; not needed where alpha is 1.
            alpha: share of the features.
            quantile: of the scores of all pairs i < j, interpolated as numpy does; the share of pairs without an edge.
            standardise: whether to take the mean off and divide by the standard deviation.
            exact: take the quantile over every pair (two passes over N^2 / 2 scores, in O(N) memory), or over 4 million
                pairs that are drawn; None: exact up to 20,000 rows.
            seed: of the pairs that are drawn.

        Raises:
            ValueError, TypeError: another shape or type, fewer than two rows, numbers out of range or not finite.

        Example:
            >>> SimilarityRule.fit(torch.eye(3), alpha=1.0, standardise=False).threshold
            0.0
        """
        for name, value in (("alpha", alpha), ("quantile", quantile)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, found {value}")
        _check_features("features", features)
        x = features.double()
        if len(x) < 2:
            raise ValueError(f"features: expected at least two rows, found {len(x)}")
        if standardise:
            mean, std = x.mean(0), x.std(0, correction=0)
            std = torch.where(std > 0, std, 1.0)
        else:
            mean, std = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
        rule = cls(mean, std, 0.0, alpha)
        rows = rule._rows("", features, codes)
        if exact is None:
            exact = len(x) <= _EXACT_ROWS
        threshold = exact_quantile(rows, quantile) if exact else drawn_quantile(rows, quantile, seed)
        return cls(mean, std, threshold, alpha)

    def scores(
        self, features: Tensor, codes: Codes | None, other_features: Tensor, other_codes: Codes | None = None
    ) -> Tensor:
        """(N, M) float32: S of every row with every other one. For looking at; the graph is made without it.

        Example:
            >>> rule = SimilarityRule(torch.zeros(2), torch.ones(2), 0.5, alpha=1.0)
            >>> rule.scores(torch.tensor([[1.0, 0.0]]), None, torch.tensor([[0.0, 2.0], [3.0, 0.0]])).tolist()
            [[0.0, 1.0]]
        """
        rows, others = self._rows("", features, codes), self._rows("other_", other_features, other_codes)
        return rows.block(others, 0, len(rows), 0)

    def graph(self, features: Tensor, codes: Codes | None = None, *, most: int | None = None) -> tuple[Graph, Tensor]:
        """The graph of rows: symmetric, without self loops.

        Args:
            features: (N, F), in the training rows' units.
            codes: as in `fit`.
            most: join every row with so many that it is most like (the first of equal ones), whatever the threshold; it
                may have more edges, as others choose it. Default: the threshold decides.

        Returns:
            The graph and the score of each of its edges, (E,) float32 in the order of `graph.edges()`. Memory is O(E)
            and a block of scores; with a quantile q of the pairs, E is about (1 - q) N^2. Scores below 0 can occur with
            `most` or a low threshold; a model that wants weights of 0 or more takes `weights.clamp(min=0)`.

        Raises:
            ValueError, TypeError: another shape or type, numbers that are not finite.

        Example:
            >>> rule = SimilarityRule(torch.zeros(1), torch.ones(1), 0.5, alpha=1.0)
            >>> graph, weights = rule.graph(torch.tensor([[1.0], [2.0], [-1.0]]))
            >>> graph.edges().tolist(), weights.tolist()
            ([[1, 0], [0, 1]], [1.0, 1.0])
        """
        rows = self._rows("", features, codes)
        if most is None:
            pairs, weights = _above(rows, self.threshold)
        else:
            if isinstance(most, bool) or not isinstance(most, int) or most < 1:
                raise ValueError(f"most: expected a positive integer or None, found {most!r}")
            pairs, weights = _most_alike(rows, most)
        return _graph_of(pairs, weights, len(rows))

    def insert(
        self,
        graph: Graph,
        weights: Tensor,
        features: Tensor,
        codes: Codes | None,
        new_features: Tensor,
        new_codes: Codes | None = None,
    ) -> tuple[Graph, Tensor]:
        """Add rows to a graph made by the threshold: what making it anew would give, at the cost of the new rows.

        Args:
            graph, weights: of the rows that are there, N of them.
            features, codes: of those.
            new_features, new_codes: of the new rows, which become nodes N, N + 1, ...

        Example:
            >>> rule = SimilarityRule(torch.zeros(1), torch.ones(1), 0.5, alpha=1.0)
            >>> x = torch.tensor([[1.0], [-1.0]])
            >>> graph, weights = rule.insert(*rule.graph(x), x, None, torch.tensor([[5.0]]))
            >>> graph.edges().tolist()
            [[2, 0], [0, 2]]
        """
        rows, new = self._rows("", features, codes), self._rows("new_", new_features, new_codes)
        if graph.num_nodes != len(rows) or len(weights) != graph.num_edges:
            raise ValueError(
                f"graph, weights: expected {len(rows)} nodes and a weight an edge, found {graph.num_nodes} nodes, "
                f"{graph.num_edges} edges and {len(weights)} weights"
            )
        edges = graph.edges()
        once = edges[0] < edges[1]
        pairs, scores = [edges[:, once]], [weights[once]]
        for low, block in blocks(rows, new, half=False):
            found = (block > _down(self.threshold)).nonzero().T
            pairs.append(found + torch.tensor([[low], [len(rows)]]))
            scores.append(block[found[0], found[1]])
        among, among_scores = _above(new, self.threshold)
        return _graph_of(
            torch.cat([*pairs, among + len(rows)], 1), torch.cat([*scores, among_scores]), len(rows) + len(new)
        )

    def _rows(self, prefix: str, features: Tensor, codes: Codes | None) -> ScoredRows:
        _check_features(f"{prefix}features", features)
        if features.shape[1] != len(self.mean):
            raise ValueError(
                f"{prefix}features: expected shape (N, {len(self.mean)}) as the training rows, found "
                f"{tuple(features.shape)}"
            )
        if codes is None and self.alpha < 1:
            raise ValueError(f"{prefix}codes: expected sets of codes, as alpha is {self.alpha}, found None")
        sets = None if codes is None or self.alpha == 1 else CodeSets.of(codes, f"{prefix}codes")
        if sets is not None and len(sets) != len(features):
            raise ValueError(f"{prefix}codes: expected {len(features)} sets, one a row, found {len(sets)}")
        z = (features.double() - self.mean) / self.std
        length = z.norm(dim=1, keepdim=True)
        return ScoredRows(torch.where(length > 0, z / length, 0.0), sets, self.alpha)


def _above(rows: ScoredRows, threshold: float) -> tuple[Tensor, Tensor]:
    """Pairs i < j (2, n) above a threshold, and their scores."""
    pairs, scores = [torch.empty(2, 0, dtype=torch.int64)], [torch.empty(0)]
    for low, block in blocks(rows, rows, half=True):
        found = (block > _down(threshold)).triu_(1).nonzero().T
        pairs.append(found + low)
        scores.append(block[found[0], found[1]])
    return torch.cat(pairs, 1), torch.cat(scores)


def _down(threshold: float) -> float:
    """The float32 at or below a number: a float32 is above the one where it is above the other."""
    near = torch.tensor(threshold, dtype=torch.float64).float()
    return float(torch.nextafter(near, near.new_tensor(-torch.inf)) if float(near) > threshold else near)


def _most_alike(rows: ScoredRows, most: int) -> tuple[Tensor, Tensor]:
    """Pairs i < j of which one is among the `most` that the other is most like."""
    count, total = min(most, len(rows) - 1), len(rows)
    keys = [torch.empty(0, dtype=torch.int64)]
    for low, block in blocks(rows, rows, half=False):
        if count < 1:
            break
        block.diagonal(low).fill_(-torch.inf)
        j = smallest(block.neg_(), count)
        i = torch.arange(low, low + len(j))[:, None].expand_as(j)
        keys.append((torch.minimum(i, j) * total + torch.maximum(i, j)).flatten())
    key = torch.cat(keys).unique()
    i, j = key // max(total, 1), key % max(total, 1)
    step = max(1, BLOCK // max(1, rows.unit.shape[1]))
    scores = [rows.pairs(i[at : at + step], j[at : at + step]) for at in range(0, len(i), step)]
    return torch.stack([i, j]), torch.cat([torch.empty(0), *scores])


def _graph_of(pairs: Tensor, scores: Tensor, num_nodes: int) -> tuple[Graph, Tensor]:
    edges, weights = torch.cat([pairs, pairs.flip(0)], 1), torch.cat([scores, scores])
    order = (edges[1] * num_nodes + edges[0]).argsort()
    return Graph.from_edges(edges[:, order], num_nodes, coalesce=False), weights[order]


def _check_features(name: str, features: Tensor) -> None:
    if not isinstance(features, Tensor) or not features.is_floating_point():
        found = getattr(features, "dtype", type(features).__name__)
        raise TypeError(f"{name}: expected a floating point tensor, found {found}")
    if features.dim() != 2:
        raise ValueError(f"{name}: expected shape (N, F), found {tuple(features.shape)}")
    finite = features.isfinite()
    if not bool(finite.all()):
        row, feature = (int(place) for place in (~finite).nonzero()[0])
        found = float(features[row, feature])
        raise ValueError(f"{name}: expected finite numbers, found {found} as feature {feature} of row {row}")
