# SPDX-License-Identifier: Apache-2.0
"""Every command and every snippet of the documentation is run or checked by a test, or says why it is not.

A command or snippet that no line of ``CHECKED`` names fails :func:`test_each_command_is_run_or_checked` or
:func:`test_each_snippet_is_run_or_checked`. Write a test that runs it, and name the test here.
"""

from __future__ import annotations

import configparser
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from castellan import options as castellan_options
from keystoneauth1 import loading
from keystonemiddleware.opts import list_auth_token_opts

from tests.documented import ROOT, Block, all_blocks, blocks_of, commands_of, pages
from zaqar.conf import opts

DOCS = "tests/unit/test_docs.py"
BLOCKS = "tests/unit/test_docs_blocks.py"
PASTED = "tests/acceptance/test_docs_commands.py::test_the_commands_of_a_page_work"
ARGUMENTS = f"{BLOCKS}::test_programs_have_the_options_that_the_documentation_uses"
PATHS = f"{BLOCKS}::test_commands_for_contributors_name_tests_and_environments_that_exist"
KEYSTONE = "tests/acceptance/test_docs_commands.py::test_the_commands_of_the_guide_to_keystone_work"


class Check(NamedTuple):
    """``by`` is a test, or ``not run:`` and the reason, for the commands or snippets of a page that match ``what``.

    ``page`` and ``what`` are regular expressions: of the path of the page, and of the beginning of the text.
    """

    page: str
    what: str
    by: str


