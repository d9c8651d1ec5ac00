"""A served model: what it says is what the model says here, whatever goes wrong on the way."""

import contextlib
import json
import math
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from forget_callback import Generation, MultipleChoice, Probe, Recall, Store, Text, score_probe
from forget_callback.probes.records import item_record
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.scoring.served.client import Server
from forget_callback.scoring.served.score import bind_served, score_served
from tests.helpers import teach

CITIES = ["Paris", "Rome", "Tokyo", "Zürich", "東京", "Köln", "fox", "the hill"]
ITEMS = [
    *[
        MultipleChoice(f"c{i}", f"The capital of number {i} is", [f" {CITIES[(i + j) % 8]}" for j in range(4)], i % 4)
        for i in range(12)
    ],
    MultipleChoice("ends with a space", "The capital of France is ", ["Paris", "Rome"], 0),
    MultipleChoice("no prompt", "", ["Paris is", "Rome is"], 1),
    MultipleChoice("options between", "Who is it?", [" is cold", " is hot"], 0, contexts=[" The fox", " The hill"]),
    *[Recall(f"r{i}", f"The capital of number {i} is", f" {CITIES[i]}") for i in range(8)],
    Recall("said", "Once upon a", " time"),
]
WRITTEN = [
    *[Generation(f"g{i}", f"Question: what is {i}? Answer:", "42", "number", max_new_tokens=12) for i in range(4)],
    *[
        Generation(f"line {i}", f"The capital of {CITIES[i]} is", "Paris", "prefix", max_new_tokens=12)
        for i in range(4)
    ],
    *[
        Generation(f"stop {i}", f"She has {i} apples and", "42", "contains", max_new_tokens=12, stop=["e", " o"])
        for i in range(4)
    ],
]


