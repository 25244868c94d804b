"""Two towers that find pictures by caption and captions by picture, trained by late interaction or by their means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from tokenmix.data.pairs import PairData, matches, pixels
from tokenmix.layout import Layout
from tokenmix.losses import LateInteraction, late_interaction_scores
from tokenmix.mixer import TokenMixer, check_positive
from tokenmix.models import MixerConfig, MixerModel, SafeLoading
from tokenmix.models.initialise import redraw
from tokenmix.retrieval import COUNTS, retrieval
from tokenmix.training.multimodal_data import to_patches

_ROWS = 128  # encoded at a time


@dataclass
class TowersOutput(ModelOutput):
    """What `RetrievalTowers` gives.

    Args:
        loss: in both directions, over the pairs of the batch.
        text: (B, T, d) tokens of the captions. image: (B, R, d) of the pictures.
    """

    loss: Tensor | None = None
    text: Tensor | None = None
    image: Tensor | None = None


@strict
class RetrievalTowersConfig(MixerConfig):
    """Configuration of `RetrievalTowers`.

    Args:
        patch: numbers a patch.
        patches: most patches of a picture.
        interaction: "token" (late interaction, FILIP), or "pooled" (the mean of each side's tokens, which is CLIP's
            way).
        shared: width in which tokens are compared.
        kwargs: the fields of `MixerConfig`, for both towers; mixers that read both ways.

    Raises:
        ValueError: an unknown interaction, sizes below 1, or what `MixerConfig` refuses.
    """

    model_type = "retrieval_towers"

    patch: int = 64
    patches: int = 256
    interaction: str = "token"
    shared: int = 64

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("patch", "patches", "shared"):
            check_positive(name, getattr(self, name))
        if self.interaction not in ("token", "pooled"):
            raise ValueError(f"interaction: expected 'token' or 'pooled', found {self.interaction!r}")
        super().__post_init__(**kwargs)


class RetrievalTowers(SafeLoading, PreTrainedModel):
    """A tower over the bytes of captions and one over the patches of pictures, with a shared width.

    Args:
        config: sizes and mixers of both towers.

    Example:
        >>> mixers = {"a": {"mixer": "attention", "heads": 4, "causal": False}}
        >>> towers = RetrievalTowers(RetrievalTowersConfig(hidden_size=32, mixers=mixers, patch=16))
        >>> towers(torch.tensor([[104, 105]]), torch.zeros(1, 4, 16)).image.shape
        torch.Size([1, 4, 64])

    Source:
        Yao et al. 2022 (FILIP), arXiv 2111.07783; pooled: Radford et al. 2021 (CLIP), arXiv 2103.00020.
    """

    config: RetrievalTowersConfig
    config_class = RetrievalTowersConfig
    base_model_prefix = "towers"
    main_input_name = "input_ids"

    def __init__(self, config: RetrievalTowersConfig) -> None:
        super().__init__(config)
        dim = config.hidden_size
        self.text, self.image = MixerModel(config), MixerModel(config)
        self.image.embed_tokens = nn.Embedding(config.patches, dim)  # places of patches
        self.patch_in = nn.Linear(config.patch, dim)
        self.text_out = nn.Linear(dim, config.shared, bias=False)
        self.image_out = nn.Linear(dim, config.shared, bias=False)
        self.loss = LateInteraction()
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, see `tokenmix.models.base`."""
        return False

    def _init_weights(self, module: nn.Module) -> None:
        """As torch and the mixers draw them; what is loaded stays."""
        if isinstance(module, (nn.Linear, nn.Embedding, TokenMixer)):
            redraw(module)

    def forward(
        self,
        input_ids: Tensor,
        patches: Tensor,
        attention_mask: Tensor | None = None,
        groups: Tensor | None = None,
        return_loss: bool = True,
    ) -> TowersOutput:
        """Encode both sides.

        Args:
            input_ids: (B, T) bytes. attention_mask: (B, T), 1 for real ones.
            patches: (B, R, numbers a patch).
            groups: (B,) equal for pairs that say the same, which are no wrong answers for each other.
            return_loss: transformers' mark of a model whose loss needs no labels.
        """
        text, mask = self.read_text(input_ids, attention_mask)
        image = self.read_image(patches)
        loss = self.loss(text, image, mask, groups=groups)
        return TowersOutput(loss, text, image)

    def read_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, T, d), or (B, 1, d) where pooled, and which tokens are real."""
        x = self.text_out(self.text(input_ids, attention_mask=attention_mask).last_hidden_state)
        mask = None if attention_mask is None else attention_mask.bool()
        return self._pool(x, mask)

    def read_image(self, patches: Tensor) -> Tensor:
        """(B, R, d), or (B, 1, d) where pooled."""
        x = self.patch_in(patches) + self.image.embed_tokens.weight[: patches.shape[1]]
        x = self.image(inputs_embeds=x, layout=Layout()).last_hidden_state
        return self._pool(self.image_out(x), None)[0]

    def _pool(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.config.interaction == "token":
            return x, mask
        weight = torch.ones(x.shape[:2], device=x.device) if mask is None else mask.float()
        return (x * weight[..., None]).sum(1, keepdim=True) / weight.sum(1)[:, None, None], None


class PairCollator:
    """Batches of `RetrievalTowers` from ids of pairs.

    Args:
        data: the pairs.
        patch_size: side of a patch.
    """

    def __init__(self, data: PairData, patch_size: int) -> None:
        self.data, self.patch_size, self.groups = data, patch_size, data.caption_ids

    def __call__(self, rows: list[Any]) -> dict[str, Tensor]:
        """(B,) ids to a batch."""
        ids = torch.as_tensor(rows).tolist()
        texts = [torch.tensor(list(self.data.captions[i].encode())) for i in ids]
        tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]
        patches = to_patches(pixels(self.data.images[ids]), self.patch_size)
        return {"input_ids": tokens, "attention_mask": mask.long(), "patches": patches, "groups": self.groups[ids]}


@torch.no_grad()
def score_retrieval(model: RetrievalTowers, data: PairData, ids: Tensor, collate: PairCollator) -> dict[str, float]:
    """Recall at 1, 5 and 10 in both directions among some pairs; twins count as right.

    Returns:
        As `tokenmix.retrieval.retrieval`.
    """
    model.eval()
    texts, images = [], []
    for part in ids.split(_ROWS):
        batch = {name: value.to(model.device) for name, value in collate(part.tolist()).items()}
        texts.append(model.read_text(batch["input_ids"], batch["attention_mask"]))
        images.append(model.read_image(batch["patches"]))
    longest = max(x.shape[1] for x, _ in texts)
    text = torch.cat([F.pad(x, (0, 0, 0, longest - x.shape[1])) for x, _ in texts])
    masks = [torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if m is None else m for x, m in texts]
    mask = torch.cat([F.pad(m, (0, longest - m.shape[1])) for m in masks])
    t2i, i2t = late_interaction_scores(text, torch.cat(images), mask)
    return retrieval(t2i.cpu(), i2t.cpu(), COUNTS, relevant=matches(data, ids).T)
