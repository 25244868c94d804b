"""Transformers' own tests of models, configurations and training, run on ours (`make test-hf`)."""

from __future__ import annotations

import unittest
from typing import Any

import pytest
import torch
from generation import NEW, TOLERANCE, GenerationConformance
from testers import BlockTester, FITTester, MixtureTester, SwappedTester, Tester
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from tests.test_training_mixin import TrainingTesterMixin
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)

from tokenmix.hf.classes import swapped_model_class
from tokenmix.models import (
    BlockTransformerForCausalLM,
    BlockTransformerModel,
    FITForCausalLM,
    FITModel,
    MixerForCausalLM,
    MixerForMaskedLM,
    MixerForQuestionAnswering,
    MixerForSequenceClassification,
    MixerForTokenClassification,
    MixerModel,
    MixtureOfTransformersForCausalLM,
    MixtureOfTransformersModel,
)

HEADS = (MixerForSequenceClassification, MixerForTokenClassification, MixerForQuestionAnswering)


class Ours(ModelTesterMixin):
    """What all native models have in common."""

    # without it their test of initialisation is skipped for files that do not begin with a copyright of 2023 or later
    test_can_init_all_missing_weights_before_2023 = True
    has_attentions = False  # mixers return no weights of attention
    model_tester = None

    def setUp(self) -> None:
        self.model_tester = self.make_tester()
        self.model_tester.causal_lm_class = self.generator
        config_class = type(self.model_tester.get_config())
        self.config_tester = ConfigTester(self, config_class=config_class, common_properties=["hidden_size"])

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


class Native(Ours):
    """A pattern of mixers."""

    all_model_classes = (MixerModel, MixerForCausalLM, *HEADS)
    generator = MixerForCausalLM
    pattern = ""

    def make_tester(self) -> Tester:
        return Tester(self, self.pattern)


class AttentionTest(Native, GenerationConformance, TrainingTesterMixin, unittest.TestCase):
    pattern = "attention"


class RecurrentTest(Native, GenerationConformance, TrainingTesterMixin, unittest.TestCase):
    pattern = "recurrent"


class HybridTest(Native, GenerationConformance, TrainingTesterMixin, unittest.TestCase):
    pattern = "hybrid"


class WindowsTest(Native, GenerationConformance, TrainingTesterMixin, unittest.TestCase):
    pattern = "windows"


class WrittenTest(Native, GenerationConformance, TrainingTesterMixin, unittest.TestCase):
    pattern = "written"


class BothWaysTest(Native, unittest.TestCase):
    """Mixers that read the future, with every head but the language model; their test of training generates."""

    pattern = "both_ways"
    all_model_classes = (MixerModel, MixerForMaskedLM, *HEADS)

    def test_bc_cache_name_forward(self) -> None:
        """Theirs asks for a cache, which such a model refuses instead of leaving it away."""
        model = MixerModel(self.model_tester.get_config())
        with pytest.raises(ValueError, match="use_cache: expected none, found one for mixer"):
            model(torch.tensor([[3, 4]]), use_cache=True)


class WithoutHiddenStates:
    """In place of their tests of hidden states, for models whose layers read other numbers of places and widths."""

    def test_generate_output(self) -> None:
        model, prompt = self.make(), self.tokens()
        output = self.generate(model, prompt, output_scores=True)
        assert tuple(output.sequences.shape) == (2, prompt.shape[1] + NEW)
        assert [len(part) for part in (output.logits, output.scores)] == [NEW] * 2
        assert self.cache_of(output).get_seq_length() == prompt.shape[1] + NEW - 1

    def _refuses_hidden_states(self) -> None:
        """The two decoders have other numbers of places and widths: there are no states of a token in every layer."""
        for model_class in self.all_model_classes:
            with pytest.raises(TypeError, match="output_hidden_states: not an argument"):
                model_class(self.model_tester.get_config())(self.tokens(), output_hidden_states=True)

    def test_model_outputs_equivalence(self) -> None:
        """As theirs, without hidden states: a tuple holds what the output holds."""
        for model_class in self.all_model_classes:
            model, rows = model_class(self.model_tester.get_config()).eval(), self.tokens()
            for options in ({}, {"use_cache": False}):
                named, plain = model(rows, **options), model(rows, **options, return_dict=False)
                assert isinstance(plain, tuple)
                assert len(plain) == len([value for value in named.values() if value is not None])
                assert torch.equal(plain[0], named[0])

    test_hidden_states_output = _refuses_hidden_states
    test_retain_grad_hidden_states_attentions = _refuses_hidden_states


