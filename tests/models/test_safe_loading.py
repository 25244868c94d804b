"""Loading never runs code of a checkpoint: planted pickles and Python files that would leave a trace do not."""

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from tiny_models import VOCABULARY, build, tokens
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    pipeline,
)

from tokenmix.data import byte_tokenizer
from tokenmix.models import MixerConfig, MixerForCausalLM, SafeLoading

IDS = tokens(1, 4)
ROOT = Path(__file__).resolve().parents[2]


class SafeLlama(SafeLoading, LlamaForCausalLM):
    """As the classes of swapped models inherit it."""


class Planted:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    return SafeLlama(LlamaConfig(vocab_size=VOCABULARY, **sizes))


MODELS: dict[str, Callable[[], Any]] = {"native": lambda: build("hybrid"), "inherited": llama}


@pytest.fixture(params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Path]:
    """A model, the folder that it was saved to, and the trace that no load may leave."""
    model = MODELS[request.param]()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    return model, folder, tmp_path / "trace"


def plant(file: Path, trace: Path) -> None:
    torch.save({"model.norm.weight": Planted(trace)}, file)


def refused(model: Any, folder: Path, trace: Path, file: str, **options: Any) -> None:
    for cls in (type(model), AutoModelForCausalLM) if isinstance(model, MixerForCausalLM) else (type(model),):
        with pytest.raises(
            ValueError, match=f"expected safetensors weights, found .*/{file}; loading a pickle can run"
        ):
            cls.from_pretrained(folder, **options)
    assert not trace.exists()


# ---------------------------------------------------------------------- pickled weights


def test_the_planted_pickle_is_alive(saved: tuple[Any, Path, Path]) -> None:
    """The tests below can fail: unpickled without care, it leaves its trace."""
    _, folder, trace = saved
    plant(folder / "pytorch_model.bin", trace)
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert trace.exists()


def test_pickled_weights_are_refused(saved: tuple[Any, Path, Path]) -> None:
    model, folder, trace = saved
    (folder / "model.safetensors").unlink()
    plant(folder / "pytorch_model.bin", trace)
    refused(model, folder, trace, "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"expected safetensors weights, found .*/pytorch_model\.bin"):
        type(model).from_pretrained(folder / "pytorch_model.bin", config=model.config)
    shutil.copytree(folder, folder / "inner")
    refused(model, folder, trace, "inner/pytorch_model.bin", subfolder="inner")
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model.fp16.bin")
    refused(model, folder, trace, "pytorch_model.fp16.bin", variant="fp16")


def test_pickled_shards_are_refused(saved: tuple[Any, Path, Path]) -> None:
    model, folder, trace = saved
    (folder / "model.safetensors").unlink()
    plant(folder / "pytorch_model-00001-of-00001.bin", trace)
    shards = dict.fromkeys(model.state_dict(), "pytorch_model-00001-of-00001.bin")
    index = json.dumps({"metadata": {}, "weight_map": shards})
    (folder / "pytorch_model.bin.index.json").write_text(index)
    refused(model, folder, trace, "pytorch_model.bin.index.json")
    (folder / "pytorch_model.bin.index.json").rename(folder / "model.safetensors.index.json")
    refused(model, folder, trace, "pytorch_model-00001-of-00001.bin")


def test_a_file_that_transformers_finds_by_another_way_is_refused(saved: tuple[Any, Path, Path]) -> None:
    """A config can name its weight file, and the one pickle that transformers lets it name is an adapter's."""
    model, folder, trace = saved
    plant(folder / "adapter_model.bin", trace)
    (folder / "adapter_model.safetensors").touch()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "adapter_model.bin"}))
    if isinstance(model, MixerForCausalLM):
        with pytest.raises(ValueError, match="transformers_weights: not a field of MixerConfig"):
            MixerForCausalLM.from_pretrained(folder)
        return
    refused(model, folder, trace, "adapter_model.bin")


