"""`TextIteratorStreamerBatch`, without transformers: whole words per row, as they are generated."""

from __future__ import annotations

import queue
import threading

import pytest
import torch

from ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch

WORDS = ["<s>", "Hello", " wor", "ld", " again", ".\n", "你", "好", ""]


class Tokenizer:
    """Tokens are places in `WORDS`."""

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(WORDS[token] for token in tokens if token or not skip_special_tokens)


def texts(streamer) -> list[tuple[str, ...]]:
    return [tuple(row["text"] for row in step) for step in streamer]


def test_rows_go_out_in_whole_words_and_end_together():
    streamer = TextIteratorStreamerBatch(Tokenizer(), 2, skip_prompt=True)
    streamer.put(torch.tensor([[0, 1], [0, 1]]))
    for step in ([1, 6], [2, 7], [3, 8], [4, 1], [5, 5]):
        streamer.put(torch.tensor(step))
    streamer.end()
    assert texts(streamer) == [
        ("", "你"),
        ("Hello ", "好"),
        ("", ""),
        ("world ", ""),
        ("again.\n", "Hello.\n"),
        ("", ""),
    ]
    # It can be used again, and skips the next prompt too.
    streamer.put(torch.tensor([[1], [1]]))
    streamer.end()
    assert texts(streamer) == [("", "")]


def test_the_prompt_is_text_too_unless_it_is_skipped():
    streamer = TextIteratorStreamerBatch(Tokenizer(), 1, skip_special_tokens=True)
    streamer.put(torch.tensor([[0, 1, 2, 3]]))
    streamer.end()
    assert texts(streamer) == [("Hello ",), ("world",)]


def test_another_batch_size_is_refused():
    streamer = TextIteratorStreamerBatch(Tokenizer(), 2)
    with pytest.raises(ValueError, match="a batch of 2, found 3"):
        streamer.put(torch.tensor([1, 2, 3]))


def test_waiting_ends_after_the_timeout():
    with pytest.raises(queue.Empty):
        next(TextIteratorStreamerBatch(Tokenizer(), 1, timeout=0.01))


def test_it_is_read_while_another_thread_generates():
    streamer = TextIteratorStreamerBatch(Tokenizer(), 1, timeout=20)
    read = threading.Event()

    def generate():
        streamer.put(torch.tensor([6]))
        assert read.wait(20)
        streamer.put(torch.tensor([7]))
        streamer.end()

    thread = threading.Thread(target=generate)
    thread.start()
    assert next(streamer) == [{"text": "你"}]
    read.set()
    assert texts(streamer) == [("好",), ("",)]
    thread.join()
