"""Block Transformers from other weights, and saved: the authors' checkpoints, vanilla models, folders, Auto classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_cases import KINDS, build
from tiny_models import ATTENTION, MAMBA, VOCABULARY, assert_close, randomize, tokens
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    pipeline,
)

from tokenmix.models import (
    BlockTransformerConfig,
    BlockTransformerForCausalLM,
    BlockTransformerModel,
    FITConfig,
    FITForCausalLM,
    MixerConfig,
    MixerForCausalLM,
    from_transformers,
    generate,
)

NEOX = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}


class Official(nn.Module):
    """The authors' model with its names: two GPT-NeoX of transformers, one block and one target block at a time."""

    def __init__(self, projection: bool) -> None:
        super().__init__()
        config = GPTNeoXConfig(**NEOX, num_hidden_layers=2, max_position_embeddings=64)
        embedder, block, token = nn.Module(), nn.Module(), nn.Module()
        embedder.embeddings = nn.Embedding(VOCABULARY, 32 if projection else 8)
        if projection:
            embedder.projection_layer = nn.Conv1d(32, 32, 4, stride=4)
        block.gpt_neox, token.gpt_neox = GPTNeoXModel(config), GPTNeoXModel(config)
        token.expansion_layer = nn.Conv1d(32, 64, 1)
        token.embed_out = nn.Linear(32, VOCABULARY, bias=False)
        self.embedder, self.block_decoder, self.token_decoder = embedder, block, token
        self.projection = projection

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """(B, N - 1, 4, vocabulary) logits of the blocks after the first of (B, N, 4) tokens."""
        x = self.embedder.embeddings(ids)  # (B, N, 4, 8 or 32)
        rows = ids.shape[0]
        if self.projection:
            x = self.embedder.projection_layer(x.flatten(1, 2).transpose(1, 2)).transpose(1, 2)
        else:
            x = x.flatten(2)
        slots = self.block_decoder.gpt_neox(inputs_embeds=x).last_hidden_state
        found = []
        for i in range(ids.shape[1] - 1):
            prefix = self.token_decoder.expansion_layer(slots[:, i, :, None])[..., 0].reshape(rows, 2, 32)
            own = self.token_decoder.gpt_neox.embed_in(ids[:, i + 1, :-1])
            hidden = self.token_decoder.gpt_neox(inputs_embeds=torch.cat([prefix, own], dim=1)).last_hidden_state
            found.append(self.token_decoder.embed_out(hidden[:, 1:]))
        return torch.stack(found, dim=1)


@pytest.mark.parametrize("projection", [False, True])
def test_equals_the_official_model(projection: bool) -> None:
    torch.manual_seed(0)
    official = randomize(Official(projection)).eval()
    weights = {name: value for name, value in official.state_dict().items() if "inv_freq" not in name}
    ours = BlockTransformerForCausalLM.from_official(weights, heads=2, eos_token_id=0)
    ids = tokens(2, 20)
    expected = official(ids.reshape(2, 5, 4)).flatten(1, 2)
    with torch.no_grad():
        assert_close(ours(ids, use_cache=False).logits[:, 3:-1], expected)
    assert ours.config.embedder == ("projection" if projection else "lookup")
    assert ours.config.num_block_layers == ours.config.num_token_layers == 2
    with pytest.raises(ValueError, match=r"weights: expected 'embedder.embeddings.weight'"):
        BlockTransformerForCausalLM.from_official({}, heads=2)
    with pytest.raises(ValueError, match=r"expected none but those of a Block Transformer, found \['extra'\]"):
        BlockTransformerForCausalLM.from_official({**weights, "extra": torch.zeros(1)}, heads=2)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("options", [{}, {"attention_bias": False, "partial_rotary_factor": 1.0}])