def test_a_pickled_adapter_is_refused(saved: tuple[Any, Path, Path]) -> None:
    """In the folder of the model; and where peft's `load_adapter` reads one later, through the same door."""
    model, folder, trace = saved
    plant(folder / "adapter_model.bin", trace)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
    refused(model, folder, trace, "adapter_model.bin")
    with pytest.raises(ValueError, match=r"found .*/adapter_model.bin; .*'adapter_model.safetensors'"):
        model._load_pretrained_model(model, None, [str(folder / "adapter_model.bin")], None)
    before = dict(model.named_modules())
    for where, options in ((folder, {}), (str(folder.parent), {"adapter_kwargs": {"subfolder": folder.name}})):
        with pytest.raises(
            ValueError, match=r"peft_model_id: expected safetensors weights, found .*/adapter_model.bin"
        ):
            model.load_adapter(where, **options)
    assert dict(model.named_modules()) == before  # no adapter was put in
    assert not trace.exists()


def test_safetensors_beside_a_pickle_are_loaded(saved: tuple[Any, Path, Path]) -> None:
    """In one file or in shards; the pickle is left alone."""
    model, folder, trace = saved
    plant(folder / "pytorch_model.bin", trace)
    plant(folder / "training_args.bin", trace)
    expected = model.eval()(IDS).logits
    assert torch.equal(type(model).from_pretrained(folder)(IDS).logits, expected)
    assert torch.equal(type(model).from_pretrained(folder, use_safetensors=True)(IDS).logits, expected)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="2KB")
    assert (folder / "model.safetensors.index.json").exists()
    assert torch.equal(type(model).from_pretrained(folder)(IDS).logits, expected)
    assert not trace.exists()


@pytest.mark.parametrize("option", ["use_safetensors", "weights_only"])
def test_asking_for_pickles_is_refused(saved: tuple[Any, Path, Path], option: str) -> None:
    model, folder, trace = saved
    plant(folder / "pytorch_model.bin", trace)
    with pytest.raises(ValueError, match=f"{option}: expected True, found False; loading a pickle can run code"):
        type(model).from_pretrained(folder, **{option: False})
    assert not trace.exists()