CHECKED = [
    # Programs of this project: their options.
    Check(r".*", r"(?:\.venv/bin/)?zaqar-[a-z-]+\b", ARGUMENTS),
    Check(r".*", r"python -m zaqar\.upgrade ", ARGUMENTS),
    Check(r".*", r"(?:\.venv/bin/)?(?:tox|pytest)\b", PATHS),
    Check(r".*", r"python3\.11 -m venv|\.venv/bin/pip install|pip install", "not run: installs from a package index"),
    # Commands that are pasted into a shell, with a service behind them.
    Check(
        r"README\.rst",
        r"curl .*text/event-stream",
        "tests/acceptance/test_server.py::test_the_command_for_a_stream_in_the_documentation_works",
    ),
    Check(r"README\.rst", r"curl |[A-Z]=", f"{DOCS}::test_the_curl_commands_of_the_readme_work"),
    Check(
        r"docs/getting_started\.rst",
        r"curl .*text/event-stream",
        "tests/acceptance/test_server.py::test_the_command_for_a_stream_in_the_documentation_works",
    ),
    Check(r"docs/getting_started\.rst", r"curl |[A-Z]=", f"{DOCS}::test_the_curl_commands_of_the_tour_work"),
    Check(
        r"docs/notifications\.rst", r"curl |[A-Z]=", f"{DOCS}::test_the_curl_commands_on_the_page_on_notifications_work"
    ),
    Check(r"docs/signed_urls\.rst", r"curl |[A-Z]=", f"{DOCS}::test_the_curl_commands_on_the_page_on_signed_urls_work"),
    Check(r"docs/pools\.rst", r"curl ", f"{DOCS}::test_the_pool_of_the_page_on_pools_can_be_registered"),
    Check(r"docs/encryption\.rst", r"curl |H=", f"{DOCS}::test_the_queue_of_the_page_on_encryption_can_be_made"),
    Check(
        r"docs/(live_updates|websocket_push)\.rst", r"curl ", f"{DOCS}::test_the_post_of_the_guides_to_browsers_works"
    ),
    Check(r"docs/(api|consume|streams|tracing)\.rst", r"curl |[A-Z]+=", PASTED),
    Check(r"docs/encryption\.rst", r"openssl ", PASTED),
    Check(r"docs/troubleshooting\.rst", r"curl |H=|ps |date ", PASTED),
    Check(r"docs/troubleshooting\.rst", r"(?:journalctl|systemctl|timedatectl) ", "not run: needs systemd"),
    Check(r"docs/troubleshooting\.rst", r"ss |prlimit ", "not run: shows what runs on the host of the operator"),
    Check(r"docs/(live_updates|websocket_push)\.rst", r"printf ", PASTED),
    Check(r"docs/contributor/first_patch\.rst", r"grep ", PASTED),
    Check(
        r"docs/contributor/sql\.rst",
        r"python -m",
        "tests/conformance/sqlalchemy/test_queries.py::test_a_statement_can_be_printed",
    ),
    Check(r"docs/live_updates\.rst", r"python3 docs/examples/live\.py", "tests/acceptance/test_event_streams.py"),
    Check(
        r"docs/websocket_push\.rst",
        r"python3 -m http\.server",
        "tests/acceptance/test_websocket_browser.py::test_a_page_gets_posted_messages_pushed",
    ),
    Check(
        r"docs/limits\.rst",
        r"openstack (?:registered )?limit create",
        "tests/api/test_limits_keystone.py::test_the_limits_of_keystone_apply",
    ),
    Check(r"docs/keystone\.rst", r"openstack |export OS|curl |TOKEN=", KEYSTONE),
    Check(r"docs/upgrade_from_zaqar_23\.rst", r"openstack token issue", KEYSTONE),
    Check(
        r"docs/policy\.rst",
        r"export|python -m zaqar\.cmd\.server\.preflight",
        "tests/acceptance/commands/test_preflight.py::test_a_bad_configuration_or_policy_stops_a_reload",
    ),
    Check(r"docs/metrics\.rst", r"curl |promtool ", "tests/acceptance/test_metrics.py"),
    Check(
        r"docs/operating_runbook\.rst",
        r"HEADERS=|curl |journalctl |top ",
        "not run: each needs the fault that it is about; tests/acceptance/test_metrics.py finds the metrics",
    ),
    # Commands that change this machine, or need a program that no wheel has.
    Check(r"docs/contributor/first_patch\.rst", r"git commit", "not run: there is no change to commit"),
    Check(r"docs/contributor/how_we_work\.rst", r"\.ci/run", "not run: it runs this test"),
    Check(
        r"docs/contributor/lua\.rst",
        r"redis-cli",
        "not run: no wheel has redis-cli; tests/conformance/redis runs the scripts",
    ),
    Check(
        r"docs/benchmarks\.rst",
        r"export|granian",
        "tests/acceptance/test_other_servers.py::test_other_servers_serve_the_application",
    ),
    Check(
        r"docs/operating\.rst",
        r"granian",
        "tests/acceptance/test_other_servers.py::test_other_servers_serve_the_application",
    ),
    Check(
        r"docs/stores/postgresql\.rst", r"create(user|db)", "not run: needs the account of the operator of a PostgreSQL"
    ),
    Check(r"docs/backup\.rst", r"sqlite3 |rm |cp /backup|pg_", "tests/acceptance/test_backup.py"),
    Check(r"docs/backup\.rst", r"redis-|cp /var/lib/redis|mongo", "not run: no wheel has redis-cli or MongoDB's tools"),
    Check(
        r"docs/deploying/container\.rst",
        r"python -m build|podman",
        "not run: no container is built here; tests/acceptance/test_deployment_samples.py checks the Containerfile",
    ),
    Check(
        r"docs/deploying/kubernetes\.rst",
        r"kubectl",
        "not run: there is no cluster; the manifests are checked by tests/acceptance/test_deployment_samples.py",
    ),
    Check(r"docs/deploying\.rst", r"ZAQAR_CONFIG_FILE=.*gunicorn|uwsgi", "tests/acceptance/test_deployment_samples.py"),
    Check(r"docs/stores/mongodb\.rst", r"use zaqar|.*createIndex", "tests/conformance/mongodb/test_deployments.py"),
    Check(
        r"docs/stores/postgresql\.rst",
        r"ALTER ROLE|synchronous",
        "tests/conformance/sqlalchemy/test_postgresql_deployments.py",
    ),
    Check(r"docs/stores/redis\.rst", r"ACL|port 0", "tests/conformance/redis/test_secured_servers.py"),
    # Snippets.
    Check(
        r"README\.rst",
        r"import json",
        "tests/acceptance/test_websocket_browser.py::test_the_program_of_the_readme_prints_posted_messages",
    ),
    Check(r"README\.rst", r"from keystoneauth1", f"{DOCS}::test_the_readme_has_the_example_with_openstacksdk"),
    Check(r"docs/benchmarks\.rst", r"import falcon", f"{BLOCKS}::test_the_smallest_application_answers"),
    Check(
        r"docs/notifications\.rst",
        r"from standardwebhooks|import base64",
        f"{DOCS}::test_the_code_on_the_page_on_notifications_verifies_a_signature",
    ),
    Check(
        r"docs/signed_urls\.rst",
        r"from zaqarclient",
        "tests/acceptance/test_share.py::test_the_guest_in_the_documentation_works",
    ),
    Check(r"docs/signed_urls\.rst", r"import hashlib", f"{DOCS}::test_the_code_on_the_page_on_signed_urls_signs"),
    Check(
        r"docs/signed_urls\.rst",
        r"async function",
        "not run: tests/acceptance/test_streams_live.py and browser tests use the pages in docs/examples",
    ),
    Check(r"docs/policy\.rst", r"# ", "tests/unit/test_policy_guide.py"),
    Check(r"docs/contributor/mongodb\.rst", r"// ", "not run: no wheel has mongosh"),
    Check(
        r"docs/contributor/sql\.rst",
        r"SET ",
        "not run: no wheel has psql; tests/conformance/sqlalchemy explains each statement",
    ),
    Check(r"docs/operating.*\.rst", r"location|worker_rlimit", "tests/acceptance/test_nginx.py"),
    Check(r"docs/streams\.rst", r"/v2/queues", "tests/api/test_event_stream_access.py"),
]

