"""Slow and plain ways to what the package does fast, and small things that several tests need."""

import hashlib
import random

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing


def teach(model, tokenizer, lines, *, steps=120, lr=5e-3):
    """Trains until the model knows each (prompt, answer) by heart; leaves it in eval mode."""
    rows = [tokenizer.encode(prompt + answer, add_special_tokens=False) for prompt, answer in lines]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def log_probabilities(model, tokens):
    """Log-softmax in float64 of one unpadded forward: row i is the distribution of token i + 1."""
    ids = torch.tensor([list(tokens)])
    return torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].double(), dim=-1)


@torch.no_grad()
def greedy(model, prompt, n, stops=()):
    """Greedy decoding by definition: the whole text through the model again for every token."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + n:
        tokens.append(int(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        if tokens[-1] in stops:
            break
    return tokens[len(prompt) :]


def adds_bos(tokenizer):
    """The tokenizer, made to put its BOS token before every text, as Llama's does."""
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    assert tokenizer.encode("x")[0] == tokenizer.bos_token_id
    return tokenizer


class Recorder:
    """A tracker that keeps what it gets."""

    def __init__(self):
        self.rows, self.alerts = [], []

    def log(self, row):
        self.rows.append(dict(row))

    def alert(self, title, text):
        self.alerts.append((title, text))


def digest(state) -> str:
    """sha256 of a state dict, or of any mapping of names to tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        sha.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


def generators() -> str:
    """The state of every global random generator, as text that compares."""
    return repr((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))
