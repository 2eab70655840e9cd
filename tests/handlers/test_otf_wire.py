"""TorchServe's worker wire, against the bytes its own worker writes and reads."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from ts.context import Context
from ts.handler_utils.utils import send_intermediate_predict_response as send_part
from ts.protocol import otf_message_handler as otf
from ts.service import Service


def field(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


END = b"\xff\xff\xff\xff"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_the_load_reply_is_torchserves():
    reply = otf.create_load_model_response(200, "model_loaded")
    assert reply == bytearray.fromhex("000000C8 0000000C") + b"model_loaded" + END


def test_the_predict_reply_is_torchserves():
    reply = otf.create_predict_response(["OK"], {0: "request_id"}, "success", 200)
    assert bytes(reply) == (
        bytes.fromhex("000000C8 00000007")
        + b"success"
        + bytes.fromhex("0000000A")
        + b"request_id"
        + bytes.fromhex("00000000 000000C8 00000000 00000000 00000002")
        + b"OK"
        + END
    )


def test_without_results_the_body_is_error():
    reply = otf.create_predict_response(None, {0: "r", 1: "s"}, "m", 503)
    assert bytes(reply).count(field(b"error")) == 2
    assert bytes(reply).count(struct.pack("!ii", 503, 0)) == 2  # each request's own status
    assert bytes(reply).startswith(struct.pack("!i", 503))


def test_unsupported_results_become_the_error_reply():
    reply = otf.create_predict_response([object()], {0: "r"}, "fine", 200)
    expected = "Unsupported model output data type."
    assert bytes(reply) == bytes(otf.create_predict_response(None, {0: "r"}, expected, 503))


def test_status_and_headers_come_from_the_context():
    context = Context("m", "/m", None, 1, None, "0")
    context.start_batch([{}], {0: "r"})
    context.set_response_status(404, "näh", 0)
    context.set_response_content_type(0, "text/plain")
    context.set_response_header(0, "n", 3)
    reply = otf.create_predict_response(["x"], {0: "r"}, "ok", 200, context)
    head = struct.pack("!i", 200) + field(b"ok") + field(b"r") + field(b"text/plain")
    status = struct.pack("!i", 404) + field("näh".encode())
    headers = struct.pack("!i", 2) + field(b"content-type") + field(b"text/plain")
    assert bytes(reply) == head + status + headers + field(b"n") + field(b"3") + field(b"x") + END


def test_other_ranks_stay_silent(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert otf.create_predict_response(["x"], {0: "r"}, "ok", 200) is None
    assert send_part(["x"], {0: "r"}, "ok", 200, None) is None


def test_a_load_message_is_read(pair):
    one, other = pair
    body = field(b"resnet") + field(b"/m") + struct.pack("!i", 8) + field(b"h.py:f")
    one.sendall(b"L" + body + struct.pack("!i", 3) + field(b"") + b"\x01")
    command, message = otf.retrieve_msg(other)
    assert command == b"L"
    assert message == {
        "modelName": b"resnet",
        "modelPath": b"/m",
        "batchSize": 8,
        "handler": b"h.py:f",
        "gpu": 3,
        "envelope": b"",
        "limitMaxImagePixels": True,
    }
    one.sendall(b"L" + body + struct.pack("!i", -1) + field(b"json") + b"\x00")
    _, message = otf.retrieve_msg(other)
    assert "gpu" not in message
    assert message["limitMaxImagePixels"] is False


def request_frame(*params: tuple[bytes, bytes, bytes]) -> bytes:
    packed = b"".join(field(name) + field(ct) + field(value) for name, ct, value in params)
    return field(b"rid") + field(b"Host") + field(b"h") + END + packed + END


@pytest.mark.parametrize(
    ("content_type", "value", "expected"),
    [
        (b"application/json", b'{"a": 1}', {"a": 1}),
        (b"application/json", b"{", bytearray(b"{")),
        (b"text/plain", b"hi", "hi"),
        (b"text/plain", b"\xff", bytearray(b"\xff")),
        (b"", b"hi", bytearray(b"hi")),
        (b"image/png", b"hi", bytearray(b"hi")),
    ],
)
def test_inputs_are_typed_by_their_content_type(pair, content_type, value, expected):
    one, other = pair
    one.sendall(b"I" + request_frame((b"body", content_type, value)) + END)
    command, batch = otf.retrieve_msg(other)
    assert command == b"I"
    parameter = batch[0]["parameters"][0]
    assert parameter["value"] == expected
    assert type(parameter["value"]) is type(expected)
    assert batch[0]["headers"] == [{"name": b"Host", "value": b"h"}]


def test_decoding_can_be_switched_off(pair, monkeypatch):
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    one, other = pair
    one.sendall(b"I" + request_frame((b"body", b"application/json", b"{}")) + END)
    assert otf.retrieve_msg(other)[1][0]["parameters"][0]["value"] == bytearray(b"{}")


def test_an_unknown_command_and_a_closed_socket(pair):
    one, other = pair
    one.sendall(b"Z")
    with pytest.raises(ValueError, match="Invalid command: b'Z'"):
        otf.retrieve_msg(other)
    one.sendall(b"L\x00")
    one.close()
    with pytest.raises(SystemExit) as caught:
        otf.retrieve_msg(other)
    assert caught.value.code == 0


def test_a_large_message_in_pieces_is_read_whole(pair):
    one, other = pair
    frame = b"I" + request_frame((b"body", b"", b"x" * 3_000_000)) + END
    sender = threading.Thread(target=one.sendall, args=(frame,))
    sender.start()
    _, batch = otf.retrieve_msg(other)
    sender.join()
    assert len(batch[0]["parameters"][0]["value"]) == 3_000_000


def test_predict_answers_a_decoded_batch(pair):
    one, other = pair
    service = Service("m", "/m", None, lambda data, context: [r["body"] for r in data], None, 1)
    one.sendall(b"I" + request_frame((b"body", b"", b"hi")) + END)
    reply = service.predict(otf.retrieve_msg(other)[1])
    answer = field(b"rid") + field(b"") + struct.pack("!ii", 200, 0) + struct.pack("!i", 0)
    success = struct.pack("!i", 200) + field(b"Prediction success")
    assert bytes(reply) == success + answer + field(b"hi") + END


def test_a_failing_handler_answers_with_its_code(pair):
    one, other = pair

    def handle(data, context):
        raise ValueError("no")

    one.sendall(b"I" + request_frame() + END)
    reply = Service("m", "/m", None, handle, None, 1).predict(otf.retrieve_msg(other)[1])
    assert bytes(reply).startswith(struct.pack("!i", 503) + field(b"Prediction failed"))
    assert field(b"") + struct.pack("!iii", 503, 0, 0) + field(b"error") in bytes(reply)


def test_parts_are_written_to_the_socket_where_no_sink_is_set(pair, infer):
    one, other = pair

    def handle(data, context):
        send_part(["part"], context.request_ids, "ok", 200, context)
        return ["end"]

    service = Service("m", "/m", None, handle, None, 1)
    service.set_cl_socket(one)
    outcome = infer(service, {})
    assert outcome.predictions[0].headers == {"ts_stream_next": "false"}
    part = otf.create_predict_response
    context = Context("m", "/m", None, 1, None, "0")
    context.start_batch([{}], {0: "id0"})
    expected = part(["part"], {0: "id0"}, "ok", 200, context, True)
    assert other.recv(1000) == bytes(expected)


def test_the_old_name_warns(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.warns(PendingDeprecationWarning, match="ts.handler_utils.utils"):
        otf.send_intermediate_predict_response(["x"], {0: "r"}, "ok", 200)
