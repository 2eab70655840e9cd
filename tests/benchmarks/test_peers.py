"""The peers: what rows say of them, which set-ups are tried, and who is left out."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import closed, environments, process
from benchmarks.closed import Workload
from benchmarks.peers.peer import Job
from benchmarks.peers.registry import FIRST_RING, NAMES, SECOND_RING, peers
from benchmarks.suite import Missing
from benchmarks.suites import echo

PHOTO = Job("image", b"", "image/jpeg", batch=8, delay_ms=10)


def test_registry_names_every_peer_once() -> None:
    assert tuple(peers()) == NAMES
    assert set(FIRST_RING) & set(SECOND_RING) == set()


@pytest.mark.parametrize("name", NAMES)
def test_settings_name_what_was_asked(name: str) -> None:
    peer = peers()[name]
    settings = peer.settings(replace(echo.single(), batch=32, delay_ms=5))
    assert settings.startswith("1 worker, batch 32 / 5 ms") or "neither batches" in settings


@pytest.mark.parametrize("name", [name for name in NAMES if name != FIRST_RING[0]])
def test_peers_may_have_fewer_threads_for_images(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    peer = peers()[name]
    if "image" in peer.works:
        threads = {variant.threads for variant in peer.variants(replace(PHOTO, workers=2))}
        assert len(threads) > 1


def test_ours_is_measured_with_its_defaults_alone() -> None:
    assert peers()[FIRST_RING[0]].variants(PHOTO) == (PHOTO,)


def test_second_ring_is_measured_in_the_first_round_alone() -> None:
    workload = Workload("batch 1", echo.single(), (1,))
    second, first = peers()[SECOND_RING[0]], peers()[FIRST_RING[1]]
    assert not closed._left_out(second, workload, 1)
    assert closed._left_out(second, workload, 2)
    assert closed._left_out(second, replace(workload, second_ring=False), 1)
    assert not closed._left_out(first, workload, 2)


def test_job_is_written_for_the_scripts(tmp_path: Path) -> None:
    job = replace(PHOTO, model=tmp_path, workers=2)
    values = json.loads(job.write(tmp_path).read_text())
    assert values["model"] == str(tmp_path)
    assert (values["work"], values["batch"], values["workers"]) == ("image", 8, 2)


def test_mlserver_gets_the_body_that_its_protocol_wants() -> None:
    body, content_type = peers()["mlserver"].body(replace(PHOTO, probe=b"\xff\xd8"))
    (tensor,) = json.loads(body)["inputs"]
    assert content_type == "application/json"
    assert tensor["data"] == ["/9g="]
    assert tensor["parameters"] == {"content_type": "base64"}


def test_servers_do_not_see_what_would_set_them_up_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TS_INFERENCE_ADDRESS", "x")
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    environ = process.clean_environ()
    assert not {"TS_INFERENCE_ADDRESS", "PYTHONPATH"} & set(environ)
    assert environments.our_environ() == {"PYTHONPATH": "somewhere"}


def test_missing_command_is_named_with_its_cure() -> None:
    with pytest.raises(Missing, match=r"no-such-command .* Cure: apt-get install -y it"):
        environments.require("no-such-command", "apt-get install -y it")


def test_free_ports_differ_and_are_not_those_of_clients() -> None:
    ports = process.free_ports(5)
    assert len(set(ports)) == 5
    assert all(20_000 <= port < 32_000 for port in ports)


def test_memory_and_processor_time_of_a_process_are_seen() -> None:
    assert process.pss(os.getpid()) > 1
    assert process.cpu_seconds(os.getpid()) > 0
    assert process.pss(2**22 + 1) == 0.0
    assert process.cpu_seconds(2**22 + 1) == 0.0
