"""A chat answer ends where its template ends the assistant's turn, whatever the tokenizer's end of sequence is."""

import pytest

from forget_callback import Generation, Probe, Scorer, score_probe
from forget_callback.scoring.generation.turns import end_of_turn
from forget_callback.scoring.likelihood.rendering import bind
from tests.helpers import teach

LOOP = "{% for m in messages %}"
OPEN = "{% if add_generation_prompt %}"
# As the models ship them, shortened to user and assistant. Each with its special tokens and what ends a turn.
TEMPLATES = {
    "Llama 3": (
        "{{ '<s>' }}" + LOOP + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + "
        "'<|eot_id|>' }}{% endfor %}" + OPEN + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        {"<|eot_id|>"},
    ),
    "Gemma": (
        "{{ '<s>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + LOOP
        + "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}"
        "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        + OPEN
        + "{{ '<start_of_turn>model\n' }}{% endif %}",
        ["<start_of_turn>", "<end_of_turn>"],
        {"<end_of_turn>"},
    ),
    "Phi 3": (
        LOOP + "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}",
        ["<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"],
        {"<|end|>"},
    ),
    "Mistral": (
        "{{ '<s>' }}" + LOOP + "{% if m['role'] == 'user' %}{{ ' [INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + '</s>' }}{% endif %}{% endfor %}",
        ["</s>"],
        {"</s>"},
    ),
    "GLM 4, where the next turn's header ends a turn": (
        LOOP + "<|{{ m.role }}|>\n{{ m.content }}{% endfor %}" + OPEN + "<|assistant|>{% endif %}",
        ["<|user|>", "<|assistant|>"],
        {"<|user|>"},
    ),
    "Qwen 3, which adds thinking to the last answer and drops it from others": (
        LOOP + "{% set content = m.content.split('</think>')[-1].lstrip('\n') %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
        "{{ content }}<|im_end|>\n{% endfor %}" + OPEN + "<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        ["<think>", "</think>"],
        {"<|im_end|>"},
    ),
    "gpt-oss, whose thinking ends with <|end|> and its turn does not": (
        LOOP + "{% if m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>"
        "{% elif loop.last and not add_generation_prompt %}{% if 'thinking' in m %}<|start|>assistant"
        "<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}<|start|>assistant<|channel|>final<|message|>"
        "{{ m.content }}<|return|>{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
        "{% endif %}{% endfor %}" + OPEN + "<|start|>assistant{% endif %}",
        ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"],
        {"<|return|>"},
    ),
    "one that ends the last turn otherwise": (
        LOOP + "<|{{ m.role }}|>{{ m.content }}{% if loop.last %}</s>{% else %}<|sep|>{% endif %}{% endfor %}",
        ["<|user|>", "<|assistant|>", "<|sep|>", "</s>"],
        {"<|sep|>", "</s>"},
    ),
    "one that changes what is said": (
        LOOP + "{{ m.role | upper }}: {{ m.content | upper | tojson }}<|eot|>{% endfor %}",
        ["<|eot|>"],
        {"<|eot|>"},
    ),
    "one that refuses a conversation that ends with an answer": (
        LOOP + "{% if loop.last and m.role != 'user' %}{{ raise_exception('no') }}{% endif %}"
        "<|{{ m.role }}|>{{ m.content }}<|eot|>{% endfor %}" + OPEN + "<|assistant|>{% endif %}",
        ["<|eot|>"],
        {"<|eot|>"},
    ),
    "one that needs the system message that the probe has": (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + LOOP
        + "{{ m.role }}: {{ m.content }}<|eot|>\n{% endfor %}",
        ["<|eot|>"],
        {"<|eot|>"},
    ),
    "one with text before the token": (
        LOOP + "{{ m.role }}: {{ m.content }} [DONE]<|eot|>{% endfor %}",
        ["<|eot|>"],
        {"<|eot|>"},
    ),
    "one that ends with nothing": (LOOP + "{{ m.content }}\n{% endfor %}", [], set()),
    "one that leaves answers out": (
        LOOP + "{% if m.role == 'user' %}<|q|>{{ m.content }}{% endif %}{% endfor %}",
        ["<|q|>"],
        set(),
    ),
    "one that renders no answers": (
        LOOP + "{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}<|eot|>{% endfor %}",
        ["<|eot|>"],
        set(),
    ),
}


