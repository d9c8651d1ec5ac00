"""Token ids equal lm-eval's, and a rendered conversation ends where the answer begins."""

import numpy as np
import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall
from forget_callback.scoring.likelihood.rendering import bind, context_of
from forget_callback.scoring.likelihood.tokens import Continuation, encode, encode_items, split
from tests.helpers import adds_bos

CONTEXTS = [
    "The capital of France is",
    "The capital of France is ",
    "The capital of France is  \n",
    "Question: who?\nAnswer:",
    "Größe 東京 🦊 ",
    "x",
    "2 + 2 =\t",
    "The capital of France is Pa",
    "<s>The capital of France is",
    "<s>",
    "<|im_end|>",
    "",
]
CONTINUATIONS = [" Paris", "Paris", " the sun went down", "é", " 🦊🦊", "ris is", "\n", "<s> Paris", "<|im_end|> hot"]


@pytest.fixture(scope="module", params=["no BOS", "BOS", "BOS that is not added"])
def any_tokenizer(request, make_tokenizer):
    if request.param == "no BOS":
        return make_tokenizer()
    tokenizer = make_tokenizer(bos_token="<s>")
    return adds_bos(tokenizer) if request.param == "BOS" else tokenizer


@pytest.fixture(scope="module")
def hflm(any_tokenizer, make_model, make_hflm):
    return make_hflm(make_model(vocab_size=len(any_tokenizer)), any_tokenizer)


def lm_eval_pair(hflm, context, continuation):
    """The token ids that lm-eval would forward: `TemplateLM.loglikelihood` up to the forward pass."""
    if context:
        return hflm._encode_pair(context, continuation)
    seen = []
    hflm._loglikelihood_tokens = lambda requests, **kwargs: seen.extend(requests)
    hflm.loglikelihood([type("Request", (), {"args": (context, continuation)})], disable_tqdm=True)
    del hflm._loglikelihood_tokens
    return seen[0][1:]


@pytest.mark.parametrize("context", CONTEXTS)
def test_split_is_lm_evals(any_tokenizer, hflm, context):
    for continuation in CONTINUATIONS:
        assert split(context, continuation, any_tokenizer, chat=False) == lm_eval_pair(hflm, context, continuation)


def test_split_is_lm_evals_on_random_texts(any_tokenizer, hflm):
    rng = np.random.default_rng(0)
    pieces = ["The", " capital", " ", "\n", "Pa", "ris", "é", "🦊", "1", " <s>", "\t", "is"]
    checked = 0
    for _ in range(300):
        context, continuation = ("".join(rng.choice(pieces, rng.integers(1, 8))) for _ in range(2))
        if context.strip():
            assert split(context, continuation, any_tokenizer, chat=False) == lm_eval_pair(hflm, context, continuation)
            checked += 1
    assert checked > 200


@pytest.mark.parametrize("context", [" ", "\n\n", " \t "])
def test_a_context_of_white_space_is_an_empty_one(any_tokenizer, context):
    head, tail = split(context, "Paris", any_tokenizer, chat=False)
    assert head == split("", "Paris", any_tokenizer, chat=False)[0] and len(head) == 1
    assert tail == any_tokenizer.encode(context + "Paris", add_special_tokens=False)


def test_a_text_that_begins_with_bos_gets_no_second_one(any_tokenizer):
    ids = encode("<s>The capital", any_tokenizer)
    assert any_tokenizer.bos_token is None or ids.count(any_tokenizer.bos_token_id) == 1
    assert any_tokenizer.decode(ids) == "<s>The capital"


def test_without_bos_and_eos_an_empty_prompt_is_an_error(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"neither a BOS nor an EOS token .*; give the item a prompt"):
        split("", "Paris", tokenizer, chat=False)


def test_rows_are_in_item_order_with_their_options(tokenizer):
    items = [
        MultipleChoice("a", "The capital of France is", [" Paris", " Rome", " the sun"], 0),
        Generation("b", "Who?", "me"),
        Recall("c", "The capital of Italy is", " Rome"),
    ]
    rows = encode_items(Probe("p", items), tokenizer).rows
    assert [row.item for row in rows] == [0, 0, 0, 2]
    texts = [tokenizer.decode(row.tokens[row.n_context :]) for row in rows]
    assert texts == [" Paris", " Rome", " the sun", " Rome"]
    whole = tuple(tokenizer.encode("The capital of Italy is Rome"))
    assert rows[3] == Continuation(2, whole, rows[3].n_context, greedy=True)
    # The argmax of an option decides nothing, so it is not needed.
    assert [row.greedy for row in rows] == [False, False, False, True]


def test_an_item_without_a_token_of_its_own_costs_no_other(tokenizer):
    why = "no token of its own after the prompt"
    bad = MultipleChoice("a", "The capital of France is Pa", ["ris", " Rome"], 0)
    probe = Probe("p", [bad, Recall("b", "", "<|im_end|>"), Recall("c", "The capital of Italy is", " Rome")])
    found = encode_items(probe, tokenizer)
    assert found.dropped == {0: why, 1: why} and [row.item for row in found.rows] == [2]


