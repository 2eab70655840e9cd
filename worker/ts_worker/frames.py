"""Cuts what arrives on a connection into messages, without copying large ones.

Used by `backend` and `runtime`, as `wire` is; standard library only, Python 3.9 syntax.
"""

from __future__ import annotations

from typing import List

from ts_worker.messages import Message, Predict
from ts_worker.wire import FRAME, HEADER_SIZE, SMALL, decode


class FrameReader:
    """Cuts a byte stream into messages.

    Read into `buffer()`, then call `received(n)`. A frame larger than the buffer gets memory of
    its own exactly once, which its message keeps: no copy and no growing concatenation.
    """

    def __init__(self, capacity: int = 65536) -> None:
        self._capacity = capacity
        self._own = bytearray(capacity)
        self._view = memoryview(self._own)
        self._end = 0
        self._large: memoryview | None = None

    def buffer(self) -> memoryview:
        """Where to read the next bytes to; never empty."""
        target = self._view if self._large is None else self._large
        return target[self._end :]

    def received(self, count: int) -> List[Message]:
        """Take note of ``count`` bytes in the buffer and return the messages they complete."""
        self._end += count
        if self._large is not None:
            return self._finish_large()
        messages: List[Message] = []
        at = 0
        while self._end - at >= HEADER_SIZE:
            size, kind = FRAME.unpack_from(self._own, at)
            stop = at + HEADER_SIZE + size
            if stop > self._end:
                if HEADER_SIZE + size > self._capacity:
                    self._begin_large(at, HEADER_SIZE + size)
                    return messages
                break
            messages.append(decode(kind, bytes(self._view[at + HEADER_SIZE : stop])))
            at = stop
        if at:
            self._view[: self._end - at] = self._view[at : self._end]
            self._end -= at
        return messages

    def _begin_large(self, at: int, size: int) -> None:
        large = memoryview(bytearray(size))
        self._end -= at
        large[: self._end] = self._view[at : at + self._end]
        self._large = large

    def _finish_large(self) -> List[Message]:
        assert self._large is not None
        if self._end < len(self._large):
            return []
        frame, self._large, self._end = self._large, None, 0
        message = decode(frame[HEADER_SIZE - 1], frame[HEADER_SIZE:])
        return [_with_own_tail(message, frame) if isinstance(message, Predict) else message]


def _with_own_tail(batch: Predict, frame: memoryview) -> Predict:
    """Give the last input of a lone request the frame's memory, as a bytearray that the handler may
    have: cutting off what is before it copies nothing."""
    if len(batch.requests) != 1 or not batch.requests[0].params:
        return batch
    request = batch.requests[0]
    *others, last = request.params
    size = len(last.value)
    own = frame.obj
    if size < SMALL or not isinstance(own, bytearray):
        return batch
    params = [one._replace(value=bytes(one.value)) for one in others]
    for one in request.params:
        if isinstance(one.value, memoryview):
            one.value.release()
    frame.release()
    try:
        del own[: len(own) - size]
    except BufferError:  # somebody looks at what was read: then the batch does as well
        whole = memoryview(own)
        again = decode(whole[HEADER_SIZE - 1], whole[HEADER_SIZE:])
        assert isinstance(again, Predict)
        return again
    params.append(last._replace(value=own))
    return Predict(batch.batch_id, (request._replace(params=tuple(params)),))
