"""Loading that never runs code of a checkpoint: safetensors only, and no remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    _Base = PreTrainedModel
else:
    _Base = object

CODE_FIELDS = ("auto_map", "custom_pipelines")  # of a config.json: where transformers finds code to import
_ARGUMENT = "pretrained_model_name_or_path"
_WHY = "loading a pickle can run code, so only safetensors are read"
_CONVERT = (
    "if you trust the file, convert it once: `tensors = torch.load(FILE, weights_only=True)`, then "
    "`safetensors.torch.save_file({{name: t.clone() for name, t in tensors.items()}}, {name!r}, {{'format': 'pt'}})`"
)


class SafeLoading(_Base):
    """Put before a `PreTrainedModel` among the bases of a class: its `from_pretrained` never runs a checkpoint's code.

    - Weights and adapters come from safetensors. A pickle is refused before it is opened, also as shards, also where a
      safetensors index names it; where safetensors stand beside a pickle, the pickle is left alone.
    - `trust_remote_code` is not followed: no Python file of a checkpoint (`custom_generate`) is imported. The Auto
      classes follow a configuration's `CODE_FIELDS` before they come here, so the configuration drops those.

    Example:
        >>> import tempfile
        >>> from tokenmix.models import MixerForCausalLM
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "pytorch_model.bin").write_bytes(b"pickled")
        ...     MixerForCausalLM.from_pretrained(folder)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: pretrained_model_name_or_path: expected safetensors weights, found .../pytorch_model.bin; loading...
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As `transformers.PreTrainedModel.from_pretrained`, for safetensors alone.

        Args:
            pretrained_model_name_or_path: a folder, a safetensors file, or a name on the hub.
            model_args, kwargs: as there, but `use_safetensors` and `weights_only` may only be True, and
                `trust_remote_code` changes nothing.

        Raises:
            ValueError: weights or adapters that are pickled, or an argument that asks for them; the message names the
                file and says how to convert it.
        """
        for name in ("use_safetensors", "weights_only"):
            if kwargs.get(name) not in (None, True):
                advice = _CONVERT.format(name="model.safetensors")
                raise ValueError(f"{name}: expected True, found {kwargs[name]!r}; {_WHY}; {advice}")
        if pretrained_model_name_or_path is not None and kwargs.get("gguf_file") is None:
            _refuse_pickles(Path(pretrained_model_name_or_path), kwargs.get("subfolder") or "", kwargs.get("variant"))
        kwargs.update(use_safetensors=True, weights_only=True, trust_remote_code=False)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except OSError as error:
            wanted = any(name in str(error) for name in ("safetensors", "pytorch_model.bin"))
            if wanted and not Path(pretrained_model_name_or_path).exists():  # on the hub, weights of another kind
                error.add_note(f"{cls.__name__}: {_WHY}; {_CONVERT.format(name='model.safetensors')}")
            raise

    def load_adapter(self, peft_model_id: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `transformers.PreTrainedModel.load_adapter`, for safetensors alone.

        Args:
            peft_model_id: a folder, or a name on the hub.
            args, kwargs: as there.

        Raises:
            ValueError: an adapter that is pickled; the message names the file and says how to convert it.
        """
        if peft_model_id is not None:
            where = {**kwargs, **(kwargs.get("adapter_kwargs") or {})}.get("subfolder") or ""
            _refuse_pickled_adapter(Path(peft_model_id) / where, "peft_model_id")
        return super().load_adapter(peft_model_id, *args, **kwargs)

    @classmethod
    def _load_pretrained_model(
        cls, model: Any, state_dict: Any, checkpoint_files: list[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """The one door through which transformers reads weights and adapters, from a folder or from the hub."""
        for file in checkpoint_files or ():
            if not str(file).endswith((".safetensors", ".gguf")):
                raise _refusal(Path(file))
        return super()._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)


def _refuse_pickles(path: Path, subfolder: str, variant: str | None) -> None:
    """Refuse what transformers would unpickle at a path, before anything is opened.

    Raises:
        ValueError: a pickle where safetensors are missing, or named by a safetensors index.
    """
    if path.is_file():
        if not path.name.endswith((".safetensors", ".safetensors.index.json")):
            raise _refusal(path)
        return
    folder = path / subfolder
    infix = "" if variant is None else f".{variant}"
    index = folder / f"model.safetensors.index{infix}.json"
    if index.is_file() and not (folder / f"model{infix}.safetensors").is_file():
        for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            if not shard.endswith(".safetensors"):
                raise _refusal(folder / shard)
    elif not (folder / f"model{infix}.safetensors").is_file():
        for name in (f"pytorch_model{infix}.bin", f"pytorch_model.bin.index{infix}.json"):
            if (folder / name).is_file():
                raise _refusal(folder / name)
    _refuse_pickled_adapter(folder)


def _refuse_pickled_adapter(folder: Path, argument: str = _ARGUMENT) -> None:
    adapter = folder / "adapter_model.bin"
    if adapter.is_file() and not adapter.with_suffix(".safetensors").is_file():
        raise _refusal(adapter, argument)


def _refusal(file: Path, argument: str = _ARGUMENT) -> ValueError:
    name = "adapter_model.safetensors" if file.name.startswith("adapter") else "model.safetensors"
    return ValueError(f"{argument}: expected safetensors weights, found {file}; {_WHY}; {_CONVERT.format(name=name)}")