PROGRAMS = {
    "zaqar-bench": "zaqar.benchmarks.main",
    "zaqar-gc": "zaqar.cmd.gc",
    "zaqar-notifier": "zaqar.cmd.notifier",
    "zaqar-server": "zaqar.cmd.server.main",
    "zaqar-sql-db-manage": "zaqar.cmd.db_manage",
    "zaqar-status": "zaqar.cmd.status",
    "zaqar-websocket": "zaqar.cmd.websocket",
    "zaqar.upgrade": "zaqar.upgrade.__main__",
}

CHECKED_BY_LANGUAGE = ("ini", "json", "toml")


def of_page(page: str, text: str) -> list[Check]:
    return [check for check in CHECKED if re.fullmatch(check.page, page) and re.match(check.what, text)]


def commands() -> Iterator[tuple[str, str]]:
    for page in pages():
        for command in commands_of(page):
            yield page, command


def snippets() -> Iterator[Block]:
    for block in all_blocks():
        # A literal block that is no command is output, or a picture.
        if block.language and not block.is_shell and block.language not in CHECKED_BY_LANGUAGE:
            yield block


def test_each_command_is_run_or_checked() -> None:
    assert [f"{page}: {command}" for page, command in commands() if not of_page(page, command)] == []


def test_each_snippet_is_run_or_checked() -> None:
    assert [str(block) for block in snippets() if not of_page(block.page, block.text)] == []


def test_each_line_of_the_table_is_needed_and_names_a_test() -> None:
    texts = [*commands(), *((block.page, block.text) for block in snippets())]
    used = {check for page, text in texts for check in of_page(page, text)[:1]}
    assert [check for check in CHECKED if check not in used] == []
    for check in CHECKED:
        path, _, name = check.by.partition("::")
        if path.startswith("not run: "):
            continue
        assert re.search(rf"^def {name}\b" if name else "^def test_", (ROOT / path).read_text(), re.MULTILINE), check.by


# -- JSON, INI, YAML ---------------------------------------------------------------------------------------------------


def of_language(language: str) -> list[Block]:
    return [block for block in all_blocks() if block.language == language]


def test_json_can_be_parsed() -> None:
    for block in of_language("json"):
        try:
            json.loads(block.text)
        except ValueError as exc:
            pytest.fail(f"{block}: {exc}")


def known_options() -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    for group, options in [*opts.list_opts(), *castellan_options.list_opts(), *list_auth_token_opts()]:
        known.setdefault(group or "DEFAULT", {}).update({option.dest: option for option in options})
    return known


ACCOUNT = {each.dest for each in loading.get_plugin_loader("password").get_options()} | {"auth_type", "region_name"}
"""Options of an account in Keystone, which a plug-in registers if its group is used."""


ANY_GROUP = "any group"
SYSTEMD = ("Unit", "Service", "Install")
"""Sections of units, which ``tests/acceptance/test_deployment_samples.py`` lets systemd check."""