def test_gpt_neox_converts_exactly(parallel: bool, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    rope = {
        "rope_type": "default",
        "rope_theta": 500.0,
        "partial_rotary_factor": options.pop("partial_rotary_factor", 0.25),
    }
    config = GPTNeoXConfig(**NEOX, num_hidden_layers=3, use_parallel_residual=parallel, rope_parameters=rope, **options)
    theirs = randomize(GPTNeoXForCausalLM(config)).eval()
    ours, ids = from_transformers(theirs), tokens(2, 12)
    with torch.no_grad():
        assert_close(ours(ids).logits, theirs(ids).logits)
    assert torch.equal(
        generate(ours, ids, max_new_tokens=6),
        theirs.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0),
    )


def llama(layers: int = 4, **options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        **options,
    )
    model: LlamaForCausalLM = randomize(LlamaForCausalLM(config)).eval()
    return model


@pytest.mark.parametrize("kind", ["llama", "llama_tied", "neox", "mamba"])
def test_uptraining_starts_as_the_sheet_says(kind: str) -> None:
    """Written out with the vanilla model's own layers: mean, lower layers, new norm, copies, upper layers, its norm."""
    vanilla: Any
    if kind.startswith("llama"):
        vanilla = llama(tie_word_embeddings=kind == "llama_tied")
    elif kind == "neox":
        vanilla = randomize(GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX, num_hidden_layers=4))).eval()
    else:
        config = MixerConfig(
            vocab_size=VOCABULARY, hidden_size=32, mixers={"m": MAMBA}, num_hidden_layers=4, pattern="m"
        )
        vanilla = randomize(MixerForCausalLM(config)).eval()
    block = BlockTransformerForCausalLM.from_vanilla(vanilla, block_length=3)
    mixed = vanilla if isinstance(vanilla, MixerForCausalLM) else from_transformers(vanilla)
    table, layers, ids = mixed.model.embed_tokens, mixed.stack.layers, tokens(2, 9)
    with torch.no_grad():
        x = table(ids).reshape(2, 3, 3, 32).mean(2)
        for layer in layers[:2]:
            x = layer(x)
        x = type(mixed.stack.norm)(32, eps=mixed.config.norm_eps)(x)
        for i in (1, 2):
            y = torch.cat([x[:, i - 1 : i], x[:, i - 1 : i], table(ids[:, 3 * i : 3 * i + 2])], dim=1)
            for layer in layers[2:]:
                y = layer(y)
            expected = mixed.lm_head(mixed.stack.norm(y))[:, 1:]
            found = block(ids, use_cache=False).logits[:, 3 * i - 1 : 3 * i + 2]
            assert_close(found, expected)
    assert not block.training
    block.train()(ids, labels=ids).loss.backward()
    assert all(p.grad is None for p in vanilla.parameters())  # copies


@pytest.mark.parametrize(("method", "layers"), [("partition", (2, 3)), ("skip", (3, 3)), ("duplicate", (5, 5))])
def test_which_layers_go_where(method: str, layers: tuple[int, int]) -> None:
    vanilla = llama(5)
    block = BlockTransformerForCausalLM.from_vanilla(vanilla, method=method, max_position_embeddings=20)
    assert (block.config.num_block_layers, block.config.num_token_layers) == layers
    last = {"partition": (1, 4), "skip": (4, 4), "duplicate": (4, 4)}[method]
    for stack, i in zip((block.model.block_stack, block.model.token_decoder.stack), last, strict=True):
        assert torch.equal(stack.layers[-1].mixer.q_proj.weight, vanilla.model.layers[i].self_attn.q_proj.weight)
    assert block.config.max_position_embeddings == 20