def test_a_recall_answer_comes_after_the_tokens_of_its_prompt_or_is_decoded(any_tokenizer):
    """The prompt's own tokens, trailing white space included: greedy decoding goes on from them."""
    items = [Recall(f"{i}", context, "Paris") for i, context in enumerate(CONTEXTS) if context]
    found = encode_items(Probe("p", items), any_tokenizer)
    assert {row.item for row in found.rows}.isdisjoint(found.prompts) and not found.dropped
    assert len(found.rows) + len(found.prompts) == len(items) and len(found.rows) > 3 and 1 in found.prompts
    for row in found.rows:
        assert list(row.tokens[: row.n_context]) == encode(items[row.item].prompt, any_tokenizer)
        assert list(row.tokens) == encode(items[row.item].prompt + "Paris", any_tokenizer)
    for i, prompt in found.prompts.items():
        assert list(prompt) == encode(items[i].prompt, any_tokenizer)


def test_an_item_that_the_template_refuses_costs_no_other(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no bad words') }}{% endif %}"
        "{{ m.content }}|{% endfor %}"
    )
    items = [Recall("a", "Who is bad?", "me"), Generation("b", "bad?", "me"), Recall("c", "Who?", "me")]
    found = encode_items(bind(Probe("p", items, chat=True), tokenizer), tokenizer)
    assert found.dropped == dict.fromkeys([0, 1], "the chat template refuses it: no bad words")
    assert [row.item for row in found.rows] == [2]


@pytest.mark.parametrize("answer", [" Paris", "Paris", "  Paris"])
def test_chat_renders_the_template_and_drops_the_leading_space(tokenizer, answer):
    probe = bind(Probe("p", [Recall("a", "Who? ", answer)], chat=True), tokenizer)
    rendered = "<|im_start|>user\nWho? <|im_end|>\n<|im_start|>assistant\n"
    assert context_of(probe.items[0], probe, tokenizer) == rendered
    (row,) = encode_items(probe, tokenizer).rows
    # The last newline stays in the context, exactly as for generation.
    assert list(row.tokens[: row.n_context]) == tokenizer.encode(rendered, add_special_tokens=False)
    assert list(row.tokens[row.n_context :]) == tokenizer.encode("Paris", add_special_tokens=False)


def test_chat_with_a_tokenizer_that_adds_bos_adds_none(any_tokenizer):
    probe = bind(Probe("p", [Recall("a", "Who?", "Paris")], chat=True), any_tokenizer)
    (row,) = encode_items(probe, any_tokenizer).rows
    assert any_tokenizer.bos_token_id not in row.tokens
    assert any_tokenizer.decode(row.tokens) == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nParis"


def test_chat_keeps_the_contexts_tokens_where_the_answer_would_merge_with_them(tokenizer):
    tokenizer.chat_template = "{{ messages[0].content }} The capital of France is Pa"
    probe = bind(Probe("p", [MultipleChoice("a", "Who?", ["ris", "é"], 0)], chat=True), tokenizer)
    row = encode_items(probe, tokenizer).rows[0]
    assert tokenizer.decode(row.tokens[: row.n_context]) == "Who? The capital of France is Pa"
    assert tokenizer.decode(row.tokens[row.n_context :]) == "ris"


def test_bind_keeps_a_template_that_the_probe_has(tokenizer):
    bound = bind(Probe("p", [Recall("a", "Who?", "me")], chat=True), tokenizer)
    assert bound.template == tokenizer.chat_template
    tokenizer.chat_template = "another"
    assert bind(bound, tokenizer) is bound


def test_bind_leaves_a_plain_probe_alone(tokenizer):
    probe = Probe("p", [Recall("a", "Who?", "me")])
    assert bind(probe, tokenizer) is probe


@pytest.mark.parametrize("thinking", [None, False])
@pytest.mark.parametrize("generation_prompt", [True, False])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_a_conversation_is_rendered_as_the_template_says(tokenizer, system, generation_prompt, thinking):
    tokenizer.chat_template += "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    item = Recall("a", "Who?", "me")
    settings = {"system": system, "generation_prompt": generation_prompt, "thinking": thinking}
    probe = bind(Probe("p", [item], chat=True, **settings), tokenizer)
    expected = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    expected += "<|im_start|>user\nWho?<|im_end|>\n"
    expected += "<|im_start|>assistant\n" if generation_prompt else ""
    expected += "<think></think>" if thinking is False else ""
    assert context_of(item, probe, tokenizer) == expected
    plain = bind(Probe("p", [item], chat=True), tokenizer)
    assert (probe.fingerprint == plain.fingerprint) == (not system and generation_prompt and thinking is None)


def test_each_option_may_have_a_context_of_its_own(tokenizer):
    item = MultipleChoice("a", "The", [" the hill", " the hill"], 0, contexts=[" fox ran over", " sun went over"])
    rows = encode_items(Probe("p", [item]), tokenizer).rows
    for row, context in zip(rows, item.contexts):
        assert tokenizer.decode(row.tokens) == f"The{context} the hill"
        assert tokenizer.decode(row.tokens[row.n_context :]) == " the hill"
