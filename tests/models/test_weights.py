"""Where weights come from and go to: initialisation, saving, resizing, gradients, precision."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers.modeling_utils
from tiny_models import STACKS, VOCABULARY, assert_close, build, tokens
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tokenmix.mixer
from fork_server import ForkServer
from tokenmix import Layout, MixerState, TokenMixer, register_mixer
from tokenmix.mixer import build_mixer
from tokenmix.models import MixerCache, MixerConfig, MixerForCausalLM

# ---------------------------------------------------------------------- initialisation


@pytest.fixture
def scaled_mixer() -> Iterator[None]:
    """A mixer of a user, who knows nothing of transformers' marks on loaded parameters."""

    @register_mixer("scaled_test")
    class Scaled(TokenMixer):
        causal = "always"

        def __init__(self, dim: int) -> None:
            super().__init__(dim)
            self.scale = nn.Parameter(torch.empty(dim))
            self.shift = nn.Parameter(torch.empty(dim))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            self.scale.data.fill_(3)
            self.shift.data.fill_(4)

        def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
            return x * self.scale + self.shift

    yield
    tokenmix.mixer._REGISTRY.pop("scaled_test")


@pytest.mark.parametrize("name", STACKS)
def test_missing_weights_are_drawn_as_published(name: str, tmp_path: Path) -> None:
    """A checkpoint without the stack: built on the meta device, every value must still come from somewhere."""
    build(name).save_pretrained(tmp_path, state_dict={"lm_head.weight": torch.ones(VOCABULARY, 32)})
    torch.manual_seed(0)
    model = MixerForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.lm_head.weight, torch.ones(VOCABULARY, 32))
    torch.manual_seed(1)
    fresh = MixerForCausalLM(model.config)
    for (key, found), expected in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert found.isfinite().all(), key
        if key != "lm_head.weight" and expected.numel() > 1:  # few numbers vary more
            assert abs(found.std() - expected.std()) <= (0.4 + 1.5 * expected.numel() ** -0.5) * expected.std(), key
    assert model(tokens(1, 5)).logits.isfinite().all()


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_step_sizes_at_the_start(name: str, tmp_path: Path) -> None:
    mixers, pattern = STACKS[name]
    fresh = MixerForCausalLM(MixerConfig(hidden_size=32, mixers=mixers, pattern=pattern, vocab_size=VOCABULARY))
    loaded = {"model.stack.layers.0.mixer.A_log": torch.full_like(fresh.stack.layers[0].mixer.A_log, 0.5)}
    fresh.save_pretrained(tmp_path, state_dict=loaded)
    for model in (fresh, MixerForCausalLM.from_pretrained(tmp_path)):
        for mixer in model.stack.mixers:
            steps = F.softplus(mixer.dt_proj.bias if name == "mamba" else mixer.dt_bias)
            assert steps.min() >= 1e-3 * 0.999
            assert steps.max() <= 0.1 * 1.001
            assert torch.equal(mixer.D, torch.ones_like(mixer.D))
        if name == "mamba":
            expected = torch.arange(1.0, 5.0).log().expand(64, 4)
            assert_close(model.stack.mixers[1].A_log, expected, 1e-6)
    assert torch.equal(model.stack.mixers[0].A_log, torch.full_like(mixer.A_log, 0.5))


def test_initial_scale() -> None:
    torch.manual_seed(0)
    mixers = {"a": {"mixer": "attention", "heads": 4}}
    model = MixerForCausalLM(MixerConfig(hidden_size=128, mixers=mixers, pattern="aa", initializer_range=0.01))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.01, rel=0.03)
    block = model.stack.layers[1]
    assert block.feed_forward.up_proj.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert block.mixer.q_proj.weight.std().item() == pytest.approx((3 * 128) ** -0.5, rel=0.03)  # torch's own rule
    assert torch.equal(block.mixer_norm.weight, torch.ones(128))


@pytest.mark.parametrize("name", list(STACKS))
def test_mixers_start_in_a_model_as_they_do_alone(name: str) -> None:
    """Whatever the model's own range: the spread of every parameter is that of `build_mixer`."""
    torch.manual_seed(0)
    mixers, pattern = STACKS[name]
    sizes = {"hidden_size": 128, "vocab_size": VOCABULARY, "initializer_range": 1e-3, "rescale_residual": False}
    config = MixerConfig(mixers=mixers, pattern=pattern, **sizes)
    model = MixerForCausalLM(config)
    for letter, mixer in zip(model.stack.letters, model.stack.mixers, strict=True):
        for key, expected in build_mixer(mixers[letter], 128).named_parameters():
            found = mixer.get_parameter(key)
            assert abs(found.std(correction=0) - expected.std(correction=0)) <= 0.5 * expected.std(correction=0), key


