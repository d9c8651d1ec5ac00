"""Tiny random models of many architectures, and the scoring path that is expected on each.

Rotary, learned and no positions, sliding windows, chunked attention, capped and scaled logits, mixtures of experts,
state spaces, convolutions.
"""

import pytest
import torch
import transformers
from packaging.version import Version

SMALL = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _but(*names, **more):
    """SMALL without some settings, and with others."""
    return {**{name: value for name, value in SMALL.items() if name not in names}, **more}


_SMALLEST = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2, **TOKENS}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# Windows of 5 to 8: most rows are longer, so a mask without the window shows.
MODELS = {
    "Llama": ("LlamaConfig", SMALL),
    "Qwen2": ("Qwen2Config", SMALL),
    "Qwen3": ("Qwen3Config", SMALL),
    "GPT-2": (
        "GPT2Config",
        {
            "vocab_size": 90,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "initializer_range": 0.2,
            **TOKENS,
        },
    ),
    "GPT-NeoX": ("GPTNeoXConfig", _but("num_key_value_heads", "head_dim")),
    "Phi, biased head": ("PhiConfig", _but("head_dim")),
    "Phi3, window": ("Phi3Config", _but("head_dim", sliding_window=5)),
    "OPT": (
        "OPTConfig",
        {
            "vocab_size": 90,
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
            "init_std": 0.2,
            **TOKENS,
        },
    ),
    "Mistral, window": ("MistralConfig", {**SMALL, "sliding_window": 5}),
    "Mistral, window, eager": ("MistralConfig", {**SMALL, "sliding_window": 5, "attn_implementation": "eager"}),
    "Gemma2, window, capped": (
        "Gemma2Config",
        {
            **SMALL,
            "sliding_window": 5,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 8,
            "attn_implementation": "eager",
        },
    ),
    "Gemma2, window, own attention": (
        "Gemma2Config",
        {**SMALL, "sliding_window": 5, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    ),
    "Gemma3, window": (
        "Gemma3TextConfig",
        {**SMALL, "sliding_window": 5, "num_hidden_layers": 6, "query_pre_attn_scalar": 8},
    ),
    "Gemma4, layers differ": (
        "Gemma4TextConfig",
        {
            **SMALL,
            "sliding_window": 5,
            "global_head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "vocab_size_per_layer_input": 512,
            "hidden_size_per_layer_input": 16,
            "num_kv_shared_layers": 0,
        },
    ),
    "Granite, scaled": ("GraniteConfig", {**SMALL, "logits_scaling": 4.0}),
    "Cohere, scaled": ("CohereConfig", SMALL),
    "Qwen3Moe": ("Qwen3MoeConfig", {**SMALL, **_EXPERTS}),
    "Mixtral, router logits": ("MixtralConfig", {**SMALL, "num_local_experts": 4, "output_router_logits": True}),
    "DeepseekV3": (
        "DeepseekV3Config",
        _but(
            "head_dim",
            num_key_value_heads=4,
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            num_experts_per_tok=2,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
            moe_intermediate_size=16,
        ),
    ),
    "Bloom": ("BloomConfig", {"vocab_size": 90, "hidden_size": 32, "n_layer": 2, "n_head": 4, **TOKENS}),
    "Falcon, ALiBi": ("FalconConfig", {**_SMALLEST, "num_attention_heads": 4, "alibi": True}),
    "Mamba": ("MambaConfig", {**_SMALLEST, "state_size": 4}),
    "Mamba2": (
        "Mamba2Config",
        {**_SMALLEST, "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    ),
    "Qwen3Next": (
        "Qwen3NextConfig",
        {
            **SMALL,
            **_EXPERTS,
            "num_hidden_layers": 4,
            "shared_expert_intermediate_size": 16,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "Lfm2": ("Lfm2Config", {**SMALL, "layer_types": ["conv", "full_attention"]}),
    "RecurrentGemma": (
        "RecurrentGemmaConfig",
        _but("max_position_embeddings", attention_window_size=8, lru_width=32, num_hidden_layers=3),
    ),
    "Jamba": ("JambaConfig", _but(num_hidden_layers=5, mamba_d_state=4, num_experts=2)),
    "Llama4, chunks": (
        "Llama4TextConfig",
        {
            **SMALL,
            "intermediate_size_mlp": 64,
            "num_local_experts": 2,
            "attention_chunk_size": 8,
            "num_hidden_layers": 4,
        },
    ),
}
# The scoring path, where it is not the usual one.
TREE = "tree, tiles"
EXPECTED_PATHS = {
    "Gemma2, window, capped": "tree, own",
    "Gemma2, window, own attention": "tree, own",
    "Granite, scaled": "tree, own",
    "Cohere, scaled": "tree, own",
    "Bloom": "rows, tiles",
    "Falcon, ALiBi": "rows, tiles",
    "Mamba": "rows, tiles",
    "Mamba2": "rows, tiles",
    "Qwen3Next": "rows, tiles",
    "Lfm2": "rows, tiles",
    "RecurrentGemma": "rows, own",
    "Jamba": "rows, tiles",
    "Llama4, chunks": "rows, tiles",
}


# Before these versions transformers itself runs them wrongly on a CPU.
SINCE = {"Jamba": "5.2", "RecurrentGemma": "5.4"}


def skip_before(version, why):
    if Version(transformers.__version__) < Version(version):
        pytest.skip(f"transformers before {version}: {why}")


def tiny(name, **more):
    """A random model of `MODELS` in eval mode; `more` goes into its config."""
    skip_before(SINCE.get(name, "0"), f"{name} does not run rightly on a CPU")
    config_class, settings = MODELS[name]
    if not hasattr(transformers, config_class):
        pytest.skip(f"transformers {transformers.__version__} has no {config_class}")
    config = getattr(transformers, config_class)(**{**settings, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def lively(name, **more):
    """The same with other weights, for a model that does not generate one token again and again."""
    model = tiny(name, **more)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model