def faults_of(block: Block, known: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Options that do not exist, and values that are not allowed."""
    parser = configparser.ConfigParser(interpolation=None, default_section="no section has this name")
    # A page that has shown the group before may show an option alone.
    parser.read_string(block.text if block.text.startswith("[") else f"[{ANY_GROUP}]\n{block.text}")
    every = {name: option for options in known.values() for name, option in options.items()}
    for group in parser.sections():
        if group in SYSTEMD:
            continue
        for name, value in parser[group].items():
            option = (every if group == ANY_GROUP else known.get(group, {})).get(name)
            if option is None:
                if "auth_type" not in parser[group] or name not in ACCOUNT:
                    yield f"{block}: [{group}] {name}"
                continue
            try:
                option.type(value)
            except ValueError as exc:
                yield f"{block}: [{group}] {name}: {exc}"


def test_options_exist_and_their_values_are_allowed() -> None:
    known = known_options()
    blocks = of_language("ini")
    assert [fault for block in blocks for fault in faults_of(block, known)] == []
    assert len(blocks) > 10


def test_entry_points_belong_to_groups_that_the_service_reads() -> None:
    groups = set(re.findall(r"^(zaqar\..*) =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE))
    for block in of_language("toml"):
        assert set(tomllib.loads(block.text)["project"]["entry-points"]) <= groups, block


def test_yaml_can_be_parsed() -> None:
    for block in of_language("yaml"):
        assert yaml.safe_load(block.text), block


# -- commands ----------------------------------------------------------------------------------------------------------


def help_of(module: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    main = importlib.import_module(module).main
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert not ended.value.code
    return capsys.readouterr().out


def our_programs() -> Iterator[tuple[str, str, list[str]]]:
    """Page, program, and arguments of each command that starts a program of this project."""
    for page, command in commands():
        for part in command.split("&&"):
            words = part.replace("&", " ").split("|")[0]
            found = re.match(r"\s*(?:\.venv/bin/)?(zaqar-[a-z-]+)|\s*python -m (zaqar\.upgrade)\b", words)
            if found:
                yield page, found[1] or found[2], shlex.split(words[found.end() :])


def test_programs_have_the_options_that_the_documentation_uses(capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[tuple[str, str], str] = {}
    wrong = []
    for page, program, arguments in our_programs():
        modes = [word for word in arguments[:1] if re.fullmatch("[a-z]+", word)]
        key = (program, " ".join(modes))
        if key not in seen:
            seen[key] = help_of(PROGRAMS[program], modes, capsys)
        known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", seen[key]))
        wrong += [(page, program, word) for word in arguments if word.startswith("-") and word not in known]
    assert wrong == []
    assert {program for program, _ in seen} == set(PROGRAMS)


def test_commands_for_contributors_name_tests_and_environments_that_exist() -> None:
    environments = re.findall(r"^\[testenv:(.*)\]$", (ROOT / "tox.ini").read_text(), re.MULTILINE)
    known = set()
    for entry in environments:
        prefix, _, factors = entry.rstrip("}").rpartition("{")
        known.update(prefix + factor for factor in factors.split(","))
    count = 0
    for page, command in commands():
        found = re.match(r"(?:\.venv/bin/)?(tox|pytest)\b(.*)", command)
        if not found:
            continue
        words = shlex.split(found[2])
        if found[1] == "tox" and "-e" in words:
            assert set(words[words.index("-e") + 1].split(",")) <= known, (page, command)
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/")), (page, command)
        count += 1
    assert count > 10


# -- files that pages include ------------------------------------------------------------------------------------------

INCLUDED = re.compile(r"^ *\.\. literalinclude:: (\S+)$", re.MULTILINE)
MEASUREMENTS = "docs/decisions/measure_"
"""Programs that made the figures of a decision. They are kept as they were run, and need its time and its servers."""


def test_each_included_file_is_used_by_a_test_or_by_the_service() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    unused = []
    for page, text in pages().items():
        for name in INCLUDED.findall(text):
            path = ((ROOT / page).parent / name).resolve()
            relative = str(path.relative_to(ROOT))
            assert path.is_file(), relative
            is_used = relative.startswith(("zaqar/", MEASUREMENTS)) or Path(name).name in sources
            # The files of a distribution are installed as a folder.
            if not is_used and f'"{path.parent.name}"' not in sources:
                unused.append(relative)
    assert unused == []


def test_the_smallest_application_answers() -> None:
    (block,) = [each for each in blocks_of("docs/benchmarks.rst") if each.language == "python"]
    names: dict[str, Any] = {}
    exec(block.text, names)
    from falcon import testing

    assert testing.TestClient(names["application"]).simulate_get("/v2/queues/q/messages").status_code == 200
