"""transformers' pipelines on saved models and a tokenizer made offline: their answers equal direct computation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import HEADS, assert_close, build
from transformers import PreTrainedTokenizerFast, pipeline

from tokenmix.data import byte_tokenizer, train_bpe
from tokenmix.models import MixerModel

TEXTS = ["a longer text of some words", "short"]


def tokenizer(kind: str = "bytes") -> PreTrainedTokenizerFast:
    made = byte_tokenizer() if kind == "bytes" else train_bpe("a longer text of some words, and a short one " * 20, 280)
    made.add_special_tokens({"mask_token": "<|mask|>"})
    return made


def saved(folder: Path, head: Any, name: str, **options: Any) -> tuple[Any, PreTrainedTokenizerFast]:
    """A model and its tokenizer in one folder, as anybody would publish them."""
    words = tokenizer(options.pop("kind", "bytes"))
    model = build(name, head, vocab_size=len(words), pad_token_id=words.pad_token_id, **options)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model, words


def logits_alone(model: Any, words: PreTrainedTokenizerFast, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([words(text)["input_ids"]])).logits[0]


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("name", ["hybrid", "ls_attention"])
def test_text_generation(name: str, kind: str, tmp_path: Path) -> None:
    """Two prompts of unequal lengths in one batch: each continuation is the likeliest, by logits of the row alone."""
    model, words = saved(tmp_path, HEADS["causal_lm"], name, kind=kind)
    generate = pipeline("text-generation", model=str(tmp_path), device="cpu")
    options = {"max_new_tokens": 4, "do_sample": False, "return_tensors": True}
    for text, (found,) in zip(TEXTS, generate(TEXTS, batch_size=2, **options), strict=True):
        prompt = words(text)["input_ids"]
        ids = found["generated_token_ids"][-len(prompt) - 4 :]
        assert ids[:-4] == prompt
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -5:-1]
        chosen = logits.gather(1, torch.tensor(ids[-4:])[:, None])[:, 0]
        assert_close(chosen, logits.amax(1))
    (found,) = generate("short", max_new_tokens=4, do_sample=False)
    assert found["generated_text"].startswith("short")


@pytest.mark.parametrize("name", ["hybrid", "bi_hybrid"])
def test_text_classification(name: str, tmp_path: Path) -> None:
    model, words = saved(tmp_path, HEADS["rows"], name, id2label={0: "bad", 1: "fair", 2: "good"})
    found = pipeline("text-classification", model=str(tmp_path), top_k=None, device="cpu")(TEXTS, batch_size=2)
    for text, answer in zip(TEXTS, found, strict=True):
        expected = logits_alone(model, words, text).softmax(-1)
        assert [entry["label"] for entry in answer] == [
            model.config.id2label[int(i)] for i in expected.argsort().flip(0)
        ]
        assert_close(torch.tensor([entry["score"] for entry in answer]), expected.sort(descending=True).values)


def test_token_classification(tmp_path: Path) -> None:
    model, words = saved(tmp_path, HEADS["tokens"], "bi_hybrid", num_labels=3)
    classify = pipeline("token-classification", model=str(tmp_path), ignore_labels=[], device="cpu")
    for text, answer in zip(TEXTS, classify(TEXTS, batch_size=2), strict=True):
        expected = logits_alone(model, words, text).softmax(-1)
        assert [entry["word"] for entry in answer] == words.tokenize(text)
        assert [entry["entity"] for entry in answer] == [f"LABEL_{int(i)}" for i in expected.argmax(-1)]
        assert_close(torch.tensor([float(entry["score"]) for entry in answer]), expected.amax(-1))


@pytest.mark.parametrize("name", ["bi_hybrid", "bi_ls"])
def test_fill_mask(name: str, tmp_path: Path) -> None:
    model, words = saved(tmp_path, HEADS["masked_lm"], name)
    texts = ["a longer te<|mask|>t of some words", "<|mask|>hort"]
    found = pipeline("fill-mask", model=str(tmp_path), top_k=3, device="cpu")(texts, batch_size=2)
    for text, answer in zip(texts, found, strict=True):
        place = words(text)["input_ids"].index(words.mask_token_id)
        expected = logits_alone(model, words, text)[place].softmax(-1).topk(3)
        assert [entry["token"] for entry in answer] == expected.indices.tolist()
        assert_close(torch.tensor([entry["score"] for entry in answer]), expected.values)


def test_feature_extraction(tmp_path: Path) -> None:
    model, words = saved(tmp_path, MixerModel, "hybrid")
    found = pipeline("feature-extraction", model=str(tmp_path), device="cpu")("short")
    with torch.no_grad():
        expected = model(torch.tensor([words("short")["input_ids"]])).last_hidden_state
    assert_close(torch.tensor(found), expected)