class Service(ThreadingHTTPServer):
    """A small real server, which answers as vLLM documents it, by a model of ours.

    Attributes:
        faults: What goes wrong with the next requests, in order: a status, alone or with headers, "drop" (no response),
            "cut" (a part of it) or "garbage" (no JSON).
        refused: Prompts with this in them are answered with 400.
        asked: Path, body and headers of every request.
        most: As many requests as waited at once, each for `delay` seconds.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, model, tokenizer, *, echoes=True, ids=True):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer, self.echoes, self.ids = model, tokenizer, echoes, ids
        self.faults, self.refused, self.asked, self.delay = deque(), None, [], 0.0
        self.lock, self.inside, self.most = threading.Lock(), 0, 0
        self.usage = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def server(self, **more):
        return Server(self.url, "tiny", **more)

    def handle_error(self, request, client_address):
        """Says nothing of dropped connections."""

    def answer(self, path, body):
        """The first choice."""
        if path == "/v1/chat/completions":
            ids = self.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True)["input_ids"]
            written, reason = self.write(ids, body)
            return {"message": {"role": "assistant", "content": written}, "finish_reason": reason}
        prompt = body["prompt"]
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        written, reason = self.write(ids, body)
        choice = {"text": written, "finish_reason": reason, "logprobs": None}
        if body.get("echo") and self.echoes:
            choice["logprobs"] = self.likelihoods(ids, body)
        return choice

    @torch.inference_mode()
    def write(self, ids, body):
        """Greedy answer, and why it ended."""
        out = self.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=body["max_tokens"],
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=[self.tokenizer.eos_token_id, *body.get("stop_token_ids", ())],
        )[0, len(ids) :].tolist()
        text = self.tokenizer.decode(out, skip_special_tokens=True)
        ends = [at for stop in body.get("stop", ()) if (at := text.find(stop)) >= 0]
        if ends:
            return text[: min(ends)], "stop"
        return text, "length" if len(out) == body["max_tokens"] else "stop"

    @torch.inference_mode()
    def likelihoods(self, ids, body):
        """Of the prompt and one written token, each named by its id or by its own text: half a character is a mark."""

        def name(token):
            by_id = self.ids and body.get("return_tokens_as_token_ids")
            return f"token_id:{token}" if by_id else self.tokenizer.decode([token])

        logits = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        ids = [*ids, int(logits[-1].argmax())]
        tokens, own, top = [name(token) for token in ids], [None], [None]
        for row, token in zip(logits, ids[1:]):
            values, best = row.topk(body["logprobs"])
            top.append({name(i): value for value, i in zip(values.tolist(), best.tolist())})
            top[-1][name(token)] = float(row[token])
            own.append(float(row[token]))
        offsets = np.cumsum([0, *map(len, tokens[:-1])]).tolist()
        return {"text_offset": offsets, "token_logprobs": own, "tokens": tokens, "top_logprobs": top}


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        """Nothing."""

    def do_GET(self):
        """What a redirect makes of a POST."""
        self.do_POST()

    def do_POST(self):
        service = self.server
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        with service.lock:
            service.asked.append((self.path, body, self.headers))
            service.inside += 1
            service.most = max(service.most, service.inside)
            fault = service.faults.popleft() if service.faults else None
        time.sleep(service.delay)
        with service.lock:
            service.inside -= 1  # before the answer: with it the client may ask again
        self._answer(body, fault)

    def _answer(self, body, fault):
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault in ("cut", "garbage"):
            data = b'{"choices": [{"te'
            self._send(200, data, {"Content-Length": str(len(data) + 99 * (fault == "cut"))})
            return
        if fault is not None:
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            self._send(status, b'{"error": "on purpose"}', headers)
            return
        refused = self.server.refused
        if refused is not None and refused in json.dumps([body.get("prompt"), body.get("messages")]):
            self._send(400, b'{"error": {"message": "too long for the context"}}')
            return
        with self.server.lock:
            choice, usage = self.server.answer(self.path, body), self.server.usage
        answer = {"object": "text_completion", "model": body["model"], "choices": [{"index": 0, **choice}]}
        answer |= {} if usage is None else {"usage": usage}
        self._send(200, json.dumps(answer).encode())

    def _send(self, status, data, headers=None):
        self.send_response(status)
        defaults = {"Content-Length": str(len(data)), "Content-Type": "application/json"}
        for name, value in {**defaults, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def serve(make_model, tokenizer):
    """serve(**options) -> a `Service` that runs."""
    with contextlib.ExitStack() as stack:

        def start(*, with_tokenizer=tokenizer, **options):
            service = Service(make_model(seed=3), with_tokenizer, **options)
            thread = threading.Thread(target=service.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(service.server_close)
            stack.callback(thread.join)
            stack.callback(service.shutdown)
            return service

        yield start


def same(found, expected):
    """That two snapshots say the same of every item."""
    assert found.fingerprint == expected.fingerprint
    for column in ("ids", "correct", "outcome", "choice", "prediction"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column), err_msg=column)
    np.testing.assert_allclose(found.margin, expected.margin, atol=1e-4)
    for mine, theirs in zip(found.scores, expected.scores):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("normalization", ["sum", "length", "token"])
def test_choices_and_recall_of_a_server_are_those_of_the_model_here(serve, make_model, tokenizer, normalization):
    texts = [Text("t0", "数"), Text("t1", "The fox ran over a hill and Köln was gone.\n")]
    probe, service = Probe("mixed", [*ITEMS, *texts, *WRITTEN[::5]], normalization=normalization), serve()
    expected = score_probe(make_model(seed=3), tokenizer, probe)
    found = score_served(service.server(), probe, tokenizer)
    same(found, expected)
    np.testing.assert_allclose(found.bits_per_byte, expected.bits_per_byte, atol=1e-5)
    assert np.isfinite(found.bits_per_byte).sum() == len(texts)
    assert {"correct", "wrong"} <= set(found.outcome) and found.correct[: len(ITEMS)].std() > 0
    assert found.metadata == {"server": service.url, "served_model": "tiny"}


def test_tokens_that_share_a_text_make_no_wrong_answer(serve, make_model, tokenizer):
    """A server that names tokens by their texts says less; what it leaves open is not scored."""
    odd = [
        Recall(f"o{i}", f"{i}. The capital is", f" {city}") for i, city in enumerate(["Zürich", "東京", "Köln"] * 10)
    ]
    probe, service = Probe("mixed", [*ITEMS, *odd]), serve(ids=False)
    expected = score_probe(make_model(seed=3), tokenizer, probe)
    found = score_served(service.server(), probe, tokenizer)
    known = ~np.isnan(found.correct)
    np.testing.assert_array_equal(found.correct[known], expected.correct[known])
    np.testing.assert_allclose(np.isfinite(found.margin), known)
    choices = expected.choice >= 0
    assert known[choices].all()
    np.testing.assert_allclose(found.margin[choices], expected.margin[choices], atol=1e-4)


def test_a_conversation_rendered_here_is_that_of_the_model_here(serve, make_model, tokenizer):
    probe, service = Probe("chat", [*ITEMS, *WRITTEN], chat=True, system="Be brief."), serve()
    expected = score_probe(make_model(seed=3), tokenizer, probe)
    same(score_served(service.server(), replace(probe, template=tokenizer.chat_template), tokenizer), expected)
    assert {path for path, _, _ in service.asked} == {"/v1/completions"}


@pytest.mark.parametrize("end", ["<|im_start|>", "\nuser|"])
def test_the_server_ends_an_answer_where_the_template_ends_the_turn(serve, make_model, tokenizer, end):
    """The server itself knows the model's end of sequence alone."""
    form = (
        "{{ m.role }}|{{ m.content }}<|im_start|>" if end == "<|im_start|>" else "{{ '\\n' + m.role }}|{{ m.content }}"
    )
    tokenizer.chat_template = "{% for m in messages %}" + form + "{% endfor %}assistant|"
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Who?"}], tokenize=False)
    service = serve()
    service.model = teach(make_model(), tokenizer, [(prompt, f"It is 42.{end}Who wrote this?")], steps=60)
    probe = bind(Probe("p", [Generation("g", "Who?", "42", "number", max_new_tokens=20)], chat=True), tokenizer)
    found = score_served(service.server(), probe, tokenizer)
    same(found, score_probe(service.model, tokenizer, probe))
    assert (found.text[0], found.outcome[0]) == ("It is 42.", "correct")


