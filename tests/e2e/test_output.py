"""What handlers write never blocks them and never garbles the log."""

from __future__ import annotations

import re
import socket
import time

import pytest

from tests.e2e.conftest import MARS, Server, archive, until
from tests.mars.noisy import LINES

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HEAD = re.compile(
    r"^\S+ \[(?P<level>\w+) *\] W-\d+-noisy_1\.0-(?P<stream>std\w+) MODEL_LOG - (?P<text>.*)$"
)


@pytest.fixture(scope="module")
def server(make_server) -> Server:
    server = make_server(default_workers_per_model=1, model_metrics_auto_detect="true")
    archive(server.store, "noisy", MARS / "noisy.py")
    server.start("--models", "noisy.mar")
    until(lambda: server.ready("noisy"))
    return server


def lines(server: Server) -> list[tuple[str, str, str]]:
    """Level, stream and text of each line of the model's log so far; each must be whole."""
    found = []
    for line in server.log("model_log").splitlines():
        match = HEAD.match(line)
        assert match, f"garbled: {line!r}"
        found.append((match["level"], match["stream"], match["text"]))
    return found


def made(server: Server, noise: str) -> list[tuple[str, str, str]]:
    """Ask for a noise; the lines that it has left."""
    before = len(lines(server))
    answer = server.predict("noisy", noise.encode())
    assert (answer.status, answer.text) == (200, "made")
    assert server.predict("noisy", b"mark").status == 200  # behind all that was written before it
    marks = {("INFO", "stdout", "mark"), ("WARN", "stderr", "mark")}
    until(lambda: marks <= set(lines(server)[before:]))
    return lines(server)[before:]


def test_a_prompt_shows_up_within_a_second_while_the_handler_waits(server):
    before = len(lines(server))
    client = socket.create_connection(("127.0.0.1", server.ports[0]))
    token = server.keys["inference"]
    head = f"POST /predictions/noisy HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
    client.sendall(f"{head}content-length: 6\r\n\r\nprompt".encode())
    asked = time.monotonic()
    wanted = {("INFO", "stdout", "out? "), ("WARN", "stderr", "err? ")}
    until(lambda: wanted <= set(lines(server)[before:]))
    assert time.monotonic() - asked < 2.0  # one for the line, one for a busy machine
    client.close()  # the handler is told and ends
    assert server.predict("noisy", b"mark").status == 200


def test_what_c_code_writes_without_an_end_shows_up_as_well(server):
    assert server.predict("noisy", b"native").status == 200
    until(lambda: ("INFO", "stdout", "native without an end") in lines(server), seconds=5)


def test_lines_of_threads_stay_whole(server):
    texts = [text for _, _, text in made(server, "threads")]
    for thread in range(4):
        logged = [t for t in texts if t.startswith(f"logged by thread{thread},")]
        assert logged == [f"logged by thread{thread}, {n}, {'x' * 50}" for n in range(LINES)]
        printed = [t for t in texts if t.startswith(f"printed by thread{thread} ")]
        assert printed == [f"printed by thread{thread} {n} {'y' * 50}" for n in range(LINES)]


def test_lines_of_subprocesses_stay_whole(server):
    texts = [text for _, _, text in made(server, "popen")]
    children = [text for text in texts if text.startswith("child")]
    assert sorted(children) == sorted(f"child {n} {'z' * 50}" for n in range(LINES) for _ in "ab")
    assert [t for t in texts if t.startswith("parent")] == [
        f"parent {n} {'p' * 50}" for n in range(LINES)
    ]


def test_a_forked_child_neither_repeats_nor_tears_its_parents_line(server):
    left = made(server, "fork")
    assert ("INFO", "stdout", "forked child") in left
    assert ("INFO", "stdout", "logged by the forked child") in left
    assert ("INFO", "stdout", "begun before the fork, ended behind it") in left


def test_processes_of_a_handler_write_to_the_same_log(server):
    left = made(server, "processes")
    for number in range(3):
        assert ("INFO", "stdout", f"process {number} prints") in left
        assert ("INFO", "stdout", f"process {number} logs") in left
        metric = f"FromChildren.Count:{number}.0|"
        until(lambda metric=metric: metric in server.log("model_metrics"))


def test_ten_megabytes_at_once_do_not_block_the_handler(server):
    before = len(lines(server))
    began = time.monotonic()
    assert server.predict("noisy", b"burst").text == "made"
    assert time.monotonic() - began < 30
    until(lambda: lines(server)[-1][2] == "burst ended")
    texts = [text for *_, text in lines(server)[before:]]
    assert texts.count("b" * 99) == 50_000
    assert sum(len(text) for text in texts if set(text) == {"c"}) == 5_000_000


def test_last_words_without_an_end_are_in_the_log(server):
    assert server.predict("noisy", b"quit").json["message"] == "Worker died."
    until(lambda: ("INFO", "stdout", "last words without an end") in lines(server))
    until(lambda: server.ready("noisy"))
