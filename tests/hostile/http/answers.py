"""The bytes of answers, by behaviour."""

import gzip
import json

DONE = b"HTTP/1.1 204 No Content\r\n\r\n"

# More is announced than comes.
HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 40


def answer(status, body=b"", headers=()):
    """Returns a whole answer."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def listed(text, headers=()):
    """Returns a success with a body that is meant as a list."""
    data = text if isinstance(text, bytes) else text.encode()
    return answer("200 OK", data, ["content-type: application/json", *headers])


def verdicts(entries):
    return listed(json.dumps({"verdicts": entries}))


def raw(data, goes_on=True):
    """A behaviour that always sends the same, whatever the verdicts are."""
    return lambda entries, place: (data, goes_on)


def made(make):
    """A behaviour whose list depends on the verdicts."""
    return lambda entries, place: (make(entries, place), True)


def odd_list(entries, place):
    """The list around what is odd at a place, as text."""
    before = [json.dumps(entry) for entry in entries[:place]]
    after = [json.dumps(entry) for entry in entries[place + 1 :]]
    return lambda odd: '{"verdicts": [' + ", ".join([*before, odd, *after]) + "]}"


def with_entry(text):
    return made(lambda entries, place: listed(odd_list(entries, place)(text)))


HUGE = 24 << 20

# How a message is answered for, in one request or in a batch.
BOTH = {
    # Its end.
    "answer-half": raw(HALF, goes_on=False),
    "answer-half-a-head": raw(b"HTTP/1.1 200 OK\r\ncontent-le", goes_on=False),
    "end-in-a-chunk": raw(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\nhalf", goes_on=False
    ),
    "garble-a-chunk": raw(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", goes_on=False
    ),
    "answer-in-odd-chunks": raw(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"1;a=b\r\no\r\n" * 500
        + b"0\r\nx: y\r\n\r\n"
    ),
    "answer-after-interim-ones": raw(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + DONE
    ),
    "answer-in-http-1-0": raw(b"HTTP/1.0 200 OK\r\n\r\nok", goes_on=False),
    "answer-at-great-length": raw(answer("200 OK", b"x" * HUGE)),
    "say-that-it-closes": raw(answer("200 OK", headers=["connection: close"])),
    # More than an answer.
    "send-two-answers": raw(DONE + answer("500 Oh")),
    "send-more-than-announced": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more"),
    "send-a-body-with-204": raw(b"HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nmore"),
    # No HTTP.
    "speak-no-http": raw(b"\0\1\2\xff hello\r\n\r\n", goes_on=False),
    "speak-http-2": raw(b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64", goes_on=False),
    "announce-no-number": raw(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", goes_on=False),
    "announce-two-lengths": raw(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", goes_on=False
    ),
    "send-endless-headers": raw(b"HTTP/1.1 200 OK\r\nx: " + b"y" * (200 << 10), goes_on=False),
    "send-a-thousand-headers": raw(answer("200 OK", headers=["x: y"] * 1000), goes_on=False),
}

# How a message alone in its request is answered for.
ONE = {
    "redirect": raw(answer("302 Found", headers=["location: http://127.0.0.1:1/"])),
    "switch-protocols": raw(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n", goes_on=False
    ),
    "answer-a-status-of-999": raw(answer("999 Odd")),
    "answer-with-lines": raw(answer("422 No", b"first\r\nsecond\0 \x1b[31mred")),
    "answer-what-is-not-text": raw(answer("422 No", b"odd \xff\xfe")),
    "answer-an-error-at-great-length": raw(answer("500 Oh", b"x" * HUGE)),
    "ask-to-wait-until-a-date": raw(
        answer("503 Later", headers=["retry-after: Fri, 31 Dec 1999 23:59:59 GMT"])
    ),
    "ask-to-wait-for-less-than-nothing": raw(answer("503 Later", headers=["retry-after: -5"])),
    "answer-with-a-list": raw(listed('{"verdicts": ["fail"]}')),
    "answer-compressed": raw(answer("200 OK", gzip.compress(b"ok"), ["content-encoding: gzip"])),
}

# How a batch is answered for.
SEVERAL = {
    "cut-the-list-off": made(lambda entries, _: listed(json.dumps({"verdicts": entries})[:-3])),
    "answer-for-others-too": made(lambda entries, _: verdicts([*entries, "done"])),
    "name-those-it-answers-for": with_entry('{"id": "orders-0-1", "verdict": "done"}'),
    "leave-out-the-rest": made(lambda entries, place: verdicts(entries[:place])),
    "answer-with-nothing-known": with_entry('"fine"'),
    "answer-null": with_entry("null"),
    "answer-nan": with_entry('{"verdict": "retry", "retryAfter": NaN}'),
    "answer-without-a-list": made(lambda entries, _: listed("{}")),
    "answer-with-two-lists": made(
        lambda entries, _: listed('{"verdicts": [], "verdicts": ' + json.dumps(entries) + "}")
    ),
    "compress-the-list": made(
        lambda entries, _: listed(
            gzip.compress(json.dumps({"verdicts": entries}).encode()), ["content-encoding: gzip"]
        )
    ),
    "answer-with-a-huge-list": made(
        lambda entries, _: listed(json.dumps({"verdicts": entries, "x": "x" * HUGE}))
    ),
    "fail-a-batch": raw(answer("500 Oh")),
    "wait-as-a-whole": raw(answer("429 Later", headers=["retry-after: 0"])),
}

# Verdicts on one message of a batch.
VERDICTS = {
    "verdict-retry": {"verdict": "retry", "reason": "still busy"},
    "verdict-skip": {"verdict": "skip", "reason": "a test message"},
    "verdict-dead-letter": {"verdict": "deadLetter", "reason": "a negative amount"},
    "verdict-fail": "fail",
    "verdict-with-lines": {"verdict": "fail", "reason": "first\r\nsecond\0 \x1b[31mred"},
    "verdict-of-1-mib": {"verdict": "fail", "reason": "x" * (1 << 20)},
    "verdict-before-its-time": {"verdict": "retry", "reason": "busy", "retryAfter": -5},
    "verdict-for-years": {"verdict": "retry", "reason": "much later", "retryAfter": 1e300},
    "verdict-with-records": {"verdict": "done", "produce": [{"topic": "out", "data": 1}]},
}

# They settle all messages of their request.
SETTLES = {
    "answer-in-odd-chunks",
    "answer-after-interim-ones",
    "answer-in-http-1-0",
    "answer-at-great-length",
    "say-that-it-closes",
    "send-two-answers",
    "send-more-than-announced",
    "send-a-body-with-204",
    "fail-a-batch",
    "wait-as-a-whole",
}