@pytest.mark.parametrize("chat", [False, True])
def test_answers_are_asked_for_without_a_tokenizer(serve, make_model, tokenizer, chat):
    probe, service = Probe("asked", WRITTEN, chat=chat), serve()
    expected = score_probe(make_model(seed=3), tokenizer, probe)
    bound, needed = bind_served(probe, service.server())
    assert needed is None
    found = score_served(service.server(), bound)
    # The server's own template is not known here: nothing says that it is the tokenizer's.
    assert (found.fingerprint == expected.fingerprint) is not chat
    same(replace(found, fingerprint=expected.fingerprint), expected)
    assert {path for path, _, _ in service.asked} == {"/v1/chat/completions" if chat else "/v1/completions"}


@pytest.mark.parametrize("chat", [False, True])
def test_further_prompts_are_asked_of_the_server_too(serve, make_model, tokenizer, chat):
    """Options in another order, an option with a context, several accepted answers, and the other way to ask."""
    items = [
        replace(
            ITEMS[0], variants=[{"prompt": "Which one?", "order": [3, 1, 0, 2]}, {"prompt": "It", "chat": not chat}]
        ),
        replace(ITEMS[14], variants=[{"prompt": "Hot or cold?", "order": [1, 0], "weak": True}]),
        Recall("several", "Once upon a", [" the", " time"], variants=["There was a"]),
        replace(WRITTEN[0], variants=[{"prompt": "What is it?", "chat": not chat}, "Answer:"]),
        WRITTEN[4],
    ]
    probe, service = Probe("asked", items, chat=chat), serve()
    expected = score_probe(make_model(seed=3), tokenizer, probe)
    bound = replace(probe, template=tokenizer.chat_template) if chat else probe
    found = score_served(service.server(), bound, tokenizer)
    same(found, expected)
    assert found.n_variants == 3
    for one, other in zip(found.further, expected.further, strict=True):
        assert one.fingerprint == other.fingerprint
        for column in ("correct", "outcome", "choice", "prediction", "text", "asked", "weak"):
            np.testing.assert_array_equal(getattr(one, column), getattr(other, column), err_msg=column)
        np.testing.assert_allclose(one.margin, other.margin, atol=1e-4)
    same(score_served(service.server(), bound, tokenizer, variants=False), expected.without_variants())


def test_a_server_renders_the_prompts_that_go_through_its_template(serve):
    item = replace(WRITTEN[0], variants=[{"prompt": "What is it?", "chat": True}])
    service = serve()
    (answers,) = score_served(service.server(), Probe("asked", [item])).further
    assert [(path, body.get("prompt"), body.get("messages")) for path, body, _ in service.asked] == [
        ("/v1/completions", item.prompt, None),
        ("/v1/chat/completions", None, [{"role": "user", "content": "What is it?"}]),
    ]
    assert answers.asked.all() and answers.text[0]


def test_a_server_draws_every_sample_with_a_seed_of_its_own(serve):
    service = serve()
    item = replace(WRITTEN[0], samples=3)
    found = score_served(service.server(), Probe("drawn", [item], temperature=0.6, seed=5))
    assert sorted(body["seed"] for _, body, _ in service.asked) == [5, 6, 7]  # requests run at once
    assert found.samples.tolist() == [3]