@pytest.mark.parametrize(("feed_forward", "branches"), [("swiglu", 8), (None, 4)])
def test_last_projections_of_branches_start_smaller(feed_forward: str | None, branches: int) -> None:
    """Divided by the square root of the number of branches: GPT-2's 2 L with, mamba_ssm's L without feed-forwards."""
    mixers = {"m": {"mixer": "mamba2", "state_size": 8, "head_dim": 16}, "a": {"mixer": "attention", "heads": 4}}
    spread = {}
    for rescale in (True, False):
        torch.manual_seed(0)
        config = MixerConfig(
            hidden_size=64, mixers=mixers, pattern="mama", feed_forward=feed_forward, rescale_residual=rescale
        )
        block = MixerForCausalLM(config).stack.layers
        spread[rescale] = [block[0].mixer.out_proj.weight.std().item(), block[1].mixer.o_proj.weight.std().item()]
        if feed_forward is not None:
            spread[rescale].append(block[1].feed_forward.down_proj.weight.std().item())
        assert block[1].mixer.q_proj.weight.std().item() == pytest.approx((3 * 64) ** -0.5, rel=0.1)
    for smaller, plain in zip(spread[True], spread[False], strict=True):
        assert smaller == pytest.approx(plain / branches**0.5, rel=1e-5)


def test_mixers_of_users_keep_what_was_loaded(scaled_mixer: None, tmp_path: Path) -> None:
    config = MixerConfig(hidden_size=8, mixers={"s": {"mixer": "scaled_test"}}, pattern="ss", vocab_size=11)
    key = "model.stack.layers.1.mixer.scale"
    MixerForCausalLM(config).save_pretrained(tmp_path, state_dict={key: torch.full((8,), 7.0)})
    mixers = MixerForCausalLM.from_pretrained(tmp_path).stack.mixers
    assert [(m.scale[0].item(), m.shift[0].item()) for m in mixers] == [(3.0, 4.0), (7.0, 4.0)]


# ---------------------------------------------------------------------- saving, resizing, precision

SCRIPT = """
import sys, torch, tokenmix
from transformers import AutoModelForCausalLM
folders = sys.argv[1:]
try:
    AutoModelForCausalLM.from_pretrained(folders[0])
    sys.exit("loaded without tokenmix.models")
except ValueError as error:
    assert "tokenmix" in str(error), error
import tokenmix.models
for folder in folders:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    saved = torch.load(f"{folder}/sample.pt", weights_only=True)
    found = model(saved["ids"]).logits
    assert torch.equal(found, saved["logits"]), (folder, (found - saved["logits"]).abs().max())
"""


def test_saved_models_load_bit_equal_in_a_fresh_process(processes: ForkServer, tmp_path: Path) -> None:
    ids, folders = tokens(2, 9), []
    for i, name in enumerate(STACKS):
        model = build(name, tie_word_embeddings=i % 2 == 0, dropout=0.1)
        model.save_pretrained(tmp_path / name)
        torch.save({"ids": ids, "logits": model(ids).logits}, tmp_path / name / "sample.pt")
        folders.append(str(tmp_path / name))
    ran = processes.run(["-c", SCRIPT, *folders])
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.parametrize("tied", [True, False])
def test_resize(tied: bool, tmp_path: Path) -> None:
    model, ids = build("hybrid", tie_word_embeddings=tied), tokens(1, 6)
    with torch.no_grad():
        before = model(ids).logits
    model.resize_token_embeddings(VOCABULARY + 3)
    assert model.config.vocab_size == VOCABULARY + 3
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert_close(model(ids).logits[..., :VOCABULARY], before, 1e-6)
    model(ids, labels=ids + 3).loss.backward()
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # the name that users know is deprecated
@pytest.mark.parametrize("name", STACKS)
def test_gradient_checkpointing_changes_no_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = transformers.modeling_utils.checkpoint
    monkeypatch.setattr(transformers.modeling_utils, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    model, ids = build(name, dropout=0.2).train(), tokens(2, 7)
    gradients = []
    for switch in (None, model.gradient_checkpointing_enable, model.gradient_checkpointing_disable):
        if switch is not None:
            switch()
        model.zero_grad()
        torch.manual_seed(5)
        model(ids, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert len(calls) == len(model.stack.layers)
    for plain, checkpointed, again in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)
        assert torch.equal(plain, again)


@pytest.mark.parametrize("name", STACKS)
def test_bfloat16(name: str, tmp_path: Path) -> None:
    build(name).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    kept = {key.rsplit(".", 1)[1] for key, value in model.named_parameters() if value.dtype == torch.float32}
    assert kept == {"mamba": {"A_log", "D"}}.get(name, {"A_log", "D", "dt_bias"} if "A_log" in kept else set())
    ids = tokens(2, 8)
    found, expected = model(ids).logits, build(name)(ids).logits
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().mean() < 0.1 * expected.std()
    cache = MixerCache()
    steps = torch.cat([model(part, past_key_values=cache).logits for part in ids.split(3, dim=1)], dim=1)
    assert (steps - expected).abs().mean() < 0.1 * expected.std()
    model(ids, labels=ids).loss.backward()
