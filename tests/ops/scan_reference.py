"""Naive float64 loops, one token at a time, written from the equations."""

import torch


def selective_scan_reference(x, dt, A, B, C, D=None, starts=None, mask=None, state=None):
    rows, length, channels = x.shape
    h = [torch.zeros(channels, A.shape[1], dtype=x.dtype) if state is None else state[b] for b in range(rows)]
    y = [[None] * length for _ in range(rows)]
    for b in range(rows):
        for t in range(length):
            if mask is not None and not mask[b, t]:
                y[b][t] = torch.zeros(channels, dtype=x.dtype)
                continue
            before = torch.zeros_like(h[b]) if starts is not None and starts[b, t] else h[b]
            h[b] = torch.exp(dt[b, t][:, None] * A) * before + torch.outer(dt[b, t] * x[b, t], B[b, t])
            y[b][t] = h[b] @ C[b, t]
            if D is not None:
                y[b][t] = y[b][t] + D * x[b, t]
    return torch.stack([torch.stack(row) for row in y]), torch.stack(h)


def chunked_scan_reference(v, log_decay, k, q, starts=None, mask=None, state=None):
    rows, length, heads, width = v.shape
    share = heads // k.shape[2]
    final = []
    y = [[[None] * heads for _ in range(length)] for _ in range(rows)]
    for b in range(rows):
        for h in range(heads):
            s = torch.zeros(width, k.shape[3], dtype=v.dtype) if state is None else state[b, h]
            for t in range(length):
                if mask is not None and not mask[b, t]:
                    y[b][t][h] = torch.zeros(width, dtype=v.dtype)
                    continue
                if starts is not None and starts[b, t]:
                    s = torch.zeros_like(s)
                decay = 1.0 if log_decay is None else torch.exp(log_decay[b, t, h])
                s = decay * s + torch.outer(v[b, t, h], k[b, t, h // share])
                y[b][t][h] = s @ q[b, t, h // share]
            final.append(s)
    final = torch.stack(final).view(rows, heads, width, -1)
    return torch.stack([torch.stack([torch.stack(token) for token in row]) for row in y]), final


def linear_attention_reference(q, k, v, causal, normalize, eps, segments, mask):
    rows, length, heads, width = v.shape
    y = torch.zeros_like(v)
    for b in range(rows):
        for h in range(heads):
            for t in range(length):
                if mask is not None and not mask[b, t]:
                    continue
                top, bottom = torch.zeros(width, dtype=v.dtype), torch.zeros((), dtype=v.dtype)
                for s in range(t + 1 if causal else length):
                    same = segments is None or segments[b, s] == segments[b, t]
                    if same and (mask is None or mask[b, s]):
                        weight = q[b, t, h] @ k[b, s, h]
                        top, bottom = top + weight * v[b, s, h], bottom + weight
                y[b, t, h] = top / (bottom + eps) if normalize else top
    return y


def depthwise_conv_reference(x, weight, bias=None, starts=None, state=None, causal=True):
    rows, length, channels = x.shape
    taps = weight.shape[-1]
    left = taps - 1 if causal else taps // 2
    y = []
    for b in range(rows):
        for t in range(length):
            w = weight if weight.dim() == 2 else weight[b, t]
            value = torch.zeros(channels, dtype=x.dtype) if bias is None else bias
            for j in range(taps):
                s = t + j - left
                between = range(min(s, t) + 1, max(s, t) + 1)  # a start here lies between token s and token t
                if starts is not None and any(starts[b, i] for i in between if 0 <= i < length):
                    continue
                if 0 <= s < length:
                    value = value + w[:, j] * x[b, s]
                elif s < 0 and state is not None:
                    value = value + w[:, j] * state[b, taps - 1 + s]
            y.append(value)
    return torch.stack(y).view(rows, length, channels)
