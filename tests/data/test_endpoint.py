"""The endpoint's client against a real HTTP server on this machine that can be told to fail."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from chat_server import SECRET, completion, failure, ok, serving

from ogpsa_factory.endpoint import Endpoint, ReplyCache, complete, complete_each, estimate, next_start, request_key
from ogpsa_factory.endpoint import client as module
from ogpsa_factory.errors import OGPSAError


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def cache(tmp_path):
    with ReplyCache(tmp_path / "replies.jsonl") as cache:
        yield cache


def endpoint_of(server, **options):
    return Endpoint(**{"url": server.url, "model": "m", "attempts": 2, "timeout": 5.0, **options})


def asking(*prompts):
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


def lines(cache):
    return [json.loads(line) for line in cache.path.read_text().splitlines()]


def failing(server, cache, *prompts, **options):
    with pytest.raises(OGPSAError) as caught:
        complete(asking(*prompts), endpoint_of(server, **options), cache)
    message = str(caught.value)
    assert SECRET not in message and caught.value.__cause__ is None
    return message


def test_replies_are_in_the_order_of_the_requests(server, cache):
    slow_first = threading.Event()

    def script(number, body):
        if body["messages"][-1]["content"] == "p0":
            slow_first.wait(5)
        elif number > 8:
            slow_first.set()

    server.script = script
    prompts = [f"p{i}" for i in range(20)]
    assert complete(asking(*prompts), endpoint_of(server), cache) == [prompt.upper() for prompt in prompts]
    assert lines(cache)[0]["reply"] != "P0"


def test_what_is_sent_and_what_is_kept(server, cache):
    complete(asking("hello"), endpoint_of(server, max_tokens=33, temperature=0.25), cache)
    assert server.bodies == [
        {"model": "m", "messages": asking("hello")[0], "max_tokens": 33, "temperature": 0.25},
    ]
    assert server.keys == [f"Bearer {SECRET}"]
    (line,) = lines(cache)
    assert line["reply"] == "HELLO" and line["model"] == "m" and line["messages"] == asking("hello")[0]
    assert line["finish_reason"] == "stop" and line["usage"] == {"prompt_tokens": 5, "completion_tokens": 7}
    assert SECRET not in cache.path.read_text()


def test_no_temperature_is_sent_where_none_is_wanted(server, cache):
    complete(asking("hello"), endpoint_of(server, temperature=None), cache)
    assert "temperature" not in server.bodies[0]


def test_without_a_key_the_word_none_is_sent(server, cache, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    complete(asking("hello"), endpoint_of(server), cache)
    assert server.keys == ["Bearer none"]


def test_another_variable_may_hold_the_key(server, cache, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", " other\n")
    complete(asking("hello"), endpoint_of(server, key_variable="OTHER_KEY"), cache)
    assert server.keys == ["Bearer other"]


def test_a_key_that_no_header_can_hold(server, cache, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET + "\nsecond line")
    assert "OPENAI_API_KEY" in failing(server, cache, "a")


def test_nothing_is_asked_twice(server, cache):
    complete(asking("a", "b", "a"), endpoint_of(server), cache)
    assert sorted(server.prompts) == ["a", "b"]
    assert complete(asking("b", "a", "c"), endpoint_of(server), cache) == ["B", "A", "C"]
    assert sorted(server.prompts) == ["a", "b", "c"]
    complete(asking("a"), endpoint_of(server, temperature=0.1), cache)
    assert server.prompts[3:] == ["a"], "other sampling parameters are another request"


def test_an_interrupted_run_goes_on_with_the_rest(server, tmp_path):
    prompts = [f"p{i}" for i in range(12)]
    server.script = lambda number, body: failure(500, "down") if number >= 7 else None
    path = tmp_path / "deep" / "replies.jsonl"
    with ReplyCache(path) as cache:
        message = failing(server, cache, *prompts, concurrency=1)
        assert f"Replies kept in {path}: 7; the same command" in message
    server.script = lambda number, body: None
    del server.bodies[:]
    with ReplyCache(path) as cache:
        assert complete(asking(*prompts), endpoint_of(server), cache) == [prompt.upper() for prompt in prompts]
    assert sorted(server.prompts) == sorted(prompts[7:])


def test_the_others_in_flight_are_cancelled_by_an_error(server, cache):
    server.script = lambda number, body: "hang" if body["messages"][-1]["content"] == "slow" else failure(401, "no")
    began = time.monotonic()
    failing(server, cache, "slow", "b", timeout=60.0)
    assert time.monotonic() - began < 5


def test_progress_counts_cached_and_repeated_requests(server, cache):
    complete(asking("a"), endpoint_of(server), cache)
    seen = []
    complete(asking("a", "b", "b", "c"), endpoint_of(server, concurrency=1), cache, lambda *step: seen.append(step))
    assert seen == [(1, 4), (3, 4), (4, 4)]


def test_concurrency_is_kept_and_used(server, cache):
    full = threading.Barrier(3)
    server.script = lambda number, body: full.wait(5) and None
    complete(asking(*[f"p{i}" for i in range(12)]), endpoint_of(server, concurrency=3), cache)
    assert server.most_in_flight == 3


def test_starts_are_evenly_spaced():
    assert next_start(10.0, None, 30) == 10.0
    assert next_start(10.5, 10.0, 30) == 12.0
    assert next_start(15.0, 12.0, 30) == 15.0
    start, starts = None, []
    for _ in range(60):
        start = next_start(0.0, start, 120)
        starts.append(start)
    assert starts == [i * 0.5 for i in range(60)]


def test_every_attempt_waits_for_its_turn(server, cache, monkeypatch):
    asked = []

    def spy(now, previous, requests_per_minute):
        asked.append((previous, requests_per_minute))
        return now

    monkeypatch.setattr(module, "next_start", spy)
    server.script = lambda number, body: failure(500, "down") if number == 0 else None
    complete(asking("a", "b"), endpoint_of(server, concurrency=1, requests_per_minute=90), cache)
    assert len(asked) == len(server.bodies) == 3, "a retry is a request too"
    assert asked[0] == (None, 90) and asked[1][0] is not None


@pytest.mark.parametrize(
    "broken",
    [
        failure(429, "slow down", **{"Retry-After": "0"}),
        failure(500, "down"),
        failure(503, "overloaded"),
        "close",
        (200, {}, b'{"choices": [{"mess'),
        (200, {"Content-Type": "text/html"}, b"<html>gateway</html>"),
        (200, {}, b'{"error": {"message": "provider failed"}}'),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"index": 0}]}'),
        (200, {}, b"null"),
    ],
    ids=["429", "500", "503", "close", "cut", "html", "error", "empty", "no message", "null"],
)
def test_a_passing_failure_is_tried_again_and_a_lasting_one_reported(server, cache, broken):
    server.script = lambda number, body: broken if number == 0 else None
    assert complete(asking("a"), endpoint_of(server), cache) == ["A"]
    assert len(server.bodies) == 2
    server.script = lambda number, body: broken
    message = failing(server, cache, "b", attempts=3)
    assert f"kept in {cache.path}: 1;" in message and server.url in message
    assert len(server.bodies) == 2 + 3


def test_a_hanging_server_times_out(server, cache):
    server.script = lambda number, body: "hang"
    message = failing(server, cache, "a", timeout=0.1)
    assert "did not answer within 0.1 s" in message and "timeout" in message
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (failure(401, f"Incorrect API key provided: {SECRET}"), ["refused the key", "Set OPENAI_API_KEY"]),
        (failure(403, "forbidden"), ["refused the key", "Set OPENAI_API_KEY"]),
        (failure(404, "model does not exist"), ["knows no model 'm'", "/v1"]),
        (failure(429, "pay", code="insufficient_quota"), ["no credit"]),
        (failure(429, "slow down"), ["too fast", "concurrency"]),
        (failure(400, f"bad value, by the way {SECRET}"), ["bad value", "***"]),
        (failure(500, "the disk is full"), ["the disk is full"]),
    ],
)
def test_messages_say_what_to_do(server, cache, answer, words):
    server.script = lambda number, body: answer
    message = failing(server, cache, "a")
    assert all(word in message for word in [*words, f"kept in {cache.path}: 0;"])
    assert lines(cache) == []


def test_a_missing_key_is_named_when_it_is_refused(server, cache, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server.script = lambda number, body: failure(401, "who are you")
    assert "OPENAI_API_KEY is not set" in failing(server, cache, "a")
    server.script = lambda number, body: failure(400, "none of these models is there")
    assert "none of these models is there" in failing(server, cache, "a"), "only a key is masked"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://nowhere.invalid/v1"])
def test_an_address_where_nothing_is(server, cache, url):
    message = failing(server, cache, "a", url=url)
    assert "cannot be reached" in message and url in message


@pytest.mark.parametrize("answer", [ok(None), ok(""), ok([{"type": "text"}])])
def test_no_text_is_an_empty_reply_and_is_kept(server, cache, answer):
    server.script = lambda number, body: answer
    assert complete(asking("a"), endpoint_of(server), cache) == [""]
    assert complete(asking("a"), endpoint_of(server), cache) == [""]
    assert len(server.bodies) == 1


def test_a_refusal_in_its_own_field_is_the_reply(server, cache):
    server.script = lambda number, body: ok(None, refusal="I can't help with that.")
    assert complete(asking("a"), endpoint_of(server), cache) == ["I can't help with that."]


@pytest.mark.parametrize("code", ["content_filter", "context_length_exceeded"])
def test_one_prompt_that_is_never_answered_does_not_stop_the_others(server, cache, code):
    server.script = lambda number, body: failure(400, "no", code=code) if number == 1 else None
    assert complete(asking("a", "b", "c"), endpoint_of(server, concurrency=1), cache) == ["A", "", "C"]
    assert lines(cache)[1]["finish_reason"] == "rejected"


def test_models_that_know_the_limit_by_its_newer_name(server, cache):
    def script(number, body):
        if "max_tokens" in body:
            return failure(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")

    server.script = script
    assert complete(asking("a", "b"), endpoint_of(server, concurrency=1, max_tokens=9), cache) == ["A", "B"]
    assert [body.get("max_completion_tokens") for body in server.bodies] == [None, 9, 9]


def test_text_that_is_no_unicode_is_sent_all_the_same(server, cache):
    server.script = lambda number, body: ok("fine")
    assert complete(asking("broken \ud800"), endpoint_of(server), cache) == ["fine"]
    assert server.prompts == ["broken ?"]


def test_a_reply_that_is_no_unicode_is_kept_as_one_that_is(server, cache):
    server.script = lambda number, body: (200, {}, json.dumps(completion("half \ud83d a pair ü")).encode())
    assert complete(asking("a"), endpoint_of(server), cache) == ["half ? a pair ü"]
    assert lines(cache)[0]["reply"] == "half ? a pair ü"


def test_ctrl_c_keeps_what_is_finished(server, tmp_path):
    server.script = lambda number, body: "hang" if body["messages"][-1]["content"] == "c" else None
    path = tmp_path / "replies.jsonl"
    code = (
        "import sys\nfrom pathlib import Path\nfrom ogpsa_factory.endpoint import *\n"
        "with ReplyCache(Path(sys.argv[2])) as cache:\n"
        "    requests = [[{'role': 'user', 'content': p}] for p in 'abc']\n"
        "    complete(requests, Endpoint(url=sys.argv[1], model='m', concurrency=1), cache)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.url, str(path)],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        # A suite that runs in the background hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while len(server.bodies) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in errors and SECRET not in errors
    assert [json.loads(line)["reply"] for line in path.read_text().splitlines()] == ["A", "B"]


def test_importing_is_instant():
    code = (
        "import sys, ogpsa_factory.endpoint, ogpsa_factory.data.refusals; print({'openai', 'vllm'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


# --- the cache -------------------------------------------------------------------------------------------------------


def filled(path, *keys):
    with ReplyCache(path) as cache:
        for key in keys:
            cache.add(key, f"reply ü to {key}")
    return path


def test_the_cache_remembers(tmp_path):
    path = filled(tmp_path / "c.jsonl", "a", "b")
    with ReplyCache(path) as cache:
        assert len(cache) == 2 and cache["a"] == "reply ü to a" and "z" not in cache


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_half_written_last_line_is_forgotten(tmp_path, cut):
    path = filled(tmp_path / "c.jsonl", "a", "b")
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 - cut])
    with ReplyCache(path) as cache:
        assert "a" in cache and "b" not in cache
        cache.add("b", "reply ü to b")
    assert path.read_bytes() == whole


def test_a_last_line_that_lacks_its_end_only_is_kept(tmp_path):
    path = filled(tmp_path / "c.jsonl", "a", "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with ReplyCache(path) as cache:
        assert "b" in cache
    assert path.read_bytes() == whole


def test_a_kept_reply_that_is_no_unicode(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"key": "a", "reply": "half \\ud83d"}\n')
    with ReplyCache(path) as cache:
        assert cache["a"] == "half ?"


@pytest.mark.parametrize(
    "damage",
    [b'{"key": "a"}', b"[1]", b"", b"\xff\xfe", b'{"key": "a", "reply": null}', b'{"key', b"[" * 200_000],
    ids=["no reply", "a list", "empty", "no UTF-8", "null", "cut", "nested"],
)
def test_any_other_damaged_line_is_an_error(tmp_path, damage):
    path = filled(tmp_path / "c.jsonl", "a", "b", "c")
    content = path.read_bytes().splitlines()
    content[1] = damage
    path.write_bytes(b"\n".join(content) + b"\n")
    before = path.read_bytes()
    with pytest.raises(OGPSAError, match=r"c\.jsonl, line 2"):
        ReplyCache(path)
    assert path.read_bytes() == before
    path.write_bytes(b"\n".join([content[0], content[2]]) + b"\n")
    with ReplyCache(path) as cache:
        assert len(cache) == 2, "the error left no lock behind"


def test_two_writers_are_refused(tmp_path):
    path = filled(tmp_path / "c.jsonl", "a")
    code = (
        "import sys; from pathlib import Path; from ogpsa_factory.endpoint import ReplyCache\n"
        "ReplyCache(Path(sys.argv[1]))"
    )
    with ReplyCache(path) as cache:
        with pytest.raises(OGPSAError, match="Another process uses the reply cache"):
            ReplyCache(path)
        other = subprocess.run([sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE, text=True)
        assert other.returncode == 1 and "OGPSAError: Another process" in other.stderr and str(path) in other.stderr
        cache.add("b", "still mine")
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_a_full_disk_is_reported(tmp_path):
    with ReplyCache(tmp_path / "c.jsonl") as cache:
        cache.add("a", "reply")
        with closing(cache._file):
            cache._file = open("/dev/full", "ab")
        with pytest.raises(OGPSAError, match=r"No space left.*kept there: 1;.*same command"):
            cache.add("b", "reply")
        assert "b" not in cache


def test_a_cache_that_cannot_be_opened(tmp_path):
    with pytest.raises(OGPSAError, match="Cannot open the reply cache"):
        ReplyCache(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OGPSAError, match="Cannot open the reply cache"):
        ReplyCache(tmp_path / "file" / "c.jsonl")


# --- estimate and settings -------------------------------------------------------------------------------------------


def test_estimate(cache):
    endpoint = Endpoint(url="http://h/v1", model="m", max_tokens=100, price=(2.0, 8.0))
    requests = asking("x" * 400, "y" * 400, "y" * 400, "z" * 400)
    cache.add(request_key(endpoint, requests[3]), "reply")
    found = estimate(requests, endpoint, cache)
    assert (found.requests, found.cached, found.prompt_tokens, found.answer_tokens) == (4, 2, 200, 200)
    assert found.dollars == pytest.approx(200 * 2e-6 + 200 * 8e-6)
    assert estimate(requests, endpoint, None).cached == 1
    text = str(estimate(asking(*[str(i) for i in range(10_000)]), endpoint, cache))
    assert text.startswith("10,000 requests, 0 of them answered already") and "about $8.02" in text


def test_estimate_without_a_price_or_without_work(cache):
    endpoint = Endpoint(url="http://h/v1", model="m")
    found = estimate(asking("a"), endpoint, cache)
    assert found.dollars is None and "price" in str(found) and "$" not in str(found)
    cache.add(request_key(endpoint, asking("a")[0]), "")
    assert "nothing is sent" in str(estimate(asking("a"), endpoint, cache))
    assert "nothing is sent" in str(estimate([], endpoint, cache))


def test_the_key_of_a_request_is_stable():
    endpoint = Endpoint(url="http://h/v1", model="m", max_tokens=5, temperature=0.5)
    assert request_key(endpoint, asking("ü")[0]) == "0e7dc6a2dced71cc14be6bcd9d75310341885b2a37be421fc43da37011b5aa5f"
    same = Endpoint(url="http://h/v1/", model="m", max_tokens=5, temperature=0.5, concurrency=1)
    assert request_key(same, asking("ü")[0]) == request_key(endpoint, asking("ü")[0])


@pytest.mark.parametrize("other", [{"url": "http://i/v1"}, {"model": "n"}, {"max_tokens": 6}, {"temperature": None}])
def test_whatever_decides_on_a_reply_is_in_the_key(other):
    options = {"url": "http://h/v1", "model": "m", "max_tokens": 5, "temperature": 0.5}
    one, two = Endpoint(**options), Endpoint(**{**options, **other})
    assert request_key(one, asking("ü")[0]) != request_key(two, asking("ü")[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "localhost:8000"}, "is no address"),
        ({"url": "ftp://h/v1"}, "is no address"),
        ({"url": "http://"}, "is no address"),
        ({"url": "http://h:notaport/v1"}, "is no address"),
        ({"url": "http://h/v1/chat/completions"}, "leave out /chat/completions"),
        ({"model": " "}, "model is empty"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"requests_per_minute": 0.0}, "requests_per_minute is 0"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"price": (-1.0, 2.0)}, "price is"),
        ({"price": (1.0,)}, "price is"),
    ],
)
def test_settings_that_make_no_sense(options, words):
    with pytest.raises(OGPSAError, match=words):
        Endpoint(**{"url": "http://h/v1", "model": "m", **options})


@pytest.mark.parametrize(
    "options",
    [{"key_variable": SECRET}, {"url": f"https://me:{SECRET}@h/v1"}, {"url": f"https://h/v1?key={SECRET}"}],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(options):
    with pytest.raises(OGPSAError) as caught:
        Endpoint(**{"url": "http://h/v1", "model": "m", **options})
    assert SECRET not in str(caught.value)


def test_no_calls_for_no_requests(server, cache):
    assert complete([], endpoint_of(server), cache) == []
    assert server.bodies == []


def test_a_request_that_fails_for_good_is_reported_and_the_others_are_answered(server, cache):
    """Timeouts, 429, 500, nonsense and half an answer, each for one request and for all of its attempts."""
    half = json.dumps(completion("half")).encode()[:40]
    broken = {
        "limit": failure(429, "slow down"),
        "down": failure(500, "broken"),
        "page": (200, {"Content-Type": "text/html"}, b"<html>gateway</html>"),
        "half": (200, {}, half),
        "gone": "close",
        "slow": "hang",
    }
    server.script = lambda number, body: broken.get(body["messages"][0]["content"])
    replies = complete_each(asking("a", *broken, "z"), endpoint_of(server, timeout=2), cache)
    assert [reply.text for reply in replies] == ["A", *[""] * len(broken), "Z"]
    assert [reply.failure is None for reply in replies] == [True, *[False] * len(broken), True]
    assert SECRET not in str(replies)
    assert {prompt: server.prompts.count(prompt) for prompt in broken} == dict.fromkeys(broken, 2), "attempts"
    server.script = lambda number, body: None
    again = complete_each(asking("a", *broken, "z"), endpoint_of(server), cache)
    assert [reply.text for reply in again] == ["A", *map(str.upper, broken), "Z"]
    assert server.prompts.count("a") == 1, "what was answered is not asked again"


@pytest.mark.parametrize("answer", [failure(401, "no"), failure(404, "no"), failure(429, "no", "insufficient_quota")])
def test_what_concerns_all_requests_ends_at_once(server, cache, answer):
    server.script = lambda number, body: answer
    with pytest.raises(OGPSAError):
        complete_each(asking(*map(str, range(50))), endpoint_of(server, concurrency=2), cache)
    assert len(server.prompts) <= 4


def test_an_endpoint_that_is_gone_is_given_up(server, cache):
    server.script = lambda number, body: failure(503, "down")
    with pytest.raises(OGPSAError, match="failed"):
        complete_each(asking(*map(str, range(200))), endpoint_of(server, attempts=1), cache)
    assert len(server.prompts) < 40
