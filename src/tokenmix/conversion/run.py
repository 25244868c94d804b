"""Converting the attention of a pretrained language model to mixers, from the swap to the report."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tokenmix.conversion.checks import HeldOut, check_model, check_text, check_tokenizer, identity
from tokenmix.conversion.config import ConversionConfig
from tokenmix.conversion.measure import Score, gap_closed, measure_generation, score
from tokenmix.conversion.report import Point, Report, plot_reports
from tokenmix.conversion.stages import run_stage
from tokenmix.data import Corpus
from tokenmix.hf import MixerAttention, carried_weights, swap_mixers
from tokenmix.training import claim_folder, write_text

FOLDERS = {"hidden": "1_hidden", "logits": "2_logits", "finetune": "3_finetune", "control": "control"}


def convert(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    layers: Mapping[str, str | Mapping[str, Any]],
    config: ConversionConfig | None = None,
) -> Report:
    """Swap the attention of chosen layers for mixers, and repair the model in up to three stages.

    1. hidden: each mixer learns to answer as the attention in its place (`match_hidden`).
    2. logits: the model learns the original's distributions (`match_logits`).
    3. finetune: cross entropy on the text.

    It can be stopped at any time: the same call goes on where it was, bit for bit, and after the end only reads its
    report. Written to `config.output`: conversion.json (what makes this run), report.json, report.png, a folder a
    stage, and `model/`, which `AutoModelForCausalLM.from_pretrained` loads after `import tokenmix.hf`.

    Args:
        model: a decoder of a family that `tokenmix.hf.swap_mixers` knows, with float32 weights; not changed, but moved
            to the accelerator where there is one.
        tokenizer: its tokenizer.
        corpus: trained on its train split, scored on its test split.
        layers: mixers by layer, as `tokenmix.hf.swap_mixers` takes them.
        config: of the stages and of what is measured.

    Returns:
        The report.

    Raises:
        TypeError, ValueError: before anything is written: a model that is no decoder, an unknown layer or mixer, one
            that reads the future, a tokenizer of another model, text shorter than a row, a folder of another run.

    Source:
        The order of the stages is that of MOHAWK, Bick et al. 2024, arXiv 2408.10189, less its matching of mixing
        matrices; weights carried over and the match of logits also in Wang et al. 2024, "The Mamba in the Llama",
        arXiv 2408.15237; the first stage also in Zhang et al. 2024, "LoLCATs", arXiv 2410.10254. Reconstruction:
        losses, schedules and sizes here are ours.
    """
    config = config or ConversionConfig()
    tokens, held_out, student = prepare(model, tokenizer, corpus, layers, config)
    output = Path(config.output)
    claim_folder(output, identity(model, tokenizer, corpus, layers, config), "conversion.json")
    kept = Report.read(output / "report.json")
    if kept is not None:
        return kept
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    teacher: Any = torch.nn.Module.to(model, device).eval()
    torch.nn.Module.to(student, device)

    def scored(name: str, which: PreTrainedModel, **more: Any) -> Point:
        path = output / "scores" / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(score(which, held_out, config.eval_batch_size)))
        return Point(name, *Score(*json.loads(path.read_text(encoding="utf-8"))), **more)

    carried = carried_weights(student)
    points = [scored("original", teacher), scored("swap", student)]
    for name, stage in config.stages.items():
        run = run_stage(name, stage, student, teacher, tokenizer, tokens, output / FOLDERS[name], config.temperature)
        points.append(scored(name, student, steps=run.steps, seconds=run.seconds, history=run.history))
    if config.control and config.finetune.steps:
        points.append(_control(teacher, tokenizer, tokens, held_out, config, output / FOLDERS["control"]))
    original, swap, *later = points
    for point in later:
        point.closed_perplexity = gap_closed(swap.perplexity, point.perplexity, original.perplexity)
        point.closed_nats = gap_closed(swap.nats, point.nats, original.nats)
    student.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    prompt = _prompt(tokens, config.state_context).to(teacher.device)
    models = {"original": teacher, "converted": student.eval()}
    size, speed = measure_generation(models, prompt, config.decode_tokens, config.decode_repeats)
    report = Report(
        model=type(model).__name__,
        text=corpus.name,
        layers={key: spec["mixer"] for key, spec in student.config.tokenmix["layers"].items()},
        carried={key: list(names) for key, names in carried.items()},
        points=points,
        parameters={name: which.num_parameters() for name, which in models.items()},
        state_bytes=size,
        tokens_per_second=speed,
        state_context=config.state_context,
        device="one thread" if teacher.device.type == "cpu" else str(teacher.device),
        folder=str(output / "model"),
    )
    plot_reports(output / "report.png", {"converted": report})
    report.write(output / "report.json")
    return report


def prepare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    layers: Mapping[str, str | Mapping[str, Any]],
    config: ConversionConfig,
) -> tuple[Tensor, HeldOut, PreTrainedModel]:
    """Check everything that `convert` would refuse, and swap; nothing is written or trained.

    Returns:
        (N,) the tokens to train on, the held-out text, and a copy of the model whose attention is swapped, which is
        the same at every call.

    Raises:
        TypeError, ValueError: as `convert`.
    """
    check_model(model, config)
    set_seed(config.seed)
    student = swap_mixers(copy.deepcopy(model), layers, init=config.init)
    for name, module in student.named_modules():
        if isinstance(module, MixerAttention) and not getattr(model.get_submodule(name), "is_causal", False):
            raise ValueError(f"model: expected a decoder, found attention that reads the future at {name}")
    check_tokenizer(model, tokenizer)
    tokens, held_out = check_text(corpus, tokenizer, config)
    return tokens, held_out, student


def fine_tune_original(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, config: ConversionConfig
) -> Point:
    """What stage 3 alone does to the original: a model that learns more from the text also closes a gap.

    Args:
        model: the original; not changed.
        tokenizer, corpus: as for `convert`.
        config: of which `finetune`, what concerns the held-out text, and `output` are read.

    Returns:
        The original after as many steps as stage 3 has, scored; it goes on and is kept as a conversion is.

    Raises:
        TypeError, ValueError: as `convert`, and for a stage 3 without steps.
    """
    if config.finetune.steps < 1:
        raise ValueError(f"finetune.steps: expected at least 1 for a control, found {config.finetune.steps}")
    nothing = {"hidden": replace(config.hidden, steps=0), "logits": replace(config.logits, steps=0)}
    config = replace(config, **nothing)  # type: ignore[arg-type]  # two stages
    check_model(model, config)
    check_tokenizer(model, tokenizer)
    tokens, held_out = check_text(corpus, tokenizer, config)
    claim_folder(config.output, identity(model, tokenizer, corpus, None, config), "conversion.json")
    return _control(model, tokenizer, tokens, held_out, config, Path(config.output))


def _control(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tensor,
    held_out: HeldOut,
    config: ConversionConfig,
    folder: Path,
) -> Point:
    path = folder / "point.json"
    if not path.is_file():
        tuned, stage = copy.deepcopy(model), replace(config.finetune, train="all")
        run = run_stage("finetune", stage, tuned, model, tokenizer, tokens, folder)
        found = Point("control", *score(tuned, held_out, config.eval_batch_size), steps=run.steps, seconds=run.seconds)
        write_text(path, json.dumps(asdict(replace(found, history=run.history)), indent=2))
    return Point(**json.loads(path.read_text(encoding="utf-8")))


def _prompt(tokens: Tensor, length: int) -> Tensor:
    """(1, length) of the text, from its start, repeated where the text is shorter."""
    return tokens.long().repeat(-(-length // len(tokens)))[None, :length]
