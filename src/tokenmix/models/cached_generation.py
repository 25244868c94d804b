"""What a language model with a `MixerCache` tells transformers' `generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenmix.models.cache import CACHE_ARGUMENT, MixerCache, take_cache

if TYPE_CHECKING:
    from transformers import GenerationMixin, PreTrainedModel

    class _Base(PreTrainedModel, GenerationMixin):
        pass

else:
    _Base = object


class CachedGeneration(_Base):
    """Put before `GenerationMixin` among the bases of a class: `generate` then keeps its states in a `MixerCache`."""

    @staticmethod
    def create_masks_for_generate(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        """The 2-D mask as it is, also for static caches: which tokens may see which is the mixers' own rule."""
        return attention_mask

    def check_generation(self, columns: int, attention_mask: Tensor | None, segment_ids: Tensor | None = None) -> None:
        """Refuse what would run out of places, before the first token.

        Args:
            columns: of prompt and new tokens together.
            attention_mask: (B, L) of the prompt.
            segment_ids: (B, L) documents of a packed prompt, of which the last goes on.

        Raises:
            ValueError: more than the configuration's `max_position_embeddings`.
        """
        limit = self.config.max_position_embeddings
        if limit is None or columns <= limit:
            return
        real = attention_mask
        if segment_ids is not None:
            last = (segment_ids == segment_ids[:, -1:]).long()
            real = last if real is None else last * real
        found = columns if real is None else columns - real.shape[1] + int(real.sum(1).max())
        if found > limit:
            raise ValueError(
                f"max_new_tokens: expected prompt and new tokens to be at most max_position_embeddings={limit}, found "
                f"{found}"
            )

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
        *args: Any,
    ) -> Any:
        if generation_config.cache_implementation is not None:
            raise ValueError(
                "cache_implementation: expected None, since the states of mixers have their own cache, found "
                f"{generation_config.cache_implementation!r}"
            )
        given = (model_kwargs.get(name) for name in ("attention_mask", "segment_ids"))
        self.check_generation(max_cache_length + 1, *given)  # the last token is not read
        if take_cache(None, model_kwargs.get(CACHE_ARGUMENT)) is None and generation_config.use_cache:
            model_kwargs[CACHE_ARGUMENT] = MixerCache(reserve=max_cache_length)
        # transformers types self as a protocol of its own models
        prepare: Any = super()._prepare_cache_for_generation  # type: ignore[misc]
        return prepare(generation_config, model_kwargs, generation_mode, batch_size, max_cache_length, *args)
