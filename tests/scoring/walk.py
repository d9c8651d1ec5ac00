"""Every causal architecture of transformers, tiny: scored equal to plain forward passes, or refused in words.

`python -m tests.scoring.walk [NAME ...]` walks all of them, which takes minutes; the suite walks a part every day.
Configs are made small by a table of settings that most share, and one of what single architectures need besides.
"""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from forget_callback import Generation, MultipleChoice, Probe, Recall, score_probe
from forget_callback.demo.tiny import make_tokenizer
from forget_callback.scoring.likelihood.tokens import encode_items
from tests.helpers import greedy, log_probabilities

NAMES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
# Sizes by the names that configs give them; a config gets those that it has. Windows of 8: most texts are longer.
_SIZES = {
    32: "hidden_size d_model n_embd emb_dim embedding_size word_embed_proj_dim dim_model lru_width "
    "backbone_hidden_size hidden_size_global "
    "pronunciation_embed_dim shape_embed_dim",
    64: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner d_inner ffn_hidden_size dff dim_ff "
    "shared_intermediate_size intermediate_size_mlp shared_experts_intermediate_size dense_intermediate_size "
    "mamba_d_ssm attention_hidden_size feed_forward_size",
    4: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_attention_heads n_head n_heads "
    "num_heads decoder_attention_heads encoder_attention_heads num_experts n_routed_experts num_local_experts "
    "moe_num_experts qk_rope_head_dim qk_nope_head_dim linear_num_value_heads swa_num_attention_heads mamba_d_state "
    "linear_num_heads index_n_heads indexer_n_heads mamba_n_heads mamba_dt_rank",
    2: "num_key_value_heads num_kv_heads num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts "
    "linear_num_key_heads swa_num_key_value_heads o_groups indexer_kv_heads zero_expert_num n_mamba_heads",
    8: "head_dim kv_lora_rank q_lora_rank o_lora_rank v_head_dim index_head_dim indexer_head_dim linear_key_head_dim "
    "linear_value_head_dim swa_head_dim global_head_dim dim_head kv_channels linear_head_dim index_topk state_size "
    "query_pre_attn_scalar chunk_size mamba_chunk_size sliding_window attention_chunk_size attention_window_size "
    "sliding_window_size qk_head_dim d_head window_size rotary_dim attention_head_size adapter_rank indexer_budget "
    "local_attn_chunk_length lsh_attn_chunk_length num_centroids gated_norm_rank",
    16: "moe_intermediate_size shared_expert_intermediate_size hidden_size_per_layer_input mamba_d_head "
    "expert_ffn_hidden_size attention_head_dim mamba_headdim",
    1: "n_group topk_group num_expert_group mamba_n_groups n_groups n_shared_experts num_shared_experts "
    "indexer_compress_ratio first_k_dense_replace num_dense_layers intermediate_multiple_size",
    256: "max_position_embeddings n_positions n_ctx max_target_positions max_seq_len model_max_length",
}
_SETTINGS = {
    **{name: size for size, names in _SIZES.items() for name in names.split()},
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.1,
    "init_std": 0.1,
    "is_decoder": True,
}
# Latent attention: the head size is that of the rotary part.
_LATENT = {"num_key_value_heads": 4, "head_dim": ...}
_HYBRID = ["linear_attention", "full_attention"] * 2
# What single architectures need besides; `...` leaves a setting at its default.
_BESIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["axk1", "axk2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "youtu"], _LATENT),
    "bailing_hybrid": {"layer_types": _HYBRID},
    "granitemoehybrid": {"layer_types": _HYBRID},
    "kimi_linear": {"layer_types": _HYBRID},
    "longcat_flash": {"num_key_value_heads": 4, "head_dim": 4},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "xlstm": {"chunk_size": 64, "qk_head_dim": ..., "head_dim": ...},
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dots3_note_text": _LATENT,
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "qwen4_exp": {"indexer_kv_heads": 1},
    "qwen4_exp_text": {"indexer_kv_heads": 1},
    "rwkv": {"attention_hidden_size": 32},
    "xlm": {"causal": True},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 9},
    "zamba2": {"n_mamba_heads": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]},
    "zaya": {"num_experts_per_tok": 1},
    "reformer": {"axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16]},
}
# What cannot be made tiny, and why.
UNBUILT = {
    "dots3_note": "its config takes its language model at full size only, which is dots3_note_text",
    "musicgen": "transformers makes it from a checkpoint only; it writes audio codes, no text",
    "musicgen_melody": "transformers makes it from a checkpoint only; it writes audio codes, no text",
    "gemma4_assistant": "a drafter: it reads the keys and values of the model that it drafts for",
    "gemma4_unified_assistant": "a drafter: it reads the keys and values of the model that it drafts for",
    "gemma3n": "its vision tower needs timm, which is not installed; gemma3n_text is its language model",
}
_WORDS = ["apples", "rivers and hills", "a fox", "the sun went down over", "12", "cold", "é 東京", "forest"]


def probe() -> Probe:
    """Choices behind a prefix that all share, choices by themselves, recall and generation, of several lengths."""
    shared = "Read this first: a fox ran over the hill and through the forest, until the sun went down. " * 2
    items: list[Any] = []
    for i, word in enumerate(_WORDS):
        options = [f" {_WORDS[(i + 1 + j) % 8]}" for j in range(3)]
        items.append(MultipleChoice(f"s{i}", f"{shared}{i} {word} and", options, 0))
        if i % 2:
            items.append(MultipleChoice(f"c{i}", f"{word} {i} or", options, 1))
            items.append(Recall(f"r{i}", f"Once upon {word}", options[0]))
        else:
            items.append(Generation(f"g{i}", f"{word} is{' so' * i}", "x", "contains", max_new_tokens=5))
    return Probe("walk", items)