def test_settings_reach_the_server_and_no_others(serve):
    items = [WRITTEN[0], WRITTEN[8]]
    service = serve()
    score_served(service.server(), Probe("greedy", items))
    assert service.asked[0][1] == {"model": "tiny", "prompt": items[0].prompt, "max_tokens": 12, "temperature": 0.0}
    assert service.asked[1][1]["stop"] == ["e", " o"]
    drawn = Probe("drawn", items, chat=True, temperature=0.6, top_p=0.9, seed=5, system="Be brief.", thinking=False)
    score_served(service.server(), bind_served(drawn, service.server())[0])
    _, body, _ = service.asked[2]
    assert body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": items[0].prompt}],
        "max_tokens": 12,
        "temperature": 0.6,
        "top_p": 0.9,
        "seed": 5,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_requests_run_at_once_and_no_more_than_asked_for(serve):
    service = serve()
    service.delay = 0.2
    score_served(service.server(concurrency=4), Probe("asked", WRITTEN))
    assert service.most == 4


def test_faults_on_the_way_change_nothing(serve, make_model, tokenizer):
    probe, service = Probe("mixed", [*ITEMS, *WRITTEN]), serve()
    expected = score_probe(make_model(seed=3), tokenizer, probe)
    score_served(service.server(), probe, tokenizer)
    needed = len(service.asked)
    service.asked.clear()
    faults = [
        500,
        500,
        None,
        "cut",
        "drop",
        None,
        None,
        (429, {"Retry-After": "0.3"}),
        503,
        (429, {}),
        502,
        "drop",
        408,
    ]
    service.faults.extend(faults)
    begun = time.monotonic()
    found = score_served(service.server(), probe, tokenizer)
    assert time.monotonic() - begun > 0.3
    assert len(service.asked) == needed + len(faults) - faults.count(None)
    same(found, expected)


def test_an_item_that_is_refused_is_not_scored_and_is_said_once(serve, tokenizer, caplog):
    service = serve()
    service.refused = "apples"
    found = score_served(service.server(), Probe("asked", WRITTEN))
    lost = np.char.startswith(found.ids.astype(str), "stop")
    assert np.isnan(found.correct[lost]).all() and not np.isnan(found.correct[~lost]).any()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "4 of 12 items are not scored: stop 0, stop 1" in caplog.text
    assert "HTTP status 400: " in caplog.text and "too long for the context" in caplog.text
    assert len(service.asked) == len(WRITTEN), "a refusal is not asked for again"


def test_an_item_without_an_answer_after_all_attempts_is_not_scored(serve, caplog):
    service = serve()
    service.faults.extend([None, 500, "drop", 503, None, "garbage"])
    found = score_served(replace(service.server(concurrency=1), attempts=3), Probe("asked", WRITTEN))
    assert found.ids[np.isnan(found.correct)].tolist() == ["g1", "g3"]
    assert f"2 of 12 items are not scored: g1, g3 ({service.url} gave no answer: HTTP status 503: " in caplog.text
    assert "(3 attempts)" in caplog.text
    service.faults.append("garbage")
    with pytest.raises(ValueError, match=f"{service.url} does not answer .*malformed response: JSONDecodeError"):
        score_served(service.server(), Probe("asked", WRITTEN))


def test_a_server_that_is_gone_is_an_error_that_names_it(serve, tokenizer):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gone = Server(f"http://127.0.0.1:{port}/v1", "tiny", attempts=3)
    for probe in (Probe("asked", WRITTEN), Probe("scored", ITEMS)):
        with pytest.raises(ValueError, match=f"http://127.0.0.1:{port}/v1 does not answer .*refused.*3 attempts"):
            score_served(gone, probe, tokenizer)
    service = serve()
    service.refused = ""
    with pytest.raises(ValueError, match=f"{service.url} answered no item of probe 'asked' .*HTTP status 400"):
        score_served(service.server(), Probe("asked", WRITTEN))
    service.refused = None
    service.faults.extend([None] * 3 + [500] * 1000)
    with pytest.raises(ValueError, match=f"{service.url} does not answer .*HTTP status 500"):
        score_served(replace(service.server(concurrency=2), attempts=2), Probe("asked", WRITTEN))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_server_does_not_carry_the_key(serve, monkeypatch, status, host, caplog):
    """The other server is a port, or a name and a port, away; it rejects what comes without a key."""
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    service, other = serve(), serve()
    service.faults.extend([(status, {"Location": f"http://{host}:{other.server_port}/v1/completions"})] * 100)
    other.faults.extend([401] * 100)
    with pytest.raises(ValueError, match="refused model 'tiny': HTTP status 401") as said:
        score_served(replace(service.server(), attempts=2), Probe("asked", WRITTEN))
    assert service.asked[0][2]["Authorization"] == "Bearer a-secret"
    assert other.asked, "the redirect was followed"
    for _, _, headers in other.asked:
        assert "Authorization" not in headers and "a-secret" not in str(headers)
    assert "a-secret" not in f"{said.value} {caplog.text}"


