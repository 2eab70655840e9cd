"""The worker's end of its connection, read by the worker's only thread or by one of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.worker.conftest import predict_message
from ts_worker.frames import FrameReader
from ts_worker.messages import Call, CallReply, Cancel, Message, Predict, Request, Response, Threads
from ts_worker.runtime.channel import Channel, Closed
from ts_worker.wire import WireError, encode


class Server:
    """The other end: sends what it is told to, and answers calls."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, *messages: Message) -> None:
        self.sock.sendall(b"".join(bytes(piece) for one in messages for piece in encode(one)))

    def receive(self) -> Message:
        reader = FrameReader()
        while True:
            count = self.sock.recv_into(reader.buffer())
            assert count, "the worker hung up"
            for message in reader.received(count):
                return message


Pair = tuple[Server, Channel, list[Predict]]


@pytest.fixture(params=["one thread", "a thread that reads"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A server, a channel, and the batches that came while the worker was busy."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours, theirs:
        channel, begun = Channel(theirs), list[Predict]()
        if request.param != "one thread":
            channel.read_ahead(begun.append)
        yield Server(ours), channel, begun
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Closed, WireError):
            while True:
                channel.receive()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; pytest's own time limit is ours."""
    tick = threading.Event()
    for _ in range(2000):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("it did not happen")


def test_messages_come_in_order(pair: Pair) -> None:
    server, channel, _ = pair
    sent = [predict_message(b"a"), Threads(2), predict_message(b"b", batch_id=2)]
    server.send(*sent)
    assert [channel.receive() for _ in sent] == sent


def test_cancellations_arrive_while_the_worker_is_busy_and_end_with_their_batch(pair: Pair) -> None:
    server, channel, _ = pair
    batch = predict_message(b"a", b"b")
    server.send(batch)
    assert channel.receive() == batch
    assert not channel.is_cancelled("1-1")
    server.send(Cancel(b"1-1"))
    until(lambda: channel.is_cancelled("1-1"))
    assert not channel.is_cancelled("1-0")
    channel.end_batch()
    assert not channel.is_cancelled("1-1")


def test_a_cancellation_that_comes_too_late_is_forgotten_and_one_ahead_is_not(pair: Pair) -> None:
    server, channel, _ = pair
    first, second, third = (predict_message(b"a", batch_id=number) for number in (1, 2, 3))
    server.send(first, second, third)
    assert channel.receive() == first
    channel.end_batch()
    assert channel.receive() == second
    server.send(Cancel(b"1-0"), Cancel(b"3-0"))
    until(lambda: channel.is_cancelled("3-0"))
    channel.end_batch()
    assert not channel.is_cancelled("1-0")
    assert channel.receive() == third
    assert channel.is_cancelled("3-0")
    channel.end_batch()
    assert not channel.is_cancelled("3-0")


def test_a_call_waits_for_its_own_reply_and_keeps_the_rest_in_order(pair: Pair) -> None:
    server, channel, _ = pair
    first, second = predict_message(b"a"), predict_message(b"b", batch_id=2)
    reply = CallReply(7, 200, "", Response(b"x" * 36, 200, "", b"", b"answer"))
    answers: list[CallReply] = []
    request = Request(b"x" * 36, b"", ())
    thread = threading.Thread(
        target=lambda: answers.append(channel.call(Call(7, "m", "", request)))
    )
    thread.start()
    assert isinstance(server.receive(), Call)
    server.send(first, CallReply(6, 404, "another's", None), second, reply)
    thread.join(10)
    assert answers == [reply]
    assert [channel.receive() for _ in range(3)][::2] == [first, second]


def test_the_end_comes_after_what_was_sent_before_it(pair: Pair) -> None:
    server, channel, _ = pair
    server.send(predict_message(b"a"), predict_message(b"b", batch_id=2))
    server.sock.shutdown(socket.SHUT_WR)
    received = [channel.receive(), channel.receive()]
    assert [one.batch_id for one in received if isinstance(one, Predict)] == [1, 2]
    with pytest.raises(Closed):
        channel.receive()
    with pytest.raises(Closed):
        channel.is_cancelled("1-0")


def test_bytes_that_are_no_frame_are_told_to_who_receives(pair: Pair) -> None:
    server, channel, _ = pair
    server.sock.sendall(bytes(8) + b"\xff")
    with pytest.raises(WireError):
        channel.receive()


def test_only_batches_that_have_to_wait_are_begun() -> None:
    ours, theirs = socket.socketpair()
    begun: list[Predict] = []
    with ours, theirs:
        server, channel = Server(ours), Channel(theirs)
        channel.read_ahead(begun.append)
        got: list[Message] = []
        thread = threading.Thread(target=lambda: got.append(channel.receive()))
        thread.start()
        until(lambda: channel._idle)
        server.send(*(predict_message(b"x", batch_id=number) for number in (1, 2, 3)))
        thread.join(10)
        until(lambda: len(begun) == 2)
        assert [one.batch_id for one in begun] == [2, 3]
        for _ in begun:
            channel.receive()
        ours.shutdown(socket.SHUT_RDWR)
        with pytest.raises(Closed):
            channel.receive()
