"""What `generate` owes to `forward`: tests of ours in place of GenerationTesterMixin, which PyPI does not carry.

Greedy tokens of tiny random models are equal by accident, so these compare logits, of models whose weights are far from
those at the start, with junk under the padding. The reference is always `forward` on whole rows, without a cache.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.generation.test_utils import GenerationTesterMixin
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, StaticCache

NEW = 6
TOLERANCE = {"atol": 2e-4, "rtol": 2e-4}


class GenerationConformance(GenerationTesterMixin):
    """Mixed into a test case with a `model_tester`, and `generator`, the class that generates."""

    model_tester: Any
    generator: Any

    def make(self, **options: Any) -> Any:
        """A model whose mistakes show, and which never stops early."""
        torch.manual_seed(0)
        config = self.model_tester.get_config()
        config.eos_token_id, config.tie_word_embeddings = None, False
        for name, value in options.items():
            setattr(config, name, value)
        model = self.generator(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                centre = 1.0 if "norm" in name else -2.0 if name.endswith("A_log") else 0.0
                parameter.normal_(centre, 0.3)
        return model

    def tokens(self, batch: int = 2, length: int = 7, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(3, self.model_tester.vocab_size, (batch, length), generator=generator)

    def generate(self, model: Any, prompt: Tensor | None, **options: Any) -> Any:
        torch.manual_seed(3)
        usual = {"max_new_tokens": NEW, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        return model.generate(prompt, **{**usual, **options})

    def expected(self, model: Any, rows: Tensor, count: int = NEW, **inputs: Any) -> Tensor:
        """(B, count, V) logits before each of the last tokens of whole rows."""
        with torch.no_grad():
            return model(rows, use_cache=False, **inputs).logits[:, -count - 1 : -1]

    def check(self, model: Any, output: Any, count: int = NEW, **inputs: Any) -> None:
        """The logits of every step are those of `forward` on what was generated."""
        found = torch.stack(output.logits, dim=1)
        torch.testing.assert_close(found, self.expected(model, output.sequences, count, **inputs), **TOLERANCE)

    def test_generate_greedy(self) -> None:
        model, prompt = self.make(), self.tokens()
        output = self.generate(model, prompt)
        self.check(model, output)
        chosen = torch.stack(output.logits, dim=1).argmax(-1)
        assert torch.equal(output.sequences, torch.cat([prompt, chosen], dim=1))

    def test_generate_without_cache(self) -> None:
        model, prompt = self.make(), self.tokens()
        output = self.generate(model, prompt, use_cache=False)
        assert (getattr(output, "cache", None) or getattr(output, "past_key_values", None)) is None
        self.check(model, output)

    def test_generate_sampled(self) -> None:
        model, prompt = self.make(), self.tokens()
        options = {"do_sample": True, "temperature": 1.3, "top_k": 20, "num_return_sequences": 3}
        output = self.generate(model, prompt, **options)
        assert len(output.sequences) == 3 * len(prompt)
        assert len(output.sequences.unique(dim=0)) > len(prompt)
        self.check(model, output)

    def test_generate_beams(self) -> None:
        """The score of a beam is the sum of the log-probabilities of its tokens, whatever beams it came from."""
        model, prompt = self.make(), self.tokens()
        options = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0, "output_scores": True}
        output = self.generate(model, prompt, **options)
        crossed = [index for index in output.beam_indices[:, :NEW].diff(dim=1).flatten().tolist() if index]
        assert crossed, "no beam took the place of another: the test would show nothing"
        chances = self.expected(model, output.sequences).log_softmax(-1)
        score = chances.gather(2, output.sequences[:, -NEW:, None]).sum(dim=(1, 2))
        torch.testing.assert_close(output.sequences_scores, score, atol=1e-3, rtol=1e-4)

    def test_generate_beams_sampled(self) -> None:
        model, prompt = self.make(), self.tokens()
        options = {"num_beams": 3, "do_sample": True, "output_scores": True, "num_return_sequences": 3}
        cached, whole = (self.generate(model, prompt, use_cache=use, **options) for use in (True, False))
        assert torch.equal(cached.sequences, whole.sequences)
        torch.testing.assert_close(cached.sequences_scores, whole.sequences_scores, **TOLERANCE)

    def test_generate_left_padded(self) -> None:
        """Rows of a batch, with junk before the shorter ones, go on as they do alone."""
        model, prompt = self.make(), self.tokens(3, 9)
        starts = [0, 2, 5]
        mask = (torch.arange(9) >= torch.tensor(starts)[:, None]).long()
        batch = self.generate(model, prompt, attention_mask=mask)
        for row, start in enumerate(starts):
            whole = batch.sequences[row : row + 1, start:]
            found = torch.stack(batch.logits, dim=1)[row : row + 1]
            torch.testing.assert_close(found, self.expected(model, whole), **TOLERANCE)

    def test_generate_beams_left_padded(self) -> None:
        model, prompt = self.make(), self.tokens(2, 8)
        options = {"num_beams": 3, "length_penalty": 0.0, "output_scores": True}
        mask = torch.ones_like(prompt)
        mask[1, :3] = 0
        output = self.generate(model, prompt, attention_mask=mask, **options)
        for row, start in enumerate((0, 3)):
            whole = output.sequences[row : row + 1, start:]
            chances = self.expected(model, whole).log_softmax(-1)
            score = chances.gather(2, whole[:, -NEW:, None]).sum()
            torch.testing.assert_close(output.sequences_scores[row], score, atol=1e-3, rtol=1e-4)

    def test_generate_continues_from_a_cache(self) -> None:
        """Two calls in a row are one long call: a cache holds what its tokens left, and nothing of other calls."""
        model, prompt = self.make(), self.tokens()
        first = self.generate(model, prompt, max_new_tokens=3)
        question = torch.cat([first.sequences, self.tokens(2, 4, seed=5)], dim=1)
        second = self.generate(model, question, **{self.name(): self.cache_of(first)})
        self.check(model, second)
        again = self.generate(model, prompt)
        self.check(model, again)

    def test_generate_from_embeddings(self) -> None:
        model, prompt = self.make(), self.tokens()
        features = model.get_input_embeddings()(prompt)
        found = self.generate(model, None, inputs_embeds=features)
        expected = self.generate(model, prompt)
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), **TOLERANCE)

    def test_generate_in_chunks(self) -> None:
        """A prompt that is read three tokens at a time."""
        model, prompt = self.make(), self.tokens(2, 8)
        self.check(model, self.generate(model, prompt, prefill_chunk_size=3))

    def test_generate_with_caches_of_transformers(self) -> None:
        model, prompt = self.make(), self.tokens()
        for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=24)):
            with self.subTest(type(cache).__name__):
                output = self.generate(model, prompt, **{self.name(): cache})
                assert self.cache_of(output) is cache
                self.check(model, output)

    def test_generate_stops(self) -> None:
        """Rows that are done are padded, and do not disturb those that go on."""
        model, prompt = self.make(), self.tokens()
        free = self.generate(model, prompt)
        stop = int(free.sequences[0, prompt.shape[1] + 1])
        output = self.generate(model, prompt, eos_token_id=stop, pad_token_id=0)
        row = output.sequences[0, prompt.shape[1] :].tolist()
        end = row.index(stop)
        assert all(token == 0 for token in row[end + 1 :])
        torch.testing.assert_close(
            torch.stack(output.logits, dim=1)[1], torch.stack(free.logits, dim=1)[1, : len(output.logits)], **TOLERANCE
        )

    def test_generate_output(self) -> None:
        model, prompt = self.make(), self.tokens()
        output = self.generate(model, prompt, output_hidden_states=True, output_scores=True)
        assert tuple(output.sequences.shape) == (2, prompt.shape[1] + NEW)
        assert [len(part) for part in (output.logits, output.scores, output.hidden_states)] == [NEW] * 3
        lengths = [step[0].shape[1] for step in output.hidden_states]
        assert lengths == [prompt.shape[1]] + [1] * (NEW - 1)
        assert all(len(step) == self.model_tester.num_hidden_layers + 1 for step in output.hidden_states)
        cache = self.cache_of(output)
        assert isinstance(cache, Cache)
        assert cache.get_seq_length() == prompt.shape[1] + NEW - 1

    def test_generate_assisted(self) -> None:
        """Guessed tokens are taken back: exactly, where every layer can go back; otherwise it is refused."""
        model, prompt = self.make(), self.tokens(1, 5)
        prompt = torch.cat([prompt, prompt, prompt], dim=1)  # something to look up
        if model._is_stateful:
            with pytest.raises(ValueError, match="stateful"):
                self.generate(model, prompt, prompt_lookup_num_tokens=3)
            return
        for options in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": self.make()}):
            output = self.generate(model, prompt, **options)
            found = torch.stack(output.logits, dim=1)[:, :NEW]
            torch.testing.assert_close(found, self.expected(model, output.sequences), **TOLERANCE)

    def test_forward_in_pieces(self) -> None:
        """Single tokens and odd chunks with a cache are the whole, rows padded on the left too."""
        model, rows = self.make(), self.tokens(2, 9)
        mask = torch.ones_like(rows)
        mask[1, :2] = 0
        with torch.no_grad():
            whole = model(rows, attention_mask=mask, use_cache=False).logits
            for sizes in ([1] * 9, [4, 1, 3, 1], [2, 7]):
                cache, parts, end = None, [], 0
                for size in sizes:
                    end += size
                    inputs = {"attention_mask": mask[:, :end], "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
                    inputs["position_ids"] = inputs["position_ids"][:, end - size : end]
                    output = model(rows[:, end - size : end], use_cache=True, **{self.name(): cache}, **inputs)
                    cache, parts = self.cache_of(output), [*parts, output.logits]
                found = torch.cat(parts, dim=1)
                torch.testing.assert_close(found[mask.bool()], whole[mask.bool()], **TOLERANCE)

    def test_forward_logits_to_keep(self) -> None:
        model, rows = self.make(), self.tokens()
        with torch.no_grad():
            whole = model(rows).logits
            torch.testing.assert_close(model(rows, logits_to_keep=2).logits, whole[:, -2:], **TOLERANCE)

    @staticmethod
    def name() -> str:
        from tokenmix.models.cache import CACHE_ARGUMENT

        return CACHE_ARGUMENT

    def cache_of(self, output: Any) -> Any:
        return output[self.name()]
