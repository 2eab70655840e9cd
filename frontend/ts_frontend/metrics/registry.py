"""All metrics that there are, and the series that feed them. `recorder` owns it, and shows it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from ts_frontend.metrics.family import Family, presentable
from ts_frontend.metrics.series import Series, Write
from ts_frontend.metrics.spec import MetricSpec

log = logging.getLogger(__name__)


class Registry:
    """Families by the names of their metrics.

    Args:
        host: the last label value of every series.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._families: dict[str, Family] = {}
        self._complained: set[str] = set()

    def add(self, *families: Family) -> None:
        """Show families of our own, whatever metrics.yaml says of their names."""
        for family in families:
            self._families[family.spec.name] = family

    def declare(self, metrics: Iterable[MetricSpec]) -> None:
        """Make families for what metrics.yaml lists or a handler has brought."""
        for spec in metrics:
            if spec.name in self._families:
                self.complain(spec.name, "is defined twice in metrics.yaml; the first counts")
            elif presentable(spec):
                self._families[spec.name] = Family(spec)
            else:
                self.complain(spec.name, "is no name for Prometheus; it is only logged")

    def fits(self, spec: MetricSpec, values: Sequence[str]) -> bool:
        """Whether there is a value for each dimension but the host; if not, a warning is given."""
        if len(values) + 1 == len(spec.dimensions):
            return True
        self.complain(
            spec.name,
            f"has dimensions {', '.join(spec.dimensions)} in metrics.yaml, but came with "
            f"{len(values)} and the host; it is dropped",
        )
        return False

    def bind(
        self,
        spec: MetricSpec,
        values: tuple[str, ...],
        write: Write | None,
        *,
        shown: bool = True,
    ) -> Series:
        """Make the series with these label values; ``write`` takes its log lines.

        Args:
            shown: whether it is in /metrics.
        """
        labels = (*values, self._host)
        family = self._family(spec) if shown else None
        child = None if family is None else family.child(labels)
        return Series(spec, labels, child, write)

    def remove(self, spec: MetricSpec, values: tuple[str, ...]) -> None:
        """Show a series no longer."""
        family = self._family(spec)
        if family is not None:
            family.remove((*values, self._host))

    def text(self, names: Iterable[str]) -> str:
        """Prometheus text of all metrics, or of the samples in ``names`` only."""
        wanted = frozenset(names)
        return "".join(family.text(wanted) for family in self._families.values())

    def complain(self, name: str, what: str) -> None:
        """Warn of a metric, once."""
        if name not in self._complained:
            self._complained.add(name)
            log.warning("Metric %s %s.", name, what)

    def _family(self, spec: MetricSpec) -> Family | None:
        family = self._families.get(spec.name)
        # Two entries of one name: only the one that made the family may feed it.
        return family if family is not None and family.spec == spec else None
