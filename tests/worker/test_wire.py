"""The frames, byte for byte, and cut anywhere."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts_worker import messages as m
from ts_worker.frames import FrameReader
from ts_worker.wire import HEADER_SIZE, WireError, decode, encode

REQUEST = m.Request(b"id-1", b"Accept\0*/*", (m.Param("body", "application/json", b"{}"),))
RESPONSE = m.Response(b"id-1", 200, "", b"", b"ok")

EXAMPLES = [
    m.Load("m", "1.0", "/m", "h.py", 8, 0, None, True, True, None, 2, ("/m",), (("A", "b"),)),
    m.Load("m", "1.0", "/m", "h.py", 1, None, "json", True, True, "/y", 0, (), None),
    m.Load("m", "1.0", "/m", "h.py", 1, 1, None, True, True, None, 0, (), None, False, 1, True),
    m.Loaded(500, "ValueError: é", "Traceback"),
    m.Predict(7, (REQUEST,)),
    m.Predict(8, ()),
    m.InputChunk(b"id-1", True, b"more"),
    m.Cancel(b"id-1"),
    m.Threads(3),
    m.Reply(7, 200, "", (RESPONSE, RESPONSE._replace(status=418, reason="teapot"))),
    m.Reply(7, 503, "Prediction failed", ()),
    m.Reply(7, 404, "no cat", (m.Response(b"id-1", 404, "", b"", b""),)),
    m.ReplyChunk(b"id-1", 200, "", b"ts_stream_next\0true", b"part"),
    m.Log(20, "root", "hello"),
    m.Log(40, "handler", "two\nlines", "id-1,id-2"),
    m.Metric("HandlerTime", "Milliseconds", "gauge", 1.5, (("ModelName", "m"),), "id-1"),
    m.Call(1, "other", "", REQUEST),
    m.CallReply(1, 200, "", RESPONSE),
    m.CallReply(1, 404, "Model not found: other", None),
]

GOLDEN = {
    m.Predict(7, (REQUEST,)): (
        "0000000000000047" "03"
        "0000000000000007" "0001"
        "04" "0000000a" "00000001" "69642d31" "416363657074002a2f2a"
        "00000004" "00000010" "0000000000000002" "626f6479"
        "6170706c69636174696f6e2f6a736f6e" "7b7d"
    ),
    m.Reply(7, 200, "", (RESPONSE,)): (
        "000000000000002d" "07"
        "0000000000000007" "000000c8" "00000000" "0001"
        "04" "000000c8" "00000000" "00000000" "0000000000000002" "69642d31" "6f6b"
    ),
    m.Reply(7, 404, "no", (m.Response(b"id-1", 404, "", b"", b""),)): (
        "000000000000002d" "07"
        "0000000000000007" "00000194" "00000002" "0001" "6e6f"
        "04" "00000194" "00000000" "00000000" "0000000000000000" "69642d31"
    ),
    m.Metric("T", "ms", "gauge", 1.5, (("M", "m"),), "id-1"): (
        "000000000000002e" "0a"
        "3ff8000000000000" "0000001e"
        "5b2254222c226d73222c226761756765222c5b5b224d222c226d225d5d5d" "69642d31"
    ),
    m.Log(20, "a", "b", "id-1"): (
        "0000000000000013" "09" "5b32302c2261222c2262222c2269642d31225d"
    ),
    m.Cancel(b"id-1"): "0000000000000004" "05" "69642d31",
    m.Threads(3): "0000000000000002" "06" "0003",
}  # fmt: skip


def flat(message: m.Message) -> bytes:
    return b"".join(bytes(piece) for piece in encode(message))


@pytest.mark.parametrize("message", GOLDEN, ids=lambda message: type(message).__name__)
def test_frame_is_byte_for_byte_as_documented(message):
    assert flat(message).hex() == GOLDEN[message]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_wire(message):
    data = flat(message)
    assert decode(data[HEADER_SIZE - 1], data[HEADER_SIZE:]) == message


def test_every_kind_of_message_has_an_example():
    assert {type(example) for example in EXAMPLES} == set(m.Message.__args__)


@given(st.lists(st.sampled_from(EXAMPLES), max_size=6), st.data())
def test_a_stream_cut_anywhere_gives_the_same_messages(sent, data):
    stream = b"".join(map(flat, sent))
    reader = FrameReader(capacity=64)
    got = []
    while stream:
        room = reader.buffer()
        count = data.draw(st.integers(1, min(len(room), len(stream))))
        room[:count] = stream[:count]
        got += reader.received(count)
        stream = stream[count:]
    assert got == sent


@given(
    st.binary(max_size=40),
    st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9), st.binary(max_size=99))),
)
def test_any_request_survives(request_id, params):
    message = m.Predict(1, (m.Request(request_id, b"", tuple(m.Param(*p) for p in params)),))
    data = flat(message)
    assert decode(data[HEADER_SIZE - 1], data[HEADER_SIZE:]) == message


def test_a_large_body_is_neither_copied_by_the_sender_nor_joined_by_the_reader():
    body = bytes(5_000_000)
    pieces = encode(m.Reply(1, 200, "", (RESPONSE._replace(body=body),)))
    assert pieces[-1] is body
    stream, reader, got = memoryview(b"".join(pieces)), FrameReader(), []
    while stream:
        room = reader.buffer()
        count = min(len(room), len(stream))
        room[:count] = stream[:count]
        got += reader.received(count)
        stream = stream[count:]
    assert isinstance(got[0].responses[0].body, memoryview)
    assert bytes(got[0].responses[0].body) == body


def fed(message: m.Message) -> m.Message:
    """A message as a reader gets it, in pieces."""
    stream, reader = memoryview(flat(message)), FrameReader()
    while True:
        room = reader.buffer()
        count = min(len(room), len(stream))
        room[:count] = stream[:count]
        room.release()
        stream = stream[count:]
        if got := reader.received(count):
            assert not stream
            return got[0]


def test_the_last_input_of_a_lone_request_is_the_handlers_own():
    body = bytes(range(256)) * 1000
    some = m.Param("some", "text/plain", b"x" * 100_000)
    request = m.Request(b"i" * 36, b"a\0b", (some, m.Param("body", "", body)))
    batch = fed(m.Predict(7, (request,)))
    assert batch == m.Predict(7, (request,))
    value = batch.requests[0].params[1].value
    assert isinstance(value, bytearray)
    value += b"more"  # nobody else looks at it


def test_a_reader_whose_buffer_is_still_held_shares_its_memory():
    request = m.Request(b"i" * 36, b"", (m.Param("body", "", bytes(100_000)),))
    data, reader = flat(m.Predict(7, (request,))), FrameReader()
    first = reader.buffer()
    first[:] = data[: len(first)]
    assert reader.received(len(first)) == []
    held = reader.buffer()
    held[:] = data[len(first) :]
    assert reader.received(len(held)) == [m.Predict(7, (request,))]


def test_requests_that_share_a_frame_share_its_memory():
    request = m.Request(b"i" * 36, b"", (m.Param("body", "", bytes(100_000)),))
    batch = fed(m.Predict(7, (request, request)))
    assert batch == m.Predict(7, (request, request))
    assert isinstance(batch.requests[0].params[0].value, memoryview)


def test_a_long_form_that_ends_with_a_short_field_arrives_whole():
    params = (m.Param("file", "", bytes(100_000)), m.Param("name", "", b"short"))
    batch = m.Predict(7, (m.Request(b"i" * 36, b"", params),))
    assert fed(batch) == batch


@given(st.integers(0, 255), st.binary(max_size=64))
def test_nonsense_is_a_wire_error_and_nothing_else(kind, payload):
    with contextlib.suppress(WireError):
        decode(kind, payload)


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\0")), st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])))))  # fmt: skip
def test_headers_survive_packing(pairs):
    pairs = [(name, value) for name, value in pairs if name.isprintable() and name]
    assert m.unpack_headers(m.pack_headers(pairs)) == pairs


@pytest.mark.parametrize(
    "row",
    [
        (m.Param("body", "text/\udcff", b"x"),),  # a header with a byte that is no UTF-8
        (m.Param("n" * 70_000, "t" * 70_000, b"x"),),
        tuple(m.Param(str(i), "", b"") for i in range(70_000)),
    ],
    ids=["undecodable type", "long name", "many fields"],
)
def test_whatever_a_client_may_send_can_be_framed(row):
    """A request that could not be framed would end the worker it was meant for."""
    request = m.Request(b"id-1", b"", row)
    data = flat(m.Predict(1, (request,)))
    again = decode(data[HEADER_SIZE - 1], data[HEADER_SIZE:])
    assert again.requests == (request,)


def test_any_status_a_handler_sets_can_be_framed():
    for status in (-1, 0, 70_000):
        reply = m.Reply(7, 200, "", (RESPONSE._replace(status=status),))
        data = flat(reply)
        assert decode(data[HEADER_SIZE - 1], data[HEADER_SIZE:]) == reply
