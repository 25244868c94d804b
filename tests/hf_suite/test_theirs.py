"""Transformers' own tests of models, configurations and training, run on ours (`make test-hf`)."""

from __future__ import annotations

import unittest

import pytest
import torch
from generation import GenerationConformance
from testers import SwappedTester, Tester
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from tests.test_training_mixin import TrainingTesterMixin
from transformers import (
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)

from tokenmix.hf.classes import swapped_model_class
from tokenmix.models import (
    MixerConfig,
    MixerForCausalLM,
    MixerForMaskedLM,
    MixerForQuestionAnswering,
    MixerForSequenceClassification,
    MixerForTokenClassification,
    MixerModel,
)

HEADS = (MixerForSequenceClassification, MixerForTokenClassification, MixerForQuestionAnswering)


class Native(ModelTesterMixin):
    """What all native patterns have in common."""

    all_model_classes = (MixerModel, MixerForCausalLM, *HEADS)
    generator = MixerForCausalLM
    # without it their test of initialisation is skipped for files that do not begin with a copyright of 2023 or later
    test_can_init_all_missing_weights_before_2023 = True
    has_attentions = False  # mixers return no weights of attention
    pattern = ""
    model_tester = None

    def setUp(self) -> None:
        self.model_tester = Tester(self, self.pattern)
        self.model_tester.causal_lm_class = MixerForCausalLM
        self.config_tester = ConfigTester(self, config_class=MixerConfig, common_properties=["hidden_size"])

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


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
