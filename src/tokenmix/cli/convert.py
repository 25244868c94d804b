"""`tokenmix convert`: the attention of a pretrained language model, to linear mixers or a hybrid."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenmix.cli.errors import UsageError, json_object

if TYPE_CHECKING:
    from tokenmix.conversion import ConversionConfig
    from tokenmix.data import Corpus

STAGES = ("hidden", "logits", "finetune")


def add_parser(commands: Any) -> None:
    """Add the arguments of this command."""
    parser = commands.add_parser(
        "convert", help="convert the attention of a language model to other mixers", description=run.__doc__
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a folder, or a name on the Hugging Face hub, of a decoder")
    add("--text", required=True, metavar="TRAIN", help="file, glob or folder to train on; or python_stdlib, ...")
    add("--eval", metavar="TEST", help="file or glob to score on (default: the last 5 %% of TRAIN)")
    add("--to", metavar="MIXER", help="name of a mixer for every layer")
    add("--options", default="{}", metavar="JSON", help="its options; left out ones are those of the attention")
    add("--keep-every", type=int, metavar="N", help="keep the attention of the last of every N layers")
    add("--layers", metavar="JSON", help="""instead of --to: '{"0-2": {"mixer": "mamba2"}}'""")
    add("--output", required=True, metavar="DIR", help="folder of this conversion; the same command resumes it")
    add(
        "--tokenizer",
        metavar="NAME",
        help="folder or name (default: MODEL's), or `bytes` for a model of at least 259 tokens (256 bytes, 3 special)",
    )
    add("--init", choices=("attention", "random"), default="attention", help="what mixers start from")
    add("--control", action="store_true", help="also fine-tune the original, for comparison")
    add("--bf16", action="store_true", help="train in bfloat16 autocast")
    add("--context", type=int, help="tokens a row in every stage and of TEST (default 256)")
    add("--batch-size", type=int, help="rows an update in every stage (default 8)")
    add("--accumulation", type=int, help="forwards an update in every stage (default 1)")
    add("--save-steps", type=int, help="updates between two checkpoints (default 200)")
    add("--eval-bytes", type=int, help="score only the first bytes of TEST")
    add("--state-context", type=int, help="tokens before memory and speed are measured (default 1024, or what fits)")
    add("--temperature", type=float, help="of both distributions in stage 2 (default 1)")
    add("--seed", type=int, default=0, help="of weights that are drawn and the order of the text")
    for number, stage in enumerate(STAGES, 1):
        add(f"--{stage}-steps", type=int, help=f"updates of stage {number}; 0 leaves it out (default 500)")
        add(f"--{stage}-lr", type=float, help=f"learning rate of stage {number}")
        if stage != "hidden":
            add(f"--{stage}-train", choices=("mixers", "all"), help=f"which weights change in stage {number}")


def run(arguments: argparse.Namespace) -> int:
    """Swap attention for mixers, then match hidden states, match logits and fine-tune; print what each step gains."""
    if (arguments.to is None) == (arguments.layers is None):
        raise UsageError("expected either --to MIXER or --layers JSON")
    if arguments.layers is not None and (arguments.keep_every is not None or arguments.options != "{}"):
        raise UsageError("--keep-every, --options: go with --to; --layers names layers and options itself")
    try:
        from tokenmix.conversion import convert, print_report
        from tokenmix.hf.swap import named_layers  # tokenmix.hf: models that are swapped are refused by what they are
    except ModuleNotFoundError as error:
        raise UsageError(f"{error}; pip install 'tokenmix[recipes]'") from error
    try:
        corpus = _text(arguments.text, arguments.eval)
        _check_mixers(arguments)
        model = _load_model(arguments.model)
        layers = _layers(arguments, model.config.get_text_config().num_hidden_layers)
        named_layers(model, layers)  # before the tokenizer, whose absence would hide a mistyped layer
        tokenizer = _load_tokenizer(arguments.tokenizer, arguments.model)
        report = convert(model, tokenizer, corpus, layers, _config(arguments, model))
    except (TypeError, ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    print_report(report)
    return 0


def _text(train: str, test: str | None) -> Corpus:
    from tokenmix.data import load_corpus
    from tokenmix.data.text import EMBEDDED
    from tokenmix.data.text_files import HUB

    if train in EMBEDDED or train in HUB:
        if test is not None:
            raise UsageError(f"--eval: {train} has a test split of its own; --eval goes with files")
        return load_corpus(train) if train in EMBEDDED else load_corpus(hub=train)
    return load_corpus(files=train if test is None else {"train": train, "test": test})


def _load_model(name: str) -> Any:
    """A model in float32.

    Raises:
        UsageError: one that cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    name = _folder_or_name("MODEL", name)
    try:
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"MODEL: {name}{_no_folder(name)} could not be loaded as a causal language model: {_short(error)}"
        ) from error


