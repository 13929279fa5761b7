# SPDX-License-Identifier: Apache-2.0
"""Reads the metrics of a running service, as Prometheus does."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.server import wait_until

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


class Metrics:
    """The metrics of the service with this state directory, whichever of its processes shows them."""

    def __init__(self, state_dir: Path) -> None:
        self._lock = state_dir / "metrics" / "exporter.lock"

    @property
    def address(self) -> tuple[str, int]:
        text = wait_until(lambda: self._lock.read_text().strip() if self._lock.exists() else "")
        host, _, port = text.rpartition(":")
        return host, int(port)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """The status and the text of a page. Asks again while no process shows the metrics."""

        def ask() -> tuple[int, str] | None:
            connection = http.client.HTTPConnection(*self.address, timeout=60)
            try:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException):
                return None
            finally:
                connection.close()

        return wait_until(ask)

    def samples(self, path: str = "/metrics") -> Samples:
        status, text = self.get(path)
        assert status == 200, text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, path: str = "/metrics", **labels: str) -> float:
        """The sum of the series with these labels."""
        wanted = set(labels.items())
        return sum(value for (found, given), value in self.samples(path).items() if found == name and wanted <= given)