class BlockTest(WithoutHiddenStates, Ours, GenerationConformance, TrainingTesterMixin, unittest.TestCase):
    """A Block Transformer: attention over blocks, mamba2 over their tokens."""

    all_model_classes = (BlockTransformerModel, BlockTransformerForCausalLM)
    generator = BlockTransformerForCausalLM

    def make_tester(self) -> Tester:
        return BlockTester(self)

    def expected(self, model: Any, rows: Tensor, count: int = NEW, **inputs: Any) -> Tensor:
        """Prompts end with a block, so the first block of a row may have empty places."""
        offset = -(rows.shape[1] - count) % model.config.block_length
        places = torch.arange(offset, offset + rows.shape[1])[None]
        return super().expected(model, rows, count, **{"position_ids": places, **inputs})

    def test_generate_continues_from_a_cache(self) -> None:
        """Blocks go on where the first prompt put them; two calls in a row are one long call."""
        model, prompt = self.make(), self.tokens()
        first = self.generate(model, prompt, max_new_tokens=3)
        question = torch.cat([first.sequences, self.tokens(2, 4, seed=5)], dim=1)
        second = self.generate(model, question, **{self.name(): self.cache_of(first)})
        places = torch.arange(2, 2 + second.sequences.shape[1])[None]  # seven tokens, in blocks of three
        self.check(model, second, position_ids=places)

    def test_forward_in_pieces(self) -> None:
        """Chunks are the whole, where rows end at one place of their blocks and padding is in the first."""
        model, rows = self.make(), self.tokens(2, 9)
        mask = torch.ones_like(rows)
        mask[1, :2] = 0
        places = model.prompt_positions(mask)
        with torch.no_grad():
            whole = model(rows, attention_mask=mask, position_ids=places, use_cache=False).logits
            for sizes in ([3] + [1] * 6, [4, 1, 3, 1], [2 + 1, 6]):
                cache, parts, end = None, [], 0
                for size in sizes:
                    part, end = slice(end, end + size), end + size
                    inputs = {"attention_mask": mask[:, :end], "position_ids": places[:, part]}
                    output = model(rows[:, part], use_cache=True, **{self.name(): cache}, **inputs)
                    cache, parts = self.cache_of(output), [*parts, output.logits]
                torch.testing.assert_close(torch.cat(parts, dim=1)[mask.bool()], whole[mask.bool()], **TOLERANCE)

    def test_generate_from_embeddings(self) -> None:
        """Refused: the embedder has a table of its own, so blocks are read from tokens."""
        model, prompt = self.make(), self.tokens()
        with pytest.raises((ValueError, TypeError), match="inputs_embeds"):
            self.generate(model, None, inputs_embeds=model.get_input_embeddings()(prompt))

    def test_training_overfit(self) -> None:
        """Theirs generates from one token, which random offsets in training make the model know."""
        self.model_tester.random_offset = True
        super().test_training_overfit()


class FITTest(WithoutHiddenStates, Ours, GenerationConformance, TrainingTesterMixin, unittest.TestCase):
    """An autoregressive FIT."""

    all_model_classes = (FITModel, FITForCausalLM)
    generator = FITForCausalLM

    def make_tester(self) -> Tester:
        return FITTester(self)

    def test_batching_equivalence(self) -> None:
        """Of the language model: theirs cannot compare the base model's mask of latents, which a row alone lacks."""
        self.all_model_classes = (FITForCausalLM,)
        super().test_batching_equivalence()


class MixtureTest(Ours, GenerationConformance, TrainingTesterMixin, unittest.TestCase):
    """A Mixture-of-Transformers of two modalities."""

    all_model_classes = (MixtureOfTransformersModel, MixtureOfTransformersForCausalLM)
    generator = MixtureOfTransformersForCausalLM

    def make_tester(self) -> Tester:
        return MixtureTester(self)

    def test_generate_from_embeddings(self) -> None:
        """Embeddings do not tell the modality of the prompt; generated tokens tell their own."""
        model, prompt = self.make(), self.tokens()
        inputs = {"inputs_embeds": model.get_input_embeddings()(prompt)}
        with pytest.raises(ValueError, match="modality_ids: expected them with inputs_embeds"):
            self.generate(model, None, **inputs)
        found = self.generate(model, None, **inputs, modality_ids=model.config.modality_of(prompt))
        assert torch.equal(torch.stack(found.logits), torch.stack(self.generate(model, prompt).logits))

    def test_resize_tokens_embeddings(self) -> None:
        """Refused: ids tell the modality."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            assert model.resize_token_embeddings() is model.get_input_embeddings()
            with pytest.raises(ValueError, match="resize_token_embeddings: expected the vocabulary of the config"):
                model.resize_token_embeddings(80)

    test_resize_embeddings_untied = test_resize_tokens_embeddings
    test_resize_embeddings_untied_no_reinit_on_post_init = test_resize_tokens_embeddings


class SwappedTest(ModelTesterMixin, GenerationConformance, TrainingTesterMixin, unittest.TestCase):
    """A Llama whose first layer is a mamba2 and whose second is its own attention."""

    all_model_classes = tuple(
        swapped_model_class(base)
        for base in (
            LlamaModel,
            LlamaForCausalLM,
            LlamaForSequenceClassification,
            LlamaForTokenClassification,
            LlamaForQuestionAnswering,
        )
    )
    generator = all_model_classes[1]
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self) -> None:
        self.model_tester = SwappedTester(self)
        self.model_tester.causal_lm_class = self.generator
        self.config_tester = ConfigTester(self, config_class=type(self.model_tester.get_config()))

    def test_attention_outputs(self) -> None:
        """Theirs wants weights of every layer; here they come from the layer that still has attention."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config._attn_implementation = "eager"
        model = self.generator(config).eval()
        with torch.no_grad():
            attentions = model(**inputs, output_attentions=True).attentions
        batch, length = inputs["input_ids"].shape
        assert [tuple(weights.shape) for weights in attentions] == [(batch, 4, length, length)]

    def test_config(self) -> None:
        self.config_tester.run_common_tests()
