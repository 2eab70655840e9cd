"""Java's spelling of numbers, and Prometheus text to the byte (reference §6.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ts_frontend.metrics.family import Family, presentable
from ts_frontend.metrics.spec import MetricSpec
from ts_frontend.metrics.text import java_double, label_block, sample_value

NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0"),
        (-0.0, "-0.0"),
        (1, "1.0"),
        (3, "3.0"),
        (-2.5, "-2.5"),
        (0.001, "0.001"),
        (0.00025, "2.5E-4"),
        (9999999, "9999999.0"),
        (9999999.999, "9999999.999"),
        (1e7, "1.0E7"),
        (12345678.9, "1.23456789E7"),
        (-1.5e22, "-1.5E22"),
        (100e6, "1.0E8"),
        (1e-5, "1.0E-5"),
        (0.000999, "9.99E-4"),
        (123456789012345680.0, "1.2345678901234568E17"),
        (5e-324, "5.0E-324"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_numbers_are_javas(value: float, text: str) -> None:
    assert java_double(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_reads_back(value: float) -> None:
    text = java_double(value)
    assert float(text) == value
    assert "." in text
    mantissa = text.lstrip("-").partition("E")[0]
    if "E" in text:
        assert 1 <= float(mantissa) < 10
        assert not 1e-3 <= abs(value) < 1e7


def test_infinities_are_prometheus_s() -> None:
    assert sample_value(float("inf")) == "+Inf"
    assert sample_value(float("-inf")) == "-Inf"
    assert sample_value(1e7) == "1.0E7"


def test_labels_end_with_a_comma_and_are_escaped() -> None:
    assert label_block((), ()) == ""
    assert label_block(("a", "b"), ("x", "y")) == '{a="x",b="y",}'
    assert label_block(("a",), ('q"\\\n',)) == '{a="q\\"\\\\\\n",}'


def test_a_counter_family_to_the_byte() -> None:
    family = Family(MetricSpec("Requests2XX", "Count", "counter", ("Level", "Hostname")))
    head = (
        "# HELP Requests2XX Torchserve prometheus counter metric with unit: Count\n"
        "# TYPE Requests2XX counter\n"
    )
    assert family.text(NONE) == head
    child = family.child(("Host", "h1"))
    child.update(1)
    child.update(2)
    child.update(-5)
    assert family.child(("Host", "h1")) is child
    assert family.text(NONE) == head + 'Requests2XX{Level="Host",Hostname="h1",} 3.0\n'
    assert family.text(frozenset({"Requests4XX"})) == ""


def test_a_gauge_holds_the_last_value() -> None:
    family = Family(MetricSpec("g", "ms", "gauge", ()))
    family.child(()).update(5)
    family.child(()).update(-1e7)
    assert family.text(NONE).endswith("\ng -1.0E7\n")


def test_a_histogram_family_to_the_byte() -> None:
    family = Family(MetricSpec("t", "ms", "histogram", ("m",)), (0.5, 1.0))
    for value in (0.5, 0.6, 7):
        family.child(("x",)).update(value)
    assert family.text(NONE) == (
        "# HELP t Torchserve prometheus histogram metric with unit: ms\n"
        "# TYPE t histogram\n"
        't_bucket{m="x",le="0.5",} 1.0\n'
        't_bucket{m="x",le="1.0",} 2.0\n'
        't_bucket{m="x",le="+Inf",} 3.0\n'
        't_count{m="x",} 3.0\n'
        't_sum{m="x",} 8.1\n'
    )
    assert family.text(frozenset({"t_count"})).count("\n") == 3
    assert family.text(frozenset({"t"})) == ""


def test_the_default_buckets_are_simpleclients() -> None:
    family = Family(MetricSpec("t", "s", "histogram", ()))
    family.child(()).update(0)
    bounds = [line.split('le="')[1].split('"')[0] for line in family.text(NONE).splitlines()[2:-2]]
    expected = "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 +Inf"
    assert " ".join(bounds) == expected


def test_prometheus_reads_what_we_write() -> None:
    family = Family(MetricSpec("t", 'odd "unit"\n', "histogram", ("m",)))
    family.child(('x"\\\n',)).update(3e7)
    (parsed,) = text_string_to_metric_families(family.text(NONE))
    assert parsed.type == "histogram"
    sums = [sample for sample in parsed.samples if sample.name == "t_sum"]
    assert sums[0].labels == {"m": 'x"\\\n'}
    assert sums[0].value == 3e7


@pytest.mark.parametrize(
    ("name", "label", "fits"),
    [("a:b_1", "L", True), ("a b", "L", False), ("1a", "L", False), ("a", "L-1", False)],
)
def test_which_names_prometheus_takes(name: str, label: str, fits: bool) -> None:
    assert presentable(MetricSpec(name, "u", "gauge", (label,))) is fits