def bound(tokenizer, template, special=(), **settings):
    """A chat probe with a template, and its tokenizer, which knows these special tokens."""
    tokenizer.add_special_tokens({"additional_special_tokens": [t for t in special if t not in tokenizer.get_vocab()]})
    tokenizer.chat_template = template
    return bind(Probe("p", [Generation("g", "Who?", "me")], chat=True, **settings), tokenizer)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_token_that_ends_a_turn_is_read_off_the_template(make_tokenizer, name):
    tokenizer = make_tokenizer(bos_token="<s>")
    template, special, expected = TEMPLATES[name]
    probe = bound(tokenizer, template, special, system="Be brief." if "system message" in name else "")
    turn = end_of_turn(probe, tokenizer)
    assert set(turn.names) == expected
    assert turn.ids == {tokenizer.convert_tokens_to_ids(text) for text in expected}
    assert turn.texts == ((" [DONE]",) if "text before" in name else ())


def test_chatml_ends_with_its_own_end_of_sequence(tokenizer):
    turn = end_of_turn(bound(tokenizer, tokenizer.chat_template), tokenizer)
    assert turn.ids == {tokenizer.eos_token_id} and not turn.texts


@pytest.mark.parametrize(
    "template, texts",
    [
        (
            LOOP + "### {{ m.role }}:\n{{ m.content }}\n{% endfor %}" + OPEN + "### assistant:\n{% endif %}",
            ("\n### user:",),
        ),
        (LOOP + "### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}", ("\n\n### user:", "\n### user:")),
        (LOOP + "{{ m.role }}: {{ m.content }} {% endfor %}", (" user:",)),
        # ChatML on a tokenizer that does not know it: its marks are plain text.
        (LOOP + "<|IM_START|>{{ m.role }}\n{{ m.content }}<|IM_END|>\n{% endfor %}", ("<|IM_END|>",)),
        (
            LOOP + "{{ m.role }}: {{ m.content }}{% if loop.last %} [END]{% else %} [NEXT] {% endif %}{% endfor %}",
            (" [NEXT] user:", " [END]"),
        ),
        (LOOP + "{{ m.content }}|{% endfor %}", ()),
    ],
)
def test_plain_text_that_ends_a_turn_is_a_stop_string(tokenizer, template, texts):
    turn = end_of_turn(bound(tokenizer, template), tokenizer)
    assert (turn.ids, turn.texts) == (frozenset(), texts)


def test_a_plain_probe_has_no_turns(tokenizer):
    turn = end_of_turn(Probe("p", [Generation("g", "Who?", "me")]), tokenizer)
    assert not turn.ids and not turn.texts


QUESTIONS = {"Who wrote this?": "a fox", "What is it?": "It is 42.", "Once upon a time": "the sun went\ndown"}
ENDED = ["Llama 3", "Gemma", "Phi 3", "Mistral"]


@pytest.mark.parametrize("name", [*ENDED, "plain"])
def test_an_answer_ends_with_the_turn_and_not_at_the_token_limit(make_model, make_tokenizer, name):
    """After training on conversations of two turns, the model goes on with the next question."""
    tokenizer = make_tokenizer(bos_token="<s>")
    plain = LOOP + "\n### {{ m.role }}:\n{{ m.content }}{% endfor %}" + OPEN + "\n### assistant:\n{% endif %}"
    template, special = (plain, ()) if name == "plain" else TEMPLATES[name][:2]
    bound(tokenizer, template, special)
    lines = []
    for question, answer in QUESTIONS.items():
        roles = ["user", "assistant", "user", "assistant"]
        several = [{"role": role, "content": text} for role, text in zip(roles, [question, answer, "Who?", "me"])]
        prompt = tokenizer.apply_chat_template(several[:1], tokenize=False, add_generation_prompt=True)
        lines.append((prompt, tokenizer.apply_chat_template(several, tokenize=False).removeprefix(prompt)))
    model = teach(make_model(vocab_size=len(tokenizer)), tokenizer, lines)
    items = [Generation(q, q, a, "contains", max_new_tokens=40) for q, a in QUESTIONS.items()]
    snapshot = score_probe(model, tokenizer, Probe("p", items, chat=True))
    assert [text.lstrip(" ") for text in snapshot.text] == list(QUESTIONS.values())
    assert snapshot.outcome.tolist() == ["correct"] * 3
    # Stop strings of the items' own, and the ends of lines, come first where they come first.
    items = [Generation(q, q, a, "contains", max_new_tokens=40, stop=["ox", " 42"]) for q, a in QUESTIONS.items()]
    (snapshot,) = Scorer(tokenizer, Probe("p", items, chat=True)).score(model)
    assert [text.lstrip(" ") for text in snapshot.text] == ["a f", "It is", "the sun went\ndown"]
    exact = Probe(
        "p", [Generation(q, q, a.splitlines()[0], max_new_tokens=40) for q, a in QUESTIONS.items()], chat=True
    )
    assert score_probe(model, tokenizer, exact).outcome.tolist() == ["correct"] * 3