def test_the_advice_works(saved: tuple[Any, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the error says to do, done: tied weights too."""
    model, folder, _ = saved
    expected = model.eval()(IDS).logits
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="expected safetensors weights") as error:
        type(model).from_pretrained(folder)
    first, second = [part for part in str(error.value).split("`") if part.startswith(("tensors =", "safetensors."))]
    names: dict[str, Any] = {
        "torch": torch,
        "safetensors": safetensors,
        "FILE": folder / "pytorch_model.bin",
    }
    monkeypatch.chdir(folder)
    exec(first, names)
    exec(second, names)
    assert torch.equal(type(model).from_pretrained(folder)(IDS).logits, expected)


def test_a_name_on_the_hub_with_pickles_only(saved: tuple[Any, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's cache, without a network: nothing but safetensors is looked for, and a note says why."""
    model, folder, trace = saved
    cache = folder.parent / "cache"
    snapshot = cache / "models--some--model" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (cache / "models--some--model" / "refs").mkdir()
    (cache / "models--some--model" / "refs" / "main").write_text("0" * 40)
    options = {"cache_dir": cache, "local_files_only": True}
    assert torch.equal(type(model).from_pretrained("some/model", **options)(IDS).logits, model.eval()(IDS).logits)
    (snapshot / "model.safetensors").unlink()
    plant(snapshot / "pytorch_model.bin", trace)
    with pytest.raises(OSError, match=r"pytorch_model\.bin|model\.safetensors") as error:
        type(model).from_pretrained("some/model", **options)
    assert "loading a pickle can run code" in error.value.__notes__[0]
    index = {"metadata": {}, "weight_map": dict.fromkeys(model.state_dict(), "pytorch_model.bin")}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"expected safetensors weights, found .*/pytorch_model\.bin"):
        type(model).from_pretrained("some/model", **options)
    assert not trace.exists()


# ---------------------------------------------------------------------- code beside the weights


@pytest.mark.parametrize("trust", [None, False, True])
def test_code_beside_the_weights_is_never_imported(trust: bool | None, tmp_path: Path) -> None:
    """Also not for an Auto class that we do not serve, nor for the `generate` of a checkpoint."""
    folder, trace = tmp_path / "model", tmp_path / "trace"
    model = build("hybrid")
    model.save_pretrained(folder)
    auto = {name: "planted.Planted" for name in dir(transformers) if name.startswith("AutoModel")}
    config = json.loads((folder / "config.json").read_text())
    tasks = {"text-generation": {"impl": "planted.Planted", "pt": ["AutoModelForCausalLM"]}}
    code = {"auto_map": {"AutoConfig": "planted.Planted", **auto}, "custom_pipelines": tasks}
    (folder / "config.json").write_text(json.dumps({**config, **code}))
    (folder / "custom_generate").mkdir()
    for file in ("planted.py", "custom_generate/generate.py"):
        (folder / file).write_text(
            f"import os\nos.mkdir({str(trace)!r})\nclass Planted: pass\ndef generate(*a, **k): pass"
        )
    options = {} if trust is None else {"trust_remote_code": trust}
    config = AutoConfig.from_pretrained(folder, **options)
    assert type(config) is MixerConfig
    assert not hasattr(config, "auto_map")
    assert not hasattr(config, "custom_pipelines")
    for cls in (MixerForCausalLM, AutoModelForCausalLM, AutoModel):
        loaded = cls.from_pretrained(folder, **options)
        assert type(loaded).__module__.startswith("tokenmix.models")
    assert type(AutoModelForCausalLM.from_config(config, **options)) is MixerForCausalLM
    for unserved in (transformers.AutoModelForMultipleChoice, transformers.AutoModelForImageClassification):
        with pytest.raises(ValueError, match="Unrecognized configuration class"):
            unserved.from_pretrained(folder, **options)
    byte_tokenizer().save_pretrained(folder)
    assert type(pipeline(model=str(folder), task="text-generation", **options)) is transformers.TextGenerationPipeline
    loaded = MixerForCausalLM.from_pretrained(folder, **options)
    assert loaded.generate(IDS, max_new_tokens=2, do_sample=False).shape == (1, 6)
    assert not trace.exists()


# ---------------------------------------------------------------------- training that goes on


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_resuming_never_unpickles_code(file: str, tmp_path: Path) -> None:
    """What Trainer itself saves and loads again: torch refuses what is no tensor, number or numpy state."""
    trace, checkpoint = tmp_path / "trace", tmp_path / "checkpoint-1"
    data = [{"input_ids": IDS[0], "labels": IDS[0]}] * 4
    settings = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_steps": 1, "max_steps": 2}
    Trainer(build("attention"), TrainingArguments(str(tmp_path), **settings), train_dataset=data).train()
    plant(checkpoint / "training_args.bin", trace)  # written by Trainer, never read
    again = Trainer(build("attention"), TrainingArguments(str(tmp_path), **settings), train_dataset=data)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == 2
    plant(checkpoint / file, trace)
    if file == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        again.train(resume_from_checkpoint=str(checkpoint))
    assert not trace.exists()


# ---------------------------------------------------------------------- our own code


def test_nothing_of_ours_unpickles() -> None:
    """No file of the library or the recipes imports pickle, or calls torch.load without weights_only.

    But for one: data sets of 2016 are pickles, and it reads arrays alone (tests/data/graphs try to run code).
    """
    files = [file for folder in ("src", "recipes") for file in (ROOT / folder).rglob("*.py")]
    files.remove(ROOT / "src" / "tokenmix" / "data" / "graphs" / "safe_pickle.py")
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {"pickle", "cPickle", "dill", "joblib", "shelve"}, file
            if isinstance(node, ast.Call):
                options = {ast.unparse(word) for word in node.keywords}
                assert ast.unparse(node.func) != "torch.load" or "weights_only=True" in options, f"{file}:{node.lineno}"
                assert "allow_pickle=True" not in options, f"{file}:{node.lineno}"
