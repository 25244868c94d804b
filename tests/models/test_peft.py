"""LoRA on the projections that the mixers of a head publish: it trains all of them, and is saved and loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import HEADS, build, tokens
from torch import Tensor

peft = pytest.importorskip("peft")

TASKS = {"rows": "SEQ_CLS", "tokens": "TOKEN_CLS", "spans": "QUESTION_ANS", "causal_lm": "CAUSAL_LM", "masked_lm": None}
IDS = tokens(2, 5)


def make(head: str) -> Any:
    return build("hybrid" if head == "causal_lm" else "bi_hybrid", HEADS[head], num_labels=3)


def logits_of(model: Any) -> Tensor:
    output = model.eval()(input_ids=IDS)
    return output.logits if "logits" in output else output.start_logits + output.end_logits


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # peft asks for a name that is deprecated
@pytest.mark.parametrize("head", TASKS)
def test_lora(head: str, tmp_path: Path) -> None:
    model = make(head)
    before = logits_of(model).detach()
    targets = sorted({target for mixer in model.stack.mixers for target in mixer.lora_targets})
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type=TASKS[head], target_modules=targets, init_lora_weights=False)
    )
    found = logits_of(adapted)
    assert (found - before).abs().max() > 1e-2
    found.square().mean().backward()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(bool(p.grad.any()) for p in trained.values())
    whole = {"rows": "classifier", "tokens": "classifier", "spans": "qa_outputs"}.get(head)
    assert {name.split(".")[2] for name in trained} == {"model", whole} - {None}
    assert {name.rsplit(".", 4)[1] for name in trained if "lora" in name} == set(targets)
    adapted.save_pretrained(tmp_path)
    assert torch.equal(logits_of(peft.PeftModel.from_pretrained(make(head), tmp_path)), found)
