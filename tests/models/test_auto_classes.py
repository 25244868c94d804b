"""Saved by one head, loaded by any: through the Auto classes, in a fresh process, into the model below."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import BOTH_WAYS, HEADS, STACKS, VOCABULARY, build, tokens
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto import modeling_auto

from fork_server import ForkServer
from tokenmix.models import MixerConfig, MixerModel

AUTO: dict[str, Any] = {
    "model": AutoModel,
    "causal_lm": AutoModelForCausalLM,
    "masked_lm": AutoModelForMaskedLM,
    "rows": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "spans": AutoModelForQuestionAnswering,
}
CLASSES: dict[str, Any] = {"model": MixerModel, **HEADS}
IDS = tokens(2, 7)

SCRIPT = """
import sys, torch, transformers, tokenmix.models
for folder in sys.argv[1:]:
    saved = torch.load(f"{folder}/sample.pt", weights_only=True)
    model, info = getattr(transformers, saved["auto"]).from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == saved["class"], type(model)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        found = model(saved["ids"])
    assert torch.equal(found[0], saved["output"]), folder
"""


def output_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS)[0]


def test_saved_models_load_bit_equal_in_a_fresh_process(processes: ForkServer, tmp_path: Path) -> None:
    """Names of classes and weights are in the files; the process that loads knows nothing else."""
    folders = []
    for head, cls in CLASSES.items():
        for name in ("hybrid", "bi_hybrid"):
            if (head, name) in (("causal_lm", "bi_hybrid"), ("masked_lm", "hybrid")):
                continue
            model = build(name, cls, num_labels=4, tie_word_embeddings=head.endswith("lm"))
            folder = tmp_path / f"{head}-{name}"
            model.save_pretrained(folder)
            sample = {"auto": AUTO[head].__name__, "class": cls.__name__, "ids": IDS, "output": output_of(model)}
            torch.save(sample, folder / "sample.pt")
            folders.append(str(folder))
    assert len(folders) == 10
    ran = processes.run(["-c", SCRIPT, *folders])
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.parametrize("name", [*STACKS, *BOTH_WAYS])
def test_the_model_below_loads_from_a_head(name: str, tmp_path: Path) -> None:
    """Without missing keys: the features are those of the head's own."""
    head = build(name, HEADS["causal_lm" if name in STACKS else "masked_lm"])
    head.save_pretrained(tmp_path)
    model, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, MixerModel)
    assert not info["missing_keys"]
    assert set(info["unexpected_keys"]) == {"lm_head.weight"}
    assert torch.equal(output_of(model), output_of(head.model))
    assert torch.equal(head.lm_head(output_of(model)), output_of(head))


@pytest.mark.parametrize("source", [head for head in CLASSES if head != "causal_lm"])
@pytest.mark.parametrize("target", ["masked_lm", "rows", "tokens", "spans"])
def test_heads_load_from_one_another(source: str, target: str, tmp_path: Path) -> None:
    """Everything but the new head's own layer is there."""
    saved = build("bi_hybrid", CLASSES[source], num_labels=3)
    saved.save_pretrained(tmp_path)
    model, info = AUTO[target].from_pretrained(tmp_path, output_loading_info=True)
    own = {"masked_lm": {"lm_head.weight"}, "spans": {"qa_outputs.weight", "qa_outputs.bias"}}
    expected = own.get(target, {"classifier.weight", "classifier.bias"})
    if source == target or {source, target} == {"rows", "tokens"}:
        expected = set()
    assert set(info["missing_keys"]) == expected
    below = saved if source == "model" else saved.model
    assert torch.equal(output_of(model.model), output_of(below))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_language_model_becomes_a_masked_one(tmp_path: Path) -> None:
    """The same weights and names, its mixers told to read both ways."""
    source = build("attention")
    source.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.mixers["a"]["causal"] = False
    model, info = AutoModelForMaskedLM.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)
    assert (output_of(model) - output_of(source)).abs().max() > 0.1
    assert torch.equal(model(IDS[:, :1]).logits, source(IDS[:, :1], use_cache=False).logits)


@pytest.mark.parametrize("head", CLASSES)
def test_names_that_transformers_looks_up(head: str) -> None:
    """Trainer, the pipelines and transformers' tests ask these dictionaries, not the Auto classes."""
    names = {
        "model": modeling_auto.MODEL_MAPPING_NAMES,
        "causal_lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "masked_lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "rows": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "tokens": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "spans": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    }[head]
    assert names[MixerConfig.model_type] == CLASSES[head].__name__
    config = build("hybrid" if head == "causal_lm" else "bi_hybrid", CLASSES[head]).config
    assert type(AUTO[head].from_config(config)) is CLASSES[head]


@pytest.mark.parametrize("head", CLASSES)
def test_resize(head: str, tmp_path: Path) -> None:
    name = "hybrid" if head == "causal_lm" else "bi_hybrid"
    model = build(name, CLASSES[head], tie_word_embeddings=head.endswith("lm"))
    before = output_of(model)
    model.resize_token_embeddings(VOCABULARY + 3)
    assert model.config.vocab_size == VOCABULARY + 3
    found = output_of(model)
    assert found.shape[-1] == before.shape[-1] + (3 if head.endswith("lm") else 0)
    assert torch.equal(found[..., : before.shape[-1]], before)
    model(IDS + 3)
    if head.endswith("lm"):
        assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    assert torch.equal(output_of(AUTO[head].from_pretrained(tmp_path)), found)


def test_labels_are_kept(tmp_path: Path) -> None:
    config = MixerConfig(hidden_size=32, id2label={0: "no", 1: "yes"}, problem_type="single_label_classification")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert (loaded.config.id2label, loaded.config.problem_type) == ({0: "no", 1: "yes"}, "single_label_classification")
    wider = AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert wider(IDS).logits.shape == (2, 7, 5)
