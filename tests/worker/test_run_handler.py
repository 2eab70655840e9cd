"""The parts of `run-handler` that need no process: what it is asked, times, answers for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from ts_worker.messages import Load
from ts_worker.runtime.phases import Phases, time_table
from ts_worker.runtime.showing import Shown, as_text, show
from ts_worker.trial import Input, Trial, dumps, loads

LOAD = Load("m", "1", "/m", "h.py", 2, None, None, True, True, None, 4, ("/m", "/p"), None)


@pytest.mark.parametrize(
    "trial",
    [
        Trial(LOAD),
        Trial(LOAD, (Input("/a", None), Input("/b", "x/y")), 3, True, 4, True, "/out"),
    ],
)
def test_a_trial_survives_the_command_line(trial: Trial) -> None:
    assert loads(dumps(trial)) == trial


class Steps:
    def preprocess(self, data: list) -> list:
        return data

    def inference(self, data: list) -> list:
        return data


def test_steps_are_timed_in_each_round() -> None:
    handler = Steps()
    phases = Phases(handler)
    for _ in range(2):
        with phases.round():
            assert handler.inference(handler.preprocess([1])) == [1]
            handler.inference([2])
    assert [list(each) for each in phases.rounds] == [["preprocess", "inference", "total"]] * 2
    assert all(each["total"] >= each["inference"] for each in phases.rounds)


def test_handlers_without_steps_have_a_total() -> None:
    class Fixed:
        __slots__ = ()

        def preprocess(self) -> None: ...

    for handler in (None, Fixed()):
        phases = Phases(handler)
        with phases.round():
            pass
        assert list(phases.rounds[0]) == ["total"]


def test_one_round_is_told_plainly_and_several_by_their_spread() -> None:
    one = time_table(1000.0, [{"inference": 2.0, "total": 3.0}])
    assert one.splitlines() == [
        "load            1000.00 ms",
        "inference          2.00 ms",
        "total              3.00 ms",
    ]
    several = time_table(1.0, [{"total": 1.0}, {"total": 9.0}, {"total": 2.0}])
    assert several.splitlines()[1:] == [
        "3 rounds            min     median        max",
        "total              1.00       2.00       9.00 ms",
    ]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        ("schön".encode(), "schön"),
        (b"\x1b[31mred", "<8 bytes: 1b 5b 33 31 6d 72 65 64>"),  # a terminal must not obey it
        (b"\xff" * 40, f"<40 bytes: {' '.join(['ff'] * 32)} ...>"),
        (b"", ""),
    ],
)
def test_bodies_as_they_can_be_printed(body: bytes, text: str) -> None:
    assert as_text(body) == text


def test_files_are_named_by_input_and_kind(tmp_path: Path, capsys) -> None:
    answers = [
        Shown("/in/a.jpg", 200, "", {"content-type": "image/png; q=1"}, b"\x89PNG"),
        Shown("/in/a.jpg", 200, "", {}, b'{"x": 1}'),
        Shown("/in/b", 500, "Oh", {}, b"words"),
        Shown("/in/c", 200, "", {}, b"\xff"),
    ]
    show(answers, str(tmp_path))
    names = ["000-a.png", "001-a.json", "002-b.txt", "003-c.bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "002-b.txt").read_bytes() == b"words"
    captured = capsys.readouterr()
    assert captured.out.split() == [str(tmp_path / name) for name in names]
    assert "/in/b: 500 Oh, 5 bytes" in captured.err
