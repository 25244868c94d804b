"""Mamba, Mamba-2 and linear attention: the sheets' equations step by step, names, and initialisation."""

import pytest
import torch
import torch.nn.functional as F

from tokenmix.mixers import LinearAttention, Mamba, Mamba2


def shift_conv(x, weight, bias):
    kernel = weight.shape[-1]
    padded = F.pad(x, (0, 0, kernel - 1, 0))
    return sum(padded[:, i : i + x.shape[1]] * weight[:, 0, i] for i in range(kernel)) + bias


def test_mamba_equals_its_equations():
    torch.manual_seed(0)
    mixer = Mamba(16, state_size=4).double()
    u = torch.randn(2, 9, 16, dtype=torch.float64)
    x, z = mixer.in_proj(u).chunk(2, -1)
    x = F.silu(shift_conv(x, mixer.conv1d.weight, mixer.conv1d.bias))
    low_rank, b, c = mixer.x_proj(x).split([1, 4, 4], -1)
    dt = F.softplus(F.linear(low_rank, mixer.dt_proj.weight) + mixer.dt_proj.bias)
    a = -mixer.A_log.exp()
    h, ys = torch.zeros(2, 32, 4, dtype=torch.float64), []
    for t in range(9):
        h = (dt[:, t, :, None] * a).exp() * h + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]
        ys.append((h * c[:, t, None]).sum(-1) + mixer.D * x[:, t])
    expected = mixer.out_proj(torch.stack(ys, 1) * F.silu(z))
    assert torch.allclose(mixer(u), expected, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("before_gate", [False, True])
def test_mamba2_equals_its_equations(groups, before_gate):
    torch.manual_seed(0)
    mixer = Mamba2(16, state_size=4, head_dim=8, groups=groups, chunk=4, norm_before_gate=before_gate).double()
    with torch.no_grad():
        mixer.norm.weight.normal_()
        mixer.D.normal_()
    u = torch.randn(2, 9, 16, dtype=torch.float64)
    z, xbc, dt = mixer.in_proj(u).split([32, 32 + 2 * groups * 4, 4], -1)
    xbc = F.silu(shift_conv(xbc, mixer.conv1d.weight, mixer.conv1d.bias))
    x, b, c = xbc.split([32, groups * 4, groups * 4], -1)
    x = x.unflatten(-1, (4, 8))
    b, c = (t.unflatten(-1, (groups, 4)).repeat_interleave(4 // groups, 2) for t in (b, c))
    dt = F.softplus(dt + mixer.dt_bias)
    a = -mixer.A_log.exp()
    state, ys = torch.zeros(2, 4, 8, 4, dtype=torch.float64), []
    for t in range(9):
        decay = (dt[:, t] * a).exp()[..., None, None]
        state = decay * state + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]
        ys.append((state * c[:, t, :, None]).sum(-1) + mixer.D[:, None] * x[:, t])
    y = torch.stack(ys, 1).flatten(2)

    def norm(value):
        grouped = value.unflatten(-1, (groups, -1))
        return (grouped / (grouped.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(2) * mixer.norm.weight

    y = norm(y) * F.silu(z) if before_gate else norm(y * F.silu(z))
    assert torch.allclose(mixer(u), mixer.out_proj(y), atol=1e-10)


def test_linear_attention_equals_its_equations():
    torch.manual_seed(0)
    mixer = LinearAttention(16, heads=2).double()
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    q, k, v = (p(x)[0].unflatten(-1, (2, 8)) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    q, k = F.elu(q) + 1, F.elu(k) + 1
    rows = []
    for t in range(9):
        weights = torch.einsum("hd,shd->hs", q[t], k[: t + 1])
        rows.append(torch.einsum("hs,shd->hd", weights / weights.sum(-1, keepdim=True), v[: t + 1]).flatten())
    assert torch.allclose(mixer(x)[0], mixer.o_proj(torch.stack(rows)), atol=1e-10)


def test_published_parameter_names_and_shapes():
    names = {name: tuple(p.shape) for name, p in Mamba(64).named_parameters()}
    assert names == {
        "A_log": (128, 16),
        "D": (128,),
        "in_proj.weight": (256, 64),
        "conv1d.weight": (128, 1, 4),
        "conv1d.bias": (128,),
        "x_proj.weight": (4 + 32, 128),
        "dt_proj.weight": (128, 4),
        "dt_proj.bias": (128,),
        "out_proj.weight": (64, 128),
    }
    names = {name: tuple(p.shape) for name, p in Mamba2(64, state_size=32, head_dim=16, groups=2).named_parameters()}
    assert names == {
        "dt_bias": (8,),
        "A_log": (8,),
        "D": (8,),
        "in_proj.weight": (2 * 128 + 2 * 2 * 32 + 8, 64),
        "conv1d.weight": (128 + 2 * 2 * 32, 1, 4),
        "conv1d.bias": (128 + 2 * 2 * 32,),
        "norm.weight": (128,),
        "out_proj.weight": (64, 128),
    }


@torch.no_grad()
def test_initialisation_as_published():
    torch.manual_seed(0)
    mamba, mamba2 = Mamba(256), Mamba2(512, head_dim=8)
    dt = F.softplus(torch.cat([mamba.dt_proj.bias, mamba2.dt_bias]))
    assert dt.min() >= 1e-3 * 0.999
    assert dt.max() <= 0.1 * 1.001
    assert dt.log().std() == pytest.approx((4.605 / 12**0.5), rel=0.1)  # log-uniform over two decades
    assert torch.allclose(mamba.A_log.exp(), torch.arange(1.0, 17).expand(512, -1), atol=1e-4)
    assert mamba2.A_log.exp().min() >= 1
    assert mamba2.A_log.exp().max() <= 16
    assert mamba2.A_log.exp().std() == pytest.approx(15 / 12**0.5, rel=0.2)
    assert (mamba.D == 1).all()
    assert (mamba2.D == 1).all()
    assert mamba.dt_proj.weight.abs().max() <= 16**-0.5


@pytest.mark.parametrize(("limit", "bias"), [((0.0, 0.01), 5.0), ((0.5, float("inf")), -20.0)])
def test_dt_limit_is_the_step_where_it_binds(limit, bias):
    """With a step that lies outside everywhere, the mixer equals one whose step is the bound itself."""
    torch.manual_seed(0)
    bounded, exact = Mamba2(16, state_size=4, head_dim=8, dt_limit=limit), Mamba2(16, state_size=4, head_dim=8)
    bound = torch.tensor(limit[1] if bias > 0 else limit[0])
    with torch.no_grad():
        bounded.in_proj.weight[-4:] = 0
        exact.load_state_dict(bounded.state_dict())
        bounded.dt_bias.fill_(bias)
        exact.dt_bias.fill_(float(torch.log(torch.expm1(bound))))
    x = torch.randn(1, 5, 16)
    assert torch.allclose(bounded(x), exact(x), atol=1e-6)


@torch.no_grad()
def test_step_sizes_start_above_the_floor():
    torch.manual_seed(0)
    mixer = Mamba2(64, head_dim=8, dt_min=1e-6, dt_max=1e-3, dt_floor=1e-4)
    steps = F.softplus(mixer.dt_bias)
    assert steps.min() == pytest.approx(1e-4, rel=1e-2)
    assert (steps <= 1.01e-4).sum() > 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mamba(16, state_size=0), "state_size: expected a positive integer, found 0"),
        (lambda: Mamba(16, dt_rank=0), "dt_rank: expected a positive integer, found 0"),
        (lambda: Mamba2(16, head_dim=5), r"head_dim: expected a divisor of expand \* dim=32, found 5"),
        (lambda: Mamba(16, dt_min=0.2, dt_max=0.1), "dt_min: expected 0 < dt_min <= dt_max"),
        (lambda: Mamba2(16, head_dim=8, dt_limit=(0.1, 0.0)), "dt_limit: expected two rising bounds"),
        (lambda: Mamba2(16, head_dim=8, groups=3), "groups: expected a divisor of heads=4, found 3"),
        (lambda: LinearAttention(16, heads=3), "heads: expected a divisor of dim=16, found 3"),
        (lambda: LinearAttention(16, heads=2, feature_map="exp"), "feature_map: expected one of .*, found 'exp'"),
        (lambda: LinearAttention(16, heads=2, causal=False).init_state(1), "not causal here, so it has no state"),
    ],
)
def test_mistakes_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
