"""Causal attention with spans that are read whole."""

import pytest
import torch
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.mixers import Attention, SpanAttention
from tokenmix.mixers.span_attention import span_ends

DIM = 16


def mixer(**options: object) -> SpanAttention:
    torch.manual_seed(0)
    return SpanAttention(DIM, heads=4, rope=True, **options).double()  # type: ignore[arg-type]


def loop(kinds: list[int], spans: list[int], segments: list[int]) -> list[list[bool]]:
    """Which keys each query reads, by the definition."""
    length = len(kinds)
    found = [[False] * length for _ in range(length)]
    for i in range(length):
        end = i
        while kinds[i] in spans and end + 1 < length and (kinds[end + 1], segments[end + 1]) == (kinds[i], segments[i]):
            end += 1
        for j in range(length):
            found[i][j] = segments[i] == segments[j] and j <= end
    return found


@pytest.mark.parametrize("spans", [[1], [0, 2], [5]])
def test_reads_what_the_definition_says(spans: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(3, (4, 12), generator=generator)
    segments = torch.randint(2, (4, 12), generator=generator).cumsum(1)
    layout = Layout(modality=kinds, segments=segments)
    found = mixer(spans=spans).reach(layout, 12)
    for row in range(4):
        assert found[row].tolist() == loop(kinds[row].tolist(), spans, segments[row].tolist())


def test_equals_a_dense_mask() -> None:
    subject, layout = mixer(spans=[1]), Layout(modality=torch.tensor([[0, 1, 1, 1, 0, 2, 1, 1]]))
    x = torch.randn(1, 8, DIM, dtype=torch.float64)
    causal = Attention(DIM, heads=4, rope=True).double()
    causal.load_state_dict(subject.state_dict())
    q, k, v = (causal._split(p(x)).transpose(1, 2) for p in (causal.q_proj, causal.k_proj, causal.v_proj))
    from tokenmix.mixers.rotary import turn

    table = causal._rotary_table(q, layout, None)
    scores = turn(q, table) @ turn(k, table).transpose(-1, -2) / 2
    weights = scores.masked_fill(~subject.reach(layout, 8)[:, None], -torch.inf).softmax(-1)
    expected = causal.o_proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(subject(x, layout), expected, rtol=0, atol=1e-12)
    text = Layout(modality=torch.zeros(1, 8, dtype=torch.int64))
    torch.testing.assert_close(subject(x, text), causal(x, text), rtol=0, atol=1e-12)


def test_padding_ends_a_span() -> None:
    kinds = torch.tensor([[1, 1, 1, 1]])
    layout = Layout(modality=kinds, mask=torch.tensor([[True, True, False, False]]))
    assert span_ends(kinds, [1], layout)[0, :2].tolist() == [2, 2]


def stream(subject: SpanAttention, x: Tensor, kinds: Tensor, cuts: list[int]) -> Tensor:
    state, parts = subject.init_state(len(x)), []
    for low, high in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        parts.append(subject(x[:, low:high], Layout(modality=kinds[:, low:high]), state))
    return torch.cat(parts, 1)


def test_chunks_of_whole_spans_equal_one_call() -> None:
    subject, kinds = mixer(spans=[1]), torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0, 1, 1]])
    x = torch.randn(2, 8, DIM, dtype=torch.float64)
    whole = subject(x, Layout(modality=kinds))
    for cuts in ([5], [2, 5, 6], [1, 2, 5]):
        torch.testing.assert_close(stream(subject, x, kinds, cuts), whole, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="goes on with the span of modality 1"):
        stream(subject, x, kinds, [3])
    with pytest.raises(ValueError, match="goes on with the span of modality 1"):
        stream(subject, x, kinds, [7])


def test_rows_of_other_lengths_stream_too() -> None:
    subject, kinds = mixer(spans=[1]), torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1]])
    x = torch.randn(2, 4, DIM, dtype=torch.float64)
    more, kinds_more = torch.randn(2, 2, DIM, dtype=torch.float64), torch.tensor([[0, 0], [0, 1]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])  # the second row's picture is padding
    state = subject.init_state(2)
    subject(x, Layout(modality=kinds, mask=mask), state)
    found = subject(more, Layout(modality=kinds_more), state)
    for row, length in ((0, 4), (1, 2)):
        joined = torch.cat([x[row : row + 1, :length], more[row : row + 1]], 1)
        ids = torch.cat([kinds[row : row + 1, :length], kinds_more[row : row + 1]], 1)
        torch.testing.assert_close(found[row], subject(joined, Layout(modality=ids))[0, length:], rtol=0, atol=1e-12)


def test_refuses_what_does_not_fit() -> None:
    for spans in ([], [-1], [True], ["image"]):
        with pytest.raises(ValueError, match="spans: expected numbers of modalities"):
            SpanAttention(DIM, heads=4, spans=spans)
    with pytest.raises(ValueError, match="layout: SpanAttention needs modality"):
        mixer()(torch.zeros(1, 3, DIM, dtype=torch.float64))
