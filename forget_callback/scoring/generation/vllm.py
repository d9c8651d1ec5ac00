"""Greedy answers by the vLLM of a GRPO trainer, which writes many times faster than any loop over a model's forwards.

Only what leaves the training run as it was: samples would be drawn from vLLM's own generator, and the weights of a PEFT
model get to vLLM by being merged and unmerged in place, which rounds them. Like every other way of writing it is
compared with plain forwards at first use. Run here with a stand-in for vLLM itself, which needs an accelerator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from forget_callback.probes.probe import Probe
from forget_callback.scoring.distributed import on_main
from forget_callback.scoring.generation.text import GeneratedText, GenerationRequest, StopChecker


class VLLM:
    """TRL's `VLLMGeneration` for the time of one snapshot.

    Args:
        generation: `trainer.vllm_generation`: colocated, or a server that the main process speaks to.
    """

    def __init__(self, generation: Any) -> None:
        self.generation = generation
        self._synced = False

    @staticmethod
    def supports(model: Any, probe: Probe) -> bool:
        """Whether asking this probe leaves no trace in training."""
        return probe.temperature == 0 and not hasattr(model, "merge_adapter")

    def generate(
        self, requests: Sequence[GenerationRequest], own: Sequence[int], checker: StopChecker, *, calls: int
    ) -> list[GeneratedText | None]:
        """The answers to some of the requests.

        Args:
            requests: All of them: what is set for vLLM must be the same on every process.
            own: Which of them this process answers, ``(n,)``.
            calls: Answers that each process asks for, `n` or more: vLLM deals them out by that number.

        Raises:
            ValueError: If vLLM's context is too short for a request.
        """
        longest = max(len(request.prompt) + request.max_new_tokens for request in requests)
        room = on_main(self._context)
        if room is not None and longest > room:
            raise ValueError(f"a prompt and its answer take {longest} tokens, and vLLM was started with {room}")
        if not self._synced:
            self.generation.sync_weights()  # it has those of the last generation for training
            self._synced = True
        prompts = [list(requests[i].prompt) for i in [*own, *[own[0]] * (calls - len(own))]]
        stop = sorted(set.intersection(*(set(request.stop) for request in requests)))
        more: dict[str, Any] = {"stop_token_ids": sorted(checker.eos_ids)}
        if stop:
            more |= {"stop": stop, "include_stop_str_in_output": True}
        with self._set(
            max_completion_length=max(request.max_new_tokens for request in requests), generation_kwargs=more
        ):
            _, written, _, _ = self.generation.generate(prompts=prompts, images=None, num_generations=1)
        return [checker.truncate(requests[i], list(tokens)) for i, tokens in zip(own, written)]

    def _context(self) -> int | None:
        """Tokens that vLLM was started for, None if it does not say."""
        if self.generation.mode == "colocate":
            return int(self.generation.llm.llm_engine.model_config.max_model_len)
        room = self.generation.vllm_client.get_server_info()["model_config"].get("max_model_len")
        return None if room is None else int(room)

    @contextlib.contextmanager
    def _set(self, **wanted: Any) -> Iterator[None]:
        """Greedy, without the trainer's own settings, which are put back."""
        greedy = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "logprobs": 0}
        wanted = {**greedy, "structured_outputs_regex": None, **wanted}
        kept = {name: getattr(self.generation, name) for name in wanted}
        try:
            vars(self.generation).update(wanted)
            yield
        finally:
            vars(self.generation).update(kept)