def tokenizer() -> Any:
    return make_tokenizer([item.prompt for item in probe().items])


def tiny(name: str, vocabulary: int, **more: Any) -> Any:
    """A tiny random model in eval mode."""
    kind = CONFIG_MAPPING[name]
    config = kind(**{**_small(kind(), vocabulary, _BESIDES.get(name, {})), **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def _small(config: PreTrainedConfig, vocabulary: int, besides: dict[str, Any]) -> dict[str, Any]:
    """The settings that make a config small, and those that it nests."""
    aliases = config.attribute_map or {}
    names = {*vars(config), *aliases} - {alias for alias, target in aliases.items() if target in _SETTINGS}
    found = {name: size for name, size in _SETTINGS.items() if name in names}
    found |= {name: vocabulary for name in names if name.startswith("vocab_size") or name.endswith("vocab_size")}
    found = {name: size for name, size in {**found, **besides}.items() if size is not ...}
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            own = besides.get(name, besides)
            found[name] = type(value)(**_small(value, vocabulary, own))
    return found


@dataclass(frozen=True)
class Walked:
    """What became of an architecture: "equal", "refused", "unbuilt" or "failed", how it was scored, and why not."""

    name: str
    outcome: str
    how: str


def walk(name: str, words: Any) -> Walked:
    """Builds a tiny model and scores it, and compares with plain forward passes and the model's own `generate`."""
    if name in UNBUILT:
        return Walked(name, "unbuilt", UNBUILT[name])
    try:
        model = tiny(name, len(words))
    except Exception as error:
        return Walked(name, "failed", f"not built: {type(error).__name__}: {error}")
    try:
        snapshot = score_probe(model, words, probe())
    except ValueError as error:
        refused = str(error).startswith("model must be a causal language model")
        return Walked(name, "refused" if refused else "failed", f"ValueError: {error} ({_place(error)})")
    except Exception as error:
        refused = "check that the model is deterministic in eval mode" in str(error)
        how = f"{type(error).__name__}: {error} ({_place(error)})"
        return Walked(name, "refused" if refused else "failed", how)
    try:
        differs = differences(model, words, snapshot)
    except Exception as error:
        differs = [f"a plain forward pass fails: {type(error).__name__}: {error} ({_place(error)})"]
    how = f"{snapshot.metadata['likelihood']}; {snapshot.metadata['generation']}"
    if of_generate(model, words) != snapshot.text.tolist():
        how += "; its own `generate` writes something else than forward passes"
    return Walked(name, "failed" if differs else "equal", f"{how} {'; '.join(differs)}".strip())


@torch.no_grad()
def of_generate(model: Any, words: Any) -> list[str | None]:
    """What the model's own `generate` writes, prompt by prompt."""
    config = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=words.eos_token_id, pad_token_id=0)
    result: list[str | None] = []
    for item in probe().items:
        ids = torch.tensor([words.encode(item.prompt)])
        if not isinstance(item, Generation):
            result.append(None)
            continue
        try:
            output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        except Exception as error:
            result.append(type(error).__name__)
        else:
            result.append(words.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    return result


def _place(error: Exception) -> str:
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{at.filename.split('/')[-1]}:{at.lineno}"


@torch.no_grad()
def differences(model: Any, words: Any, snapshot: Any) -> list[str]:
    """How a snapshot differs from the definition, item by item."""
    found = []
    items = probe().items
    likelihoods: dict[int, list[float]] = {}
    for row in encode_items(probe(), words).rows:
        table = log_probabilities(model, row.tokens[:-1])[row.n_context - 1 :]
        target = torch.tensor(row.tokens[row.n_context :])
        own = table.gather(1, target[:, None]).squeeze(1)
        likelihoods.setdefault(row.item, []).append(float(own.sum()))
        if row.greedy:
            margin = float((own - table.scatter(1, target[:, None], -torch.inf).amax(dim=1)).min())
            if abs(margin - snapshot.margin[row.item]) > 1e-3:
                found.append(f"{items[row.item].id}: margin {snapshot.margin[row.item]:.4f}, not {margin:.4f}")
    for i, item in enumerate(items):
        if np.isnan(snapshot.correct[i]):
            found.append(f"{item.id}: not scored")
        elif isinstance(item, MultipleChoice) and not np.allclose(
            snapshot.scores[i], likelihoods[i], atol=1e-3, rtol=0
        ):
            found.append(f"{item.id}: {np.round(snapshot.scores[i], 4)}, not {np.round(likelihoods[i], 4)}")
        if isinstance(item, Generation):
            prompt = words.encode(item.prompt)
            expected = greedy(model, prompt, item.max_new_tokens, [words.eos_token_id])
            if snapshot.text[i] != words.decode(expected, skip_special_tokens=True):
                found.append(f"{item.id}: {snapshot.text[i]!r}, not {words.decode(expected)!r}")
    return found


def main() -> int:
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    words, counts = tokenizer(), Counter[str]()
    for name in sys.argv[1:] or NAMES:
        begun = time.perf_counter()
        walked = walk(name, words)
        counts[walked.outcome] += 1
        print(f"{walked.outcome:8} {name:24} {time.perf_counter() - begun:5.1f} s  {walked.how}", flush=True)
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in ("equal", "refused", "unbuilt", "failed")))
    return counts["failed"]


if __name__ == "__main__":
    sys.exit(main())
