"""`--watch`: a folder's files change under load, and every request is answered."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.conftest import Server, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HANDLER = """
import os
import numbers_of_model

def handle(data, context):
    if data is None:
        return None
    return [f"{numbers_of_model.VALUE}" for _ in data]
"""


@pytest.fixture(scope="module")
def server(make_server) -> Server:
    server = make_server(default_workers_per_model=2)
    folder = server.store / "m"
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "m", "modelVersion": "1.0", "handler": "watched.py"}
    manifest = {"createdOn": "x", "runtime": "python", "model": model}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (folder / "watched.py").write_text(HANDLER)
    (folder / "numbers_of_model.py").write_text("VALUE = 0\n")
    server.start("--watch", "--models", "m")
    until(lambda: server.output.count("loaded its model") == 2)
    return server


class Load(threading.Thread):
    """Asks again and again until told to end."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.over = threading.Event()
        self.answers: Counter[tuple[int, str]] = Counter()

    def run(self) -> None:
        while not self.over.is_set():
            answer = self.server.predict("m")
            self.answers[answer.status, answer.text[:60]] += 1


def write(server: Server, text: str) -> Path:
    """Replace the module that the handler imports, as an editor does."""
    path = server.store / "m" / "numbers_of_model.py"
    draft = path.with_name("numbers_of_model.py.tmp")
    draft.write_text(text)
    draft.replace(path)
    return path


def test_no_request_fails_while_the_model_is_reloaded(server: Server) -> None:
    clients = [Load(server) for _ in range(6)]
    for client in clients:
        client.start()
    for number in (1, 2, 3):
        write(server, f"VALUE = {number}\n")
        until(lambda: server.predict("m").text == str(number))  # noqa: B023
    for client in clients:
        client.over.set()
        client.join()
    answers = sum((client.answers for client in clients), Counter())
    assert set(answers) == {(200, text) for text in "0123"}, answers
    until(lambda: server.log("ts_log").count("has been reloaded") == 3)
    until(lambda: len(server.workers("m")) == 2)
    until(lambda: [process.name() for process in server.family()].count("ts:m") == 2)


def test_a_broken_file_changes_nothing_and_is_told(server: Server) -> None:
    write(server, "VALUE = 3\n")
    until(lambda: server.predict("m").text == "3")
    write(server, "VALUE = (\n")
    described = until(
        lambda: (body := server.manage("GET", "/models/m").json[0]).get("reloadError") and body
    )
    assert "SyntaxError" in described["reloadError"]["error"]
    assert any("numbers_of_model.py" in line for line in described["reloadError"]["traceback"])
    assert {worker["status"] for worker in described["workers"]} == {"READY"}
    assert server.predict("m").text == "3"
    until(lambda: "goes on as it was, the reload failed" in server.log("ts_log"))
    write(server, "VALUE = 4\n")
    until(lambda: server.predict("m").text == "4")
    assert "reloadError" not in server.manage("GET", "/models/m").json[0]
