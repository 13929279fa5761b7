# SPDX-License-Identifier: Apache-2.0
"""A server that is measured, and one batch of requests to it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from zaqar.benchmarks import cpu
from zaqar.benchmarks.figures import Figures, Tally, figures
from zaqar.benchmarks.http_client import Answer, Connection, Endpoint
from zaqar.benchmarks.request_encoder import RequestEncoder, hrefs, make_name, resources

DEFAULT_URL = "http://127.0.0.1:8888"


@dataclass(frozen=True, slots=True)
class Subject:
    """A server. A ``plain`` server does not know the API: it gets the same requests and may answer anything."""

    endpoint: Endpoint
    name: str
    plain: bool = False
    pids: tuple[int, ...] = ()
    store_pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU used so far by the processes of a subject and of its store; None if the processes are not known."""

    server: cpu.Usage | None
    store: cpu.Usage | None

    @classmethod
    def of(cls, subject: Subject) -> Reading:
        return cls(
            cpu.read_usage(subject.pids) if subject.pids else None,
            cpu.read_usage(subject.store_pids) if subject.store_pids else None,
        )

    def until(self, later: Reading) -> tuple[float | None, float | None]:
        """Seconds of CPU between this reading and a later one."""
        return _spent(self.server, later.server), _spent(self.store, later.store)


def _spent(before: cpu.Usage | None, after: cpu.Usage | None) -> float | None:
    return None if before is None or after is None else cpu.spent(before, after)


class Trial:
    """A queue on one server that nothing else uses, with the answers of the batch that was measured last.

    It has two clients, because a listing leaves out messages that its own caller posted.
    """

    def __init__(self, subject: Subject, project: str, token: str | None = None) -> None:
        self.subject = subject
        self.author = RequestEncoder(subject.endpoint, project, token)
        self.reader = RequestEncoder(subject.endpoint, project, token)
        self.queue = make_name()
        self.answers: list[Answer] = []

    def measure(self, requests: Sequence[bytes], good: Collection[int]) -> Figures:
        """Send the requests one after the other over a new connection, and return the figures."""
        tally, answers = Tally(), []
        good = () if self.subject.plain else good
        connection = Connection(self.subject.endpoint)
        # Open the connection before the measurement, because only the requests are measured.
        self._must(connection, self.reader.page(self.queue, limit=1))
        before, begin = Reading.of(self.subject), time.perf_counter()
        for request in requests:
            answer = tally.exchange(connection, request, good)
            if answer is not None:
                answers.append(answer)
        seconds = time.perf_counter() - begin
        server, store = before.until(Reading.of(self.subject))
        connection.close()
        self.answers = answers
        return figures(tally, seconds, cpu=server, store_cpu=store)

    def prepare(self, requests: Sequence[bytes]) -> list[Answer]:
        """Send requests that are not measured. Raises RuntimeError if one is refused."""
        connection = Connection(self.subject.endpoint)
        answers = [self._must(connection, request) for request in requests]
        connection.close()
        return answers

    def drop(self) -> None:
        self.prepare([self.reader.drop(self.queue)])

    def hrefs(self, answers: Sequence[Answer], each: int) -> list[list[str]]:
        """The paths of the messages in each claim or listing. For a plain server, ``each`` invented paths."""
        if not self.subject.plain:
            return [hrefs(answer) for answer in answers]
        claim = f"?claim_id={secrets.token_hex(12)}"
        return [[path + claim for path in self._made_up(each)] for _ in answers]

    def resources(self, answers: Sequence[Answer], each: int) -> list[str]:
        """The paths of the messages that these POSTs stored. For a plain server, ``each`` invented paths."""
        if not self.subject.plain:
            return [path for answer in answers for path in resources(answer)]
        return [path for _ in answers for path in self._made_up(each)]

    def _made_up(self, count: int) -> list[str]:
        return [f"/v2/queues/{self.queue}/messages/{secrets.token_hex(18)}" for _ in range(count)]

    def _must(self, connection: Connection, request: bytes) -> Answer:
        answer = connection.exchange(request)
        if answer.status >= 400 and not self.subject.plain:
            line = request.partition(b"\r\n")[0].decode()
            raise RuntimeError(
                f"{self.subject.name}: {line}: {answer.status} {answer.body[:200].decode(errors='replace')}"
            )
        return answer