def _load_tokenizer(name: str | None, model: str) -> Any:
    """The tokenizer of a name, or the model's.

    Raises:
        UsageError: one that cannot be loaded.
    """
    from transformers import AutoTokenizer

    from tokenmix.data import byte_tokenizer

    if name == "bytes":
        return byte_tokenizer()
    where = _folder_or_name("--tokenizer", name or model)
    try:
        return AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--tokenizer: none could be loaded from {where}{_no_folder(where)} ({_short(error)}); name another with "
            "--tokenizer, or `--tokenizer bytes` for a model over bytes (at least 259 tokens)"
        ) from error


def _folder_or_name(option: str, name: str) -> str:
    """What was typed, with its home written out.

    Raises:
        UsageError: what can only be a folder, and is none.
    """
    path = Path(name).expanduser()
    if not path.is_dir() and (name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1):
        raise UsageError(f"{option}: expected a folder or a name on the hub, found no folder {name}")
    return str(path) if name.startswith("~") else name


def _no_folder(name: str) -> str:
    return "" if Path(name).is_dir() else " (no folder here, so a name on the hub)"


def _check_mixers(arguments: argparse.Namespace) -> None:
    """Refuse a mixer that is not there before anything is loaded."""
    from tokenmix.mixer import get_mixer

    specs = json_object("--layers", arguments.layers).values() if arguments.layers is not None else [arguments.to]
    for spec in specs:
        name = spec.get("mixer") if isinstance(spec, dict) else spec
        if isinstance(name, str):
            get_mixer(name)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _layers(arguments: argparse.Namespace, count: int) -> dict[str, Any]:
    if arguments.layers is not None:
        return json_object("--layers", arguments.layers)
    spec = {"mixer": arguments.to, **json_object("--options", arguments.options)}
    every = arguments.keep_every
    if every is None:
        return {"all": spec}
    if not 2 <= every <= count:
        raise UsageError(f"--keep-every: expected 2 to the model's {count} layers, found {every}")
    return {str(layer): spec for layer in range(count) if layer % every != every - 1}


def _config(arguments: argparse.Namespace, model: Any) -> ConversionConfig:
    from tokenmix.conversion import ConversionConfig

    config = ConversionConfig(
        init=arguments.init,
        seed=arguments.seed,
        control=arguments.control,
        eval_bytes=arguments.eval_bytes,
        output=arguments.output,
    )
    for name in STAGES:
        stage = getattr(config, name)
        stage.seed, stage.bf16 = arguments.seed, arguments.bf16
        for option in ("context", "batch_size", "accumulation", "save_steps"):
            if getattr(arguments, option) is not None:
                setattr(stage, option, getattr(arguments, option))
        for option, target in (("steps", "steps"), ("lr", "learning_rate"), ("train", "train")):
            value = getattr(arguments, f"{name}_{option}", None)
            if value is not None:
                setattr(stage, target, value)
        stage.warmup_steps = min(stage.warmup_steps, stage.steps // 10)
    if arguments.context is not None:
        config.eval_context = arguments.context
        config.eval_overlap = min(config.eval_overlap, arguments.context // 2)
    if arguments.temperature is not None:
        config.temperature = arguments.temperature
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if arguments.state_context is not None:
        config.state_context = arguments.state_context
    elif places is not None:
        config.state_context = max(1, min(config.state_context, places - config.decode_tokens))
    return config