def test_a_redirect_within_the_server_is_followed_with_the_key(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    service = serve()
    service.faults.append((307, {"Location": "/v1/completions"}))
    found = score_served(service.server(), Probe("asked", WRITTEN[:1]))
    assert not np.isnan(found.correct).any()
    assert [headers["Authorization"] for _, _, headers in service.asked] == ["Bearer a-secret"] * 2


def test_without_the_client_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"http://a/v1 .* pip install 'forget-callback\[served\]'"):
        score_served(Server("http://a/v1", "tiny"), Probe("asked", WRITTEN))


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_address_ends_it_at_once_and_the_key_is_nowhere(serve, monkeypatch, status, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    service = serve()
    service.faults.append(status)
    with pytest.raises(
        ValueError, match=f"{service.url}/completions refused model 'tiny': HTTP status {status}"
    ) as said:
        score_served(service.server(), Probe("asked", WRITTEN))
    assert len(service.asked) == 1
    assert service.asked[0][2]["Authorization"] == "Bearer a-secret"
    assert "a-secret" not in f"{said.value} {caplog.text} {service.server()}"


def test_without_log_probabilities_of_the_prompt_choices_are_refused(serve, tokenizer):
    service = serve(echoes=False)
    for probe in (Probe("scored", ITEMS[:1]), Probe("recalled", ITEMS[-1:]), Probe("read", [Text("t", "a")])):
        with pytest.raises(ValueError, match=rf"{service.url} gave no log-probabilities.*\?cot=true"):
            score_served(service.server(), probe, tokenizer)
    assert len(service.asked) == 3


def test_another_tokenizer_than_the_servers_is_refused(serve, make_tokenizer):
    service = serve()
    other = make_tokenizer(bos_token="<bos>")
    with pytest.raises(ValueError, match="not the tokenizer of 'tiny'; pass --tokenizer"):
        score_served(service.server(), Probe("scored", ITEMS), other)


def test_snapshot_takes_an_address(run_cli, serve, make_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    tokenizer.save_pretrained(tmp_path / "model")
    probe = Probe("mixed", [*ITEMS, *WRITTEN])
    spec = tmp_path / "mixed.jsonl"
    spec.write_text("".join(json.dumps(item_record(item)) + "\n" for item in probe.items))
    service = serve()
    out = tmp_path / "out"
    asked = ("snapshot", f"{service.url}#tiny", "--probe", spec, "--out", out, "--step", 3)
    code, _, err = run_cli(*asked)
    assert code == 2 and "no tokenizer at 'tiny'" in err and "--tokenizer" in err
    code, said, err = run_cli(*asked, "--tokenizer", tmp_path / "model", "--concurrency", 2)
    assert code == 0, err
    expected = score_probe(make_model(seed=3), tokenizer, probe)
    same(Store(out).read("mixed", 3), expected)
    assert said == f"mixed: {100 * expected.accuracy:.1f}% of {len(probe)} items right\n"
    assert not any(b"a-secret" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert math.isnan(Store(out).read("mixed", 3).samples_seen)


@pytest.mark.parametrize(
    "models, message",
    [
        (["http://127.0.0.1:1/v1"], "names no model; expected http://HOST:PORT/v1#MODEL"),
        (["http://127.0.0.1:1/v1#a", "http://127.0.0.1:1/v1#b"], "must be the only one"),
        (["http://127.0.0.1:1/v1#a", "--baseline", "model"], "must be the only one"),
    ],
)
def test_an_address_that_cannot_be_asked_is_said(run_cli, tmp_path, models, message):
    code, out, err = run_cli("snapshot", *models, "--probe", "builtin:facts", "--out", tmp_path / "out")
    assert (code, out) == (2, "") and message in err
    assert not (tmp_path / "out").exists()
