# SPDX-License-Identifier: Apache-2.0
"""Checks of the configuration: each wrong, risky or deprecated setting in one sentence, with the option.

``zaqar-server --check`` prints the complaints, and ``zaqar-status upgrade check`` shows them by title. A check starts
nothing, opens no port, and makes or upgrades nothing in a store. To add one, write a function in the module of its
subject and an entry in ``CHECKS``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from zaqar import conf as configuration
from zaqar.cmd.configuration_checks import access, capacity, files, logs, notifications, secrets, service, stores
from zaqar.cmd.configuration_checks.complaints import Complaint, Examined
from zaqar.cmd.listening import Address
from zaqar.errors import StartupError
from zaqar.limits import Limits


class Check(NamedTuple):
    title: str
    """Several checks may have the same title."""
    find: Callable[[Examined], Iterable[Complaint]]


CONFIGURATION = "Configuration"

CHECKS: Sequence[Check] = (
    Check(CONFIGURATION, files.find_unknown),
    Check(CONFIGURATION, files.find_deprecated),
    Check(CONFIGURATION, files.find_without_effect),
    Check(CONFIGURATION, files.find_unusable_state_dir),
    Check("Policy", service.find_policy_mistakes),
    Check("Policy", secrets.find_open_policy_files),
    Check("Message encryption", service.find_encryption_mistakes),
    Check("Message encryption", secrets.find_weak_encryption_key),
    Check("Stores", stores.find_relaxed_sqlite),
    Check("Stores", stores.find_ignored_write_concerns),
    Check("Stores", stores.find_network_file_systems),
    Check("Stores", stores.find_by_asking),
    Check("Access", access.find_open_server),
    Check("Access", access.find_open_administration),
    Check("Access", access.find_forgeable_headers),
    Check("Access", access.find_cors_for_all),
    # It registers the options of Keystone, which the checks after it look at.
    Check("Access", access.find_keystone_mistakes),
    Check("Access", access.find_unverified_keystone),
    Check("Secrets", secrets.find_guessable),
    Check("Secrets", secrets.find_open_files),
    Check("Notifications", notifications.find_open_networks),
    Check("Notifications", notifications.find_unreachable_links),
    Check("Notifications", notifications.find_mail_without_server),
    Check("Logs and metrics", logs.find_debug),
    Check("Logs and metrics", logs.find_missing_places),
    Check("Logs and metrics", logs.find_open_metrics),
    Check("Capacity", capacity.find_few_files),
    Check("Capacity", capacity.find_long_drain),
    Check("Service", service.find_other_mistakes),
)
"""In the order of their complaints. A sentence that an earlier check has found is not repeated."""


def check_all(
    argv: Sequence[str] = (), *, http: Address | None = None, websocket: Address | None = None
) -> dict[str, list[Complaint]]:
    """Run all checks. Returns the complaints by title; a title without complaints has an empty list.

    ``argv`` is as for :func:`zaqar.conf.load`. ``http`` and ``websocket`` are addresses of the command line, which
    override those of the configuration. If the configuration cannot be read, that is the only complaint.
    """
    with _quiet_log():
        try:
            conf = configuration.load(argv)
            Limits.from_conf(conf)
        except StartupError as exc:
            return {CONFIGURATION: [Complaint.of(exc, "The configuration")]}
        for transport, address in (("wsgi", http), ("websocket", websocket)):
            if address is not None:
                group = f"drivers:transport:{transport}"
                conf.set_override("bind", address.host, group)
                conf.set_override("port", address.port, group)
        return _run(Examined(conf, tuple(files.read_settings(conf))))


def _run(examined: Examined) -> dict[str, list[Complaint]]:
    found: dict[str, list[Complaint]] = {}
    known: set[str] = set()
    for title, find in CHECKS:
        fresh = [each for each in find(examined) if str(each) not in known]
        known.update(map(str, fresh))
        found.setdefault(title, []).extend(fresh)
    return found


@contextmanager
def _quiet_log() -> Iterator[None]:
    """While no log is set up, Python prints warnings to standard error. Here the complaints say the same."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)