def test_uptraining_refusals() -> None:
    with pytest.raises(ValueError, match=r"method: expected one of .*, found 'half'"):
        BlockTransformerForCausalLM.from_vanilla(llama(), method="half")
    with pytest.raises(ValueError, match="at least two layers for method='partition', found 1"):
        BlockTransformerForCausalLM.from_vanilla(llama(1))
    with pytest.raises(TypeError, match=r"model: expected one of .* found BlockTransformerForCausalLM"):
        BlockTransformerForCausalLM.from_vanilla(build())
    with pytest.raises(ValueError, match="options: expected embedder='projection', found 'lookup'"):
        BlockTransformerForCausalLM.from_vanilla(llama(), embedder="lookup")
    with pytest.raises(ValueError, match="options: expected token_decoder='prefix', found 'summation'"):
        BlockTransformerForCausalLM.from_vanilla(llama(), token_decoder="summation")
    with pytest.raises(ValueError, match="hidden_size: expected that of the vanilla model, 32, found 64"):
        BlockTransformerForCausalLM.from_vanilla(llama(), hidden_size=64)
    learned = MixerConfig(hidden_size=32, mixers={"a": ATTENTION}, position="learned", max_position_embeddings=9)
    with pytest.raises(ValueError, match="without learned positions, found position='learned'"):
        BlockTransformerForCausalLM.from_vanilla(MixerForCausalLM(learned))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    model, ids = build(kind), tokens(2, 9)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is BlockTransformerForCausalLM
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        base = AutoModel.from_pretrained(tmp_path)
        assert type(base) is BlockTransformerModel
        assert torch.equal(base(ids).last_hidden_state, model.model(ids).last_hidden_state)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert F.cosine_similarity(half(ids).logits.float().flatten(), model(ids).logits.flatten(), dim=0) > 0.99


def test_fields_set_after_the_configuration_are_checked(tmp_path: Path) -> None:
    """`from_pretrained(..., field=value)` sets fields of a finished configuration: none may let tokens read ahead."""
    group = {"mixer": "attention", "heads": 4, "group": 2}
    build("two_embeddings", block_mixers={"a": group}, num_block_layers=2).save_pretrained(tmp_path / "block")
    with pytest.raises(ValueError, match=r"block_mixers: expected causal mixers, found 'a': .* reads the future"):
        BlockTransformerForCausalLM.from_pretrained(tmp_path / "block", block_embeddings=1)
    with pytest.raises(ValueError, match="block_embeddings: expected a divisor of block_length=5, found 2"):
        BlockTransformerForCausalLM.from_pretrained(tmp_path / "block", block_length=5)
    plain = FITForCausalLM(FITConfig(hidden_size=16, latent_size=16, latents=2))
    plain.save_pretrained(tmp_path / "plain")
    other = FITForCausalLM.from_pretrained(tmp_path / "plain", latents=3, ignore_mismatched_sizes=True)
    assert other.model.stages[0].latent.mixers[0].step == 3  # not what the first configuration had
    fixed = FITConfig(hidden_size=16, latent_size=16, latents=2, latent_mixer={**group, "heads": 2})
    FITForCausalLM(fixed).save_pretrained(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"latent_mixer: expected group to be a divisor of latents=3, .* found 2"):
        FITForCausalLM.from_pretrained(tmp_path / "fit", latents=3)
    with pytest.raises(ValueError, match="local_mixer: expected a mixer that reads both ways with causal=False"):
        AutoModel.from_pretrained(tmp_path / "fit", causal=False)


def test_weights_that_a_checkpoint_lacks_are_drawn_as_published(tmp_path: Path) -> None:
    model = build("projection", hidden_size=64, expansion=4)
    weights = {
        name: value for name, value in model.state_dict().items() if "bridge" not in name and "projection" not in name
    }
    model.save_pretrained(tmp_path, state_dict=weights)
    loaded = BlockTransformerForCausalLM.from_pretrained(tmp_path)
    bridge, projection = loaded.model.token_decoder.bridge, loaded.model.blocks.gather.projection
    assert float(bridge.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.1)
    assert float(projection.weight.detach().std()) == pytest.approx((64 * 4) ** -0.5, rel=0.1)
    assert not bridge.bias.any()
    assert not projection.bias.any()
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_the_published_start() -> None:
    """`paper` draws every linear layer N(0, 0.02) with zero biases, but for the bridge."""
    model = BlockTransformerForCausalLM(BlockTransformerConfig.paper("5M", vocab_size=64))
    for name, parameter in model.named_parameters():
        if "norm" not in name and parameter.dim() == 2:
            expected = 256**-0.5 if "bridge" in name else 0.02
            assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.1), name
        elif name.endswith("bias"):
            assert not parameter.any(), name


