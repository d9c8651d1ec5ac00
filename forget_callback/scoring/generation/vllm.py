"""Greedy generation by the vLLM engine of a GRPO trainer, many times faster than any loop over model forward passes.

Used only where it leaves the training run as it was: sampling would draw from vLLM's own generator, and the weights of
a PEFT model reach vLLM by being merged and unmerged in place, which rounds them. Like every other backend it is checked
against plain forward passes at first use. Tested with a stand-in for vLLM itself, which needs an accelerator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forget_callback.probes.probe import Probe
from forget_callback.scoring.distributed import on_main
from forget_callback.scoring.generation.text import GeneratedText, GenerationRequest, StopChecker
from forget_callback.scoring.guard import replaced

# In place of the trainer's sampling settings.
_GREEDY = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "logprobs": 0,
    "structured_outputs_regex": None,
}


class VLLM:
    """TRL's `VLLMGeneration` for the duration of one snapshot.

    Args:
        generation: `trainer.vllm_generation`: colocated, or a server that the main process talks to.
    """

    def __init__(self, generation: Any) -> None:
        self.generation = generation
        self._synced = False

    @staticmethod
    def supports(model: Any, probe: Probe) -> bool:
        """Whether generating for this probe has no side effects on training."""
        return probe.temperature == 0 and not hasattr(model, "merge_adapter")

    def generate(
        self, requests: Sequence[GenerationRequest], own: Sequence[int], checker: StopChecker, *, calls: int
    ) -> list[GeneratedText | None]:
        """The generated texts of this rank's requests.

        Args:
            requests: All of them: vLLM's settings must be the same on every rank.
            own: Indices of this rank's requests, ``(n,)``.
            calls: Prompts that each rank submits, `n` or more: vLLM splits its outputs by that number.

        Raises:
            ValueError: If vLLM's context is too short for a request.
        """
        longest = max(len(request.prompt) + request.max_new_tokens for request in requests)
        limit = on_main(self._max_model_len)
        if limit is not None and longest > limit:
            raise ValueError(
                f"a prompt and its generated text take up to {longest} tokens, but vLLM was started with "
                f"max_model_len={limit}"
            )
        if not self._synced:
            self.generation.sync_weights()  # vLLM still has the weights of the last rollout
            self._synced = True
        prompts = [list(requests[i].prompt) for i in [*own, *[own[0]] * (calls - len(own))]]
        stop = sorted(set.intersection(*(set(request.stop) for request in requests)))
        more: dict[str, Any] = {"stop_token_ids": sorted(checker.eos_ids)}
        if stop:
            more |= {"stop": stop, "include_stop_str_in_output": True}
        limit = max(request.max_new_tokens for request in requests)
        with replaced(self.generation, **_GREEDY, max_completion_length=limit, generation_kwargs=more):
            _, completions, _, _ = self.generation.generate(prompts=prompts, images=None, num_generations=1)
        return [checker.truncate(requests[i], list(tokens)) for i, tokens in zip(own, completions)]

    def _max_model_len(self) -> int | None:
        """Context length that vLLM was started with, None if the server does not report it."""
        if self.generation.mode == "colocate":
            return int(self.generation.llm.llm_engine.model_config.max_model_len)
        length = self.generation.vllm_client.get_server_info()["model_config"].get("max_model_len")
        return None if length is None else int(length)
