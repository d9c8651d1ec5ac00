"""Fixtures of all scoring tests: a model trained on a few lines, and lm-eval's wrapper as the reference."""

from types import SimpleNamespace

import pytest

from tests.helpers import teach

# What the taught model has memorized. A line ends with a newline or EOS, or continues up to the token limit.
LINES = {
    "The capital of France is": " Paris\n",
    "The capital of Italy is": " Rome\n",
    "The capital of Japan is": " Tokyo\n",
    "The opposite of cold is": " hot<|im_end|>",
    "12 apples and 30 more:": " so the result is 42<|im_end|>",
    "Half as a fraction:": " it is $\\frac{1}{2}$<|im_end|>",
    "Question: which of the two?": " The answer is (B).<|im_end|>",
    "Once upon a time": " there was a fox who ran over the hill and through the forest until it was gone<|im_end|>",
    "Who wrote this?": "<|im_end|>",
    "No number:": " which is not here<|im_end|>",
}


@pytest.fixture(scope="session")
def taught(make_model, make_tokenizer):
    """A model that has memorized LINES, with its tokenizer; never trained further."""
    tokenizer = make_tokenizer()
    return SimpleNamespace(model=teach(make_model(), tokenizer, LINES.items()), tokenizer=tokenizer, lines=LINES)


@pytest.fixture(scope="session")
def make_hflm():
    """make_hflm(model, tokenizer) -> lm-eval's own wrapper: the independent reference."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    return lambda model, tokenizer: huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
