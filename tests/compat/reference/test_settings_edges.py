"""config.properties by the tables 2.2 and 2.4, the keys of listeners, tokens and metrics. All other
keys are in test_settings."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.compat.reference.rows import row
from tests.compat.reference.settings_rig import Load, load, read, unix, whole_server
from tests.frontend.http_fakes import edge, post, talk
from tests.frontend.test_http_tls import LEAF, ROOT, pair, talk_tls, trust, write_keystore
from ts_frontend import server
from ts_frontend.config import ConfigError
from ts_worker.messages import Metric

__all__ = ["load", "pair"]  # fixtures


# Listeners


@row("2.2 inference_address")
async def test_inference_address(tmp_path: Path) -> None:
    async with (
        edge(**read(inference_address=f"unix:{tmp_path}/s")),
        unix(tmp_path / "s") as client,
        client.post("/predictions/m", data=b"x") as answer,
    ):
        assert await answer.read() == b"x"


@row("2.2 management_address")
async def test_management_address(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/s"
    async with edge(**read(management_address=place)) as e, unix(tmp_path / "s") as client:
        async with client.get("/models") as answer:
            assert await answer.json() == {"models": []}
        assert b"404" in (await talk(e.port, post("/models/m"))).split(b"\r\n")[0]
    both = read(inference_address=place, management_address=place)
    async with edge(**both) as e, unix(tmp_path / "s") as client:
        assert len(e.listeners) == 2  # these two in one, and the metrics
        async with client.get("/models") as models, client.get("/ping") as ping:
            assert (models.status, ping.status) == (200, 200)


@row("2.2 metrics_address")
async def test_metrics_address(tmp_path: Path) -> None:
    async with (
        edge(**read(metrics_address=f"unix:{tmp_path}/s")),
        unix(tmp_path / "s") as client,
        client.get("/metrics") as answer,
    ):
        assert answer.status == 200


@row("2.2 inference_address", "2.2 management_address", "2.2 metrics_address")
def test_an_address_without_a_port_has_the_one_of_its_scheme(table_row: str) -> None:
    ports = {"inference": (80, 443), "management": (8081, 8444), "metrics": (8082, 8445)}
    key = table_row.split()[1]
    plain, secure = (read(**{key: f"{scheme}://h"})[key].port for scheme in ("http", "https"))
    assert (plain, secure) == ports[key.partition("_")[0]]


@row("2.2 enable_metrics_api")
async def test_enable_metrics_api() -> None:
    for text, listeners in (("true", 3), ("false", 2)):
        async with edge(**read(enable_metrics_api=text)) as e:
            assert len(e.listeners) == listeners


@row("2.2 max_request_size")
async def test_max_request_size() -> None:
    async with edge(**read(max_request_size="4")) as e:
        assert (await talk(e.port, post("/predictions/m", b"four"))).startswith(b"HTTP/1.1 200")
        assert (await talk(e.port, post("/predictions/m", b"five!"))).startswith(b"HTTP/1.1 413")


@row("2.2 cors_allowed_origin", "2.2 cors_allowed_methods", "2.2 cors_allowed_headers")
async def test_cors(table_row: str) -> None:
    key = table_row.split()[1]
    async with edge(**read(**{key: "A, *"})) as e:
        head = (await talk(e.port, post("/predictions/m"))).decode().lower()
    name = f"access-control-allow-{key.rpartition('_')[2]}"
    assert f"\r\n{name}: a, *\r\n" in head
    assert head.count("access-control") == 1


@row("2.2 certificate_file", "2.2 private_key_file")
async def test_pem_files(pair: dict[str, Path]) -> None:
    texts = {name: str(path) for name, path in pair.items()}
    async with edge(**read(inference_address="https://127.0.0.1:0", **texts)) as e:
        assert (await talk_tls(e.port, trust(ROOT))).startswith(b"HTTP/1.1 200")


@row("2.2 keystore", "2.2 keystore_pass", "2.2 keystore_type")
async def test_keystore(tmp_path: Path, pair: dict[str, Path]) -> None:
    store = {"keystore": str(write_keystore(tmp_path, b"secret")), "keystore_type": "PKCS12"}
    files = {name: str(path) for name, path in pair.items()}  # the keystore goes before them
    address = {"inference_address": "https://127.0.0.1:0"}
    async with edge(**read(**address, **files, **store, keystore_pass="secret")) as e:
        context = trust(ROOT)
        _, writer = await asyncio.open_connection("127.0.0.1", e.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
    assert shown == LEAF.public_bytes(Encoding.DER)
    with pytest.raises(ConfigError, match="keystore_pass"):
        async with edge(**read(**address, **store, keystore_pass="wrong")):
            pass


# Tokens and the model API


@row("2.2 disable_token_authorization")
async def test_disable_token_authorization(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text, status in (("false", 400), ("true", 404)):
        async with (
            whole_server(load, tmp_path, f"disable_token_authorization={text}") as client,
            client.get("/predictions/none") as answer,
        ):
            assert answer.status == status
            assert (tmp_path / "key_file.json").exists() == (text == "false")


@row("2.2 token_expiration_min")
async def test_token_expiration_min(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text, minutes in (("0.5", 0.5), ("soon", 60.0)):
        async with whole_server(load, tmp_path, f"token_expiration_min={text}"):
            keys = json.loads((tmp_path / "key_file.json").read_text())
            ends = datetime.fromisoformat(keys["inference"]["expiration time"])
            left = (ends - datetime.now(UTC)).total_seconds()
            assert minutes * 60 - 20 < left <= minutes * 60


@row("2.2 enable_model_api")
async def test_enable_model_api() -> None:
    for text, status in (("false", b"405"), ("true", b"400")):
        async with edge(**read(enable_model_api=text)) as e:
            answer = await talk(e.listeners[1].port, post("/models"))
            assert answer.split()[1] == status


# Metrics


@row("2.2 metrics_mode")
async def test_metrics_mode(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text, lines in ((" Prometheus", 0), ("log", 1), ("legacy", 1), ("none of these", 1)):
        logs = tmp_path / text.strip()
        quiet = ("disable_system_metrics=true", "disable_token_authorization=true")
        environ = {"METRICS_LOCATION": str(logs)}
        async with (
            whole_server(load, tmp_path, f"metrics_mode={text}", *quiet, **environ) as client,
            client.get("/ping") as answer,
        ):
            assert answer.status == 200
        written = (logs / "ts_metrics.log").read_text() if logs.exists() else ""
        assert written.count("Requests2XX") == lines


@row("2.2 metrics_config")
async def test_metrics_config(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = "ts_metrics: {counter: [{name: Requests4XX, unit: Count, dimensions: [Level, Hostname]}]}"
    (tmp_path / "mine.yaml").write_text("dimensions: [Level, Hostname]\n" + own)
    line = "metrics_config=mine.yaml"
    async with (
        whole_server(load, tmp_path, line),
        unix(tmp_path / "metrics") as metrics,
    ):
        for _ in range(2):
            async with metrics.get("/none") as answer, metrics.get("/metrics") as shown:
                text = await shown.text()
                assert answer.status == 404
        assert "Requests4XX{" in text
        assert "Requests2XX" not in text


@row("2.2 model_metrics_auto_detect")
async def test_model_metrics_auto_detect(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[Any] = []
    recorder = server.Recorder

    def make(*args: Any, **options: Any) -> Any:
        made.append(recorder(*args, **options))
        return made[-1]

    monkeypatch.setattr(server, "Recorder", make)
    for text in ("true", "false"):
        async with whole_server(load, tmp_path, f"model_metrics_auto_detect={text}"):
            made[-1].model_metric(a_metric("SizeOfImage"), "m", "1.0")
            assert (b"SizeOfImage{" in made[-1].render([])) == (text == "true")


def a_metric(name: str) -> Metric:
    """A counter that metrics.yaml does not list."""
    return Metric(name, "Count", "counter", 1.0, (("ModelName", "m"),), "")


@row("2.2 disable_system_metrics", "2.2 metric_time_interval")
async def test_system_metrics(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    intervals: list[float] = []

    class Collector:
        def __init__(self, sink: object, interval: float, command: object) -> None:
            assert command is None
            intervals.append(interval)

        async def run(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(server, "SystemCollector", Collector)
    async with whole_server(load, tmp_path, "metric_time_interval=5"):
        assert intervals == [5]
    async with whole_server(load, tmp_path, "disable_system_metrics=true"):
        assert intervals == [5]


@row("2.2 system_metrics_cmd")
async def test_a_command_collects_the_system_metrics(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "collect.py"
    script.write_text('print("CPUUtilization.Percent:12.5|#Level:Host|#hostname:h,1717105307")')
    async with (
        whole_server(load, tmp_path, f"system_metrics_cmd={script}"),
        unix(tmp_path / "metrics") as metrics,
    ):
        page = ""
        while 'CPUUtilization{Level="Host"' not in page:
            async with metrics.get("/metrics") as answer:
                page = await answer.text()
    assert re.search(r'CPUUtilization\{Level="Host",Hostname="[^"]+",\} 12\.5\n', page)
    assert "MemoryUsed{" not in page


# 2.4: TLS


@row("2.4 protocol")
async def test_tls_1_2(pair: dict[str, Path]) -> None:
    texts = {name: str(path) for name, path in pair.items()}
    async with edge(**read(inference_address="https://127.0.0.1:0", **texts)) as e:
        context = trust(ROOT)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        assert (await talk_tls(e.port, context)).startswith(b"HTTP/1.1 200")