def test_last_projections_start_smaller() -> None:
    """By the number of branches of the decoder, of which cross-attention is one a layer."""
    for options, token_branches in (({}, 6), ({"token_decoder": "cross_attention", "cross_heads": 4}, 9)):
        torch.manual_seed(0)
        sizes = {"hidden_size": 96, "num_block_layers": 2, "num_token_layers": 3, **options}
        plain, scaled = (
            BlockTransformerForCausalLM(BlockTransformerConfig(**sizes, rescale_residual=r)) for r in (0, 1)
        )
        for part, branches in ((plain.model.block_stack, 4), (plain.model.token_decoder, token_branches)):
            other = scaled.model.block_stack if branches == 4 else scaled.model.token_decoder
            for (name, parameter), (_, small) in zip(part.named_parameters(), other.named_parameters(), strict=True):
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    ratio = float(small.detach().std() / parameter.detach().std())
                    assert ratio == pytest.approx(branches**-0.5, rel=0.05), name


def test_adapters_train_the_block_decoder_under_reentrant_checkpointing() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build().train(), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    ids = tokens(2, 12)
    model(input_ids=ids, labels=ids).loss.backward()
    adapters = {name: p.grad for name, p in model.named_parameters() if "lora" in name}
    assert len(adapters) == 16
    assert [name for name, grad in adapters.items() if grad is None or not grad.any()] == []
    model.base_model.model.disable_input_require_grads()


def test_both_tables_grow_with_the_vocabulary() -> None:
    model, ids = build("pythia"), tokens(2, 9)
    before = model(ids, use_cache=False).logits
    model.resize_token_embeddings(VOCABULARY + 3)
    after = model(ids, use_cache=False).logits
    assert_close(after[..., :VOCABULARY], before)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    new = torch.full((1, 9), VOCABULARY + 2)
    assert model(new, labels=new).loss.isfinite()


def test_paper_sizes_on_the_meta_device() -> None:
    """Parameters but for embeddings are those of the table, within what its rounding hides."""
    for size, count in {"5M": 5e6, "19M": 19e6, "85M": 85e6, "302M": 302e6, "805M": 805e6, "1.2B": 1.2e9}.items():
        with torch.device("meta"):
            model = BlockTransformerForCausalLM(BlockTransformerConfig.paper(size))
        tables = {
            "model.blocks.gather.embed_tokens.weight",
            "model.blocks.scatter.embed_tokens.weight",
            "lm_head.weight",
        }
        found = sum(p.numel() for name, p in model.named_parameters() if name not in tables)
        bridge = sum(p.numel() for p in model.model.token_decoder.bridge.parameters())
        assert found - bridge == pytest.approx(count, rel=0.06), size
    with pytest.raises(ValueError, match=r"size: expected one of 5M, .*, found '7B'"):
        BlockTransformerConfig.paper("7B")


def test_trainer_and_pipeline(tmp_path: Path) -> None:
    model = BlockTransformerForCausalLM(build().config)
    rows = [{"input_ids": row, "labels": row} for row in tokens(4, 16).repeat(16, 1)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=8, per_device_train_batch_size=8, report_to="none", use_cpu=True, logging_steps=1,
        learning_rate=1e-2, save_steps=4,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    again = Trainer(model=BlockTransformerForCausalLM(model.config), args=arguments, train_dataset=rows)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for ours, resumed in zip(model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, resumed)
    evaluated = Trainer(model=model, args=arguments, eval_dataset=rows[:8]).evaluate()["eval_loss"]
    batch = torch.stack([row["input_ids"] for row in rows[:8]])
    with torch.no_grad():
        assert evaluated == pytest.approx(float(model.eval()(batch, labels=batch).loss), rel=1e-4)
    from tokenmix.data import byte_tokenizer

    tokenizer = byte_tokenizer()
    speaker = BlockTransformerForCausalLM(BlockTransformerConfig(vocab_size=len(tokenizer), hidden_size=64)).eval()
    written = pipeline("text-generation", model=speaker, tokenizer=tokenizer)("def ", max_new_tokens=5)
    assert written[0]["generated_text"].startswith("def ")
