"""Tiny random models of several architectures: rotary and learned positions, windows, soft-capped logits."""

import torch
import transformers

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
GPT2 = {"vocab_size": 90, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
# Windows of 5: most rows are longer, so a mask that forgets the window shows.
MODELS = {
    "Llama": ("LlamaConfig", SMALL),
    "Qwen2": ("Qwen2Config", SMALL),
    "GPT-2": ("GPT2Config", {**GPT2, "bos_token_id": 1, "eos_token_id": 2}),
    "GPT-NeoX": ("GPTNeoXConfig", {k: v for k, v in SMALL.items() if k not in ("num_key_value_heads", "head_dim")}),
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
}


def tiny(name, **more):
    """A random model of `MODELS` in eval mode; `more` goes into its config."""
    config_class, settings = MODELS[name]
    config = getattr(transformers, config_class)(**{**settings, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()
