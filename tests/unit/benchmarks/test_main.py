# SPDX-License-Identifier: Apache-2.0
"""The command line of ``zaqar-bench`` and its report."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.unit.benchmarks.conftest import Service, service  # noqa: F401
from zaqar.benchmarks import main, report
from zaqar.benchmarks.figures import Figures
from zaqar.benchmarks.flat import Step
from zaqar.benchmarks.http_client import Endpoint
from zaqar.benchmarks.load import Outcome
from zaqar.benchmarks.rows import ROWS, Measured
from zaqar.benchmarks.subject import Subject

FIGURES = Figures(100, 1234.4, 1500.0, 2500.0, 200.4, None, {"status 503": 2})


def url_of(service: Service) -> str:  # noqa: F811
    return f"http://{service.subject.endpoint.host_header}"


def test_rows_prints_a_table(service: Service, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    arguments = ["rows", "--url", url_of(service), "--name", "ours", "--rounds", "1", "--count", "2"]
    assert main.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "ours:"
    assert lines[2].split() == ["row", "requests/s", "p50", "ms", "p99", "ms", "CPU", "us", "store", "us", "errors"]
    assert [line.split("  ")[0] for line in lines[3 : 3 + len(ROWS)]] == [row.name for row in ROWS]


def test_rows_prints_json(service: Service, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    arguments = ["rows", "--url", url_of(service), "--pid", str(os.getpid()), "--rounds", "1", "--count", "2", "--json"]
    assert main.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["machine"]) == {"date", "python", "cores"}
    first = found["measured"]["rows"][0]
    assert first["name"] == "POST 1"
    assert first["figures"][0]["requests"] == 2
    assert first["figures"][0]["cpu"] > 0


def test_two_servers_are_compared(service: Service, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    one = ["--url", url_of(service), "--name", "one"]
    other = ["--plain-url", url_of(service), "--name", "other"]
    assert main.main(["rows", *one, *other, "--rounds", "1", "--count", "2"]) == 0
    assert "one / other, median of the ratios of each round:" in capsys.readouterr().out


def test_messages_come_from_a_file(service: Service, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "messages.json"
    file.write_text('[{"body": "a", "ttl": 60}, {"event": 1}, 7]')
    assert main._read_drafts(str(file)) == [{"body": "a", "ttl": 60}, {"body": {"event": 1}}, {"body": 7}]
    assert main.main(["rows", "--url", url_of(service), "-m", str(file), "--rounds", "1", "--count", "3"]) == 0


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1"])
@pytest.mark.parametrize("option", ["-m", "-q"])
def test_a_file_that_is_no_array_is_refused(
    option: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.json"
    file.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main.main([option, str(file)])
    assert stopped.value.code == 2
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["-pp", "-1"],
        ["-qno", "0"],
        ["--url", "nowhere"],
        ["rows", "--count", "0"],
        ["-q", "absent.json"],
        ["flat", "x"],
    ],
)
def test_bad_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2


def test_options_after_a_url_belong_to_that_server() -> None:
    parsed = main._rows_parser().parse_args(
        ["--url", "http://a:1", "--pid", "1", "2", "--plain-url", "http://b:2", "--pid", "3", "--store-pid", "4"]
    )
    assert parsed.subjects == [
        Subject(Endpoint("http", "a", 1), "a:1", pids=(1, 2)),
        Subject(Endpoint("http", "b", 2), "b:2", plain=True, pids=(3,), store_pids=(4,)),
    ]


def test_a_pid_without_a_url_belongs_to_the_default_server() -> None:
    parsed = main._load_parser().parse_args(["--pid", "1"])
    assert parsed.subjects == [Subject(Endpoint("http", "127.0.0.1", 8888), "127.0.0.1:8888", pids=(1,))]


def test_the_options_of_the_load_have_their_familiar_names() -> None:
    arguments = [
        "-pp",
        "1",
        "-pw",
        "2",
        "-cp",
        "3",
        "-cw",
        "4",
        "-op",
        "5",
        "-ow",
        "6",
        "-t",
        "7",
        "-qno",
        "8",
        "--noverbose",
    ]
    parsed = vars(main._load_parser().parse_args(arguments))
    names = [f"{role}_{what}" for role in ("producer", "consumer", "observer") for what in ("processes", "workers")]
    assert [parsed[name] for name in (*names, "time", "num_queues", "noverbose")] == [1, 2, 3, 4, 5, 6, 7.0, 8, True]


def test_an_unreachable_server_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["rows", "--url", "http://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.startswith("zaqar-bench: ")


def test_flat_and_load_measure_one_server(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ("flat", "load"):
        assert main.main([mode, "--url", "http://127.0.0.1:1", "--url", "http://127.0.0.1:2"]) == 1
        assert "measures one server" in capsys.readouterr().err


# -- the report ----------------------------------------------------------------------------------------------------


def test_the_report_of_a_load() -> None:
    outcome = Outcome({"producer POST 1": FIGURES}, {"posted": 100}, 1234.4, 200.4, None)
    assert list(report.load_lines(outcome)) == [
        "operation        requests/s  p50 ms  p99 ms  errors",
        "producer POST 1        1234    1.50    2.50       2",
        "",
        "messages: 100 posted",
        "all: 1234 requests/s, CPU per request: server 200 us, store - us",
        "errors: producer POST 1: status 503: 2",
    ]


def test_the_report_of_rows() -> None:
    subjects = [Subject(Endpoint("http", "a", 1), "ours"), Subject(Endpoint("http", "b", 1), "theirs")]
    theirs = Figures(100, 600.0, 3000.0, 5000.0, 400.8, 7.0, {})
    measured = [Measured("POST 1", [FIGURES, theirs], [{"cpu": 0.5, "p50": 0.5, "rate": None}])]
    assert list(report.row_lines(subjects, measured)) == [
        "ours:",
        "row     requests/s  p50 ms  p99 ms  CPU us  store us  errors",
        "POST 1        1234    1.50    2.50     200         -       2",
        "",
        "theirs:",
        "row     requests/s  p50 ms  p99 ms  CPU us  store us  errors",
        "POST 1         600    3.00    5.00     401         7       0",
        "",
        "ours / theirs, median of the ratios of each round:",
        "row      CPU   p50  requests/s",
        "POST 1  0.50  0.50           -",
        "",
        "errors: ours: POST 1: status 503: 2",
    ]


def test_the_report_of_flatness() -> None:
    clean = Figures(100, 1000.0, 1000.0, 2000.0, 100.0)
    lines = list(report.flat_lines([Step("ready", "claim 1", clean, FIGURES, 2.0, 1.5)], 100, 1000))
    assert lines == [
        "state  operation  CPU us at 100  at 1000  ratio  p50 ms at 100  at 1000  ratio",
        "ready  claim 1              100      200   2.00           1.00     1.50   1.50",
        "errors: claim 1 beside 1000 ready: status 503: 2",
    ]
