"""Training a swapped model: checkpointing, compiling, several processes, Trainer, LoRA."""

import copy
import os
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from swap_cases import DECODERS, assert_close, build, randomize, tokens
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from fork_server import ForkServer
from tokenmix import Layout, list_mixers
from tokenmix.hf import lora_targets, swap_mixers, swapped_mixers
from tokenmix.mixer import TokenMixer, build_mixer

MIXED: dict[str, Any] = {"0": {"mixer": "gam", "slots": 8, "memory": "written"}, "1": "mamba2", "2": "ls_attention"}
SMALL: dict[str, dict[str, Any]] = {
    "gam": {"slots": 8},
    "mamba": {"state_size": 4},
    "mossformer": {"group": 2, "dropout": 0.0},
}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(model: PreTrainedModel, ids: Tensor, **inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(ids, labels=ids, **inputs).loss
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2"])
def test_gradient_checkpointing_changes_nothing(name: str, use_reentrant: bool) -> None:
    model = swap_mixers(build(name), MIXED).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ids = tokens(2, 9)
    loss, expected = step(model, ids)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    again, found = step(model, ids)
    assert torch.equal(again, loss)
    assert set(found) == set(expected) == {name for name, _ in model.named_parameters()}
    for key, value in expected.items():
        assert_close(found[key], value)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_compiled_equals_eager(name: str) -> None:
    layers = (
        MIXED if name != "bert" else {"0": {"mixer": "ls_attention", "window": 3}, "2": {"mixer": "gam", "slots": 8}}
    )
    model = swap_mixers(build(name), layers)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    options: dict[str, Any] = {} if name == "bert" else {"use_cache": False}
    with torch.no_grad():
        found, expected = (m(tokens(2, 9), attention_mask=mask, **options).logits for m in (compiled, model))
        assert_close(found[mask.bool()], expected[mask.bool()])
    model.zero_grad()
    trained = model(tokens(2, 9), labels=tokens(2, 9), **options)
    trained.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    again = compiled(tokens(2, 9), labels=tokens(2, 9), **options)
    again.loss.backward()
    found = gradients(compiled)
    assert_close(again.loss, trained.loss)
    assert_close(again.logits, trained.logits)
    for key, value in expected.items():
        assert_close(found[f"_orig_mod.{key}" if f"_orig_mod.{key}" in found else key], value)


PROCESS = """
import sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM
import tokenmix.hf
folder, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
model = DistributedDataParallel(AutoModelForCausalLM.from_pretrained(folder).train())
ids = torch.load(f"{folder}/ids.pt", weights_only=True)[rank : rank + 1]
model(ids, labels=ids).loss.backward()
torch.save({n: p.grad for n, p in model.module.named_parameters()}, f"{folder}/gradients{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_have_the_gradients_of_one(processes: ForkServer, tmp_path: Path) -> None:
    model = swap_mixers(build("llama"), MIXED).train()
    model.save_pretrained(tmp_path)
    ids = tokens(2, 9)
    torch.save(ids, tmp_path / "ids.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [processes.start(["-c", PROCESS, str(tmp_path), str(rank)], env=environment, stderr=2) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    _, expected = step(model, ids)
    first, second = (torch.load(tmp_path / f"gradients{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        assert_close(first[name], value)


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = tokens(1, 12, seed=index)[0]
        return {"input_ids": ids, "labels": ids}


def train(model: PreTrainedModel, folder: Path, resume: bool = False) -> dict[str, Tensor]:
    arguments = TrainingArguments(
        str(folder), max_steps=6, per_device_train_batch_size=4, save_steps=3, learning_rate=1e-2, report_to="none",
        use_cpu=True, disable_tqdm=True, logging_steps=1, seed=3,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows())
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resume else None)
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_trainer_resumes_exactly(tmp_path: Path) -> None:
    model = swap_mixers(build("llama"), MIXED)
    expected = train(copy.deepcopy(model), tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-3")
    found = train(loaded, tmp_path, resume=True)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# ---------------------------------------------------------------------- LoRA


@pytest.mark.parametrize("mixer", [name for name, cls in list_mixers().items() if cls.causal != "never"])
def test_lora_trains_every_mixer(mixer: str, tmp_path: Path) -> None:
    base = swap_mixers(build("llama"), {"1": {"mixer": mixer, **SMALL.get(mixer, {})}})
    before = {name: value.clone() for name, value in base.state_dict().items()}
    targets = lora_targets(base)
    assert {target.partition(".mixer.")[2] for target in targets} == set(swapped_mixers(base)["1"].lora_targets)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=targets, lora_alpha=16))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(targets)
    optimizer = torch.optim.Adam(trained.values(), lr=2e-2)
    ids, losses = tokens(4, 10), []
    for _ in range(12):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert "lora_B" not in name or parameter.abs().max() > 1e-3, name
    for name, value in before.items():
        for target in targets:
            name = name.replace(f"{target}.", f"{target}.base_layer.")
        assert torch.equal(base.state_dict()[name], value), name
    with torch.no_grad():
        expected = model.eval()(ids).logits
        model.save_pretrained(tmp_path)
        fresh = swap_mixers(build("llama"), {"1": {"mixer": mixer, **SMALL.get(mixer, {})}}, init="random")
        fresh.load_state_dict(before)
        assert_close(peft.PeftModel.from_pretrained(fresh, tmp_path).eval()(ids).logits, expected)
        assert_close(model.merge_and_unload()(ids).logits, expected, 1e-4)


@pytest.mark.parametrize("mixer", list_mixers())
def test_no_lora_target_is_read_as_a_weight(mixer: str) -> None:
    """A projection that is not called as a module would never see its adapter."""
    made: TokenMixer = build_mixer({"mixer": mixer, **SMALL.get(mixer, {})}, dim=32)
    called = set()
    for name in made.lora_targets:
        made.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    fields = {"edges": torch.tensor([[0, 1], [1, 2]]), "modality": torch.tensor([[0, 1, 1]])}
    layout = Layout(**{name: fields[name] for name in made.needs})
    made(torch.randn(1, 3, 32), layout)
    assert called == set(made.lora_targets) != set()


def test_lora_targets_of_a_stock_model_are_refused() -> None:
    with pytest.raises(ValueError, match="model: expected one with swapped mixers that LoRA can adapt, found none"):
        lora_targets(build("llama"))


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "llama"])
def test_every_weight_of_a_swapped_decoder_is_trained(name: str) -> None:
    model = randomize(swap_mixers(build(name), MIXED))
    _, found = step(model.train(), tokens(2, 9))
    unused = {key for key, value in found.items() if value.abs().max() == 0}
    assert not {key for key in unused if ".mixer." in key}
    assert {key for key, _ in model.named_parameters() if ".mixer." in key} <= set(found)
