# SPDX-License-Identifier: Apache-2.0
"""Runs in the virtual environment of Aodh: the published notifiers of Aodh send alarms to a service.

``drive_aodh.py FILE ACTION...``: the configuration file of Aodh, and the alarm actions as a user writes them.
"""

from __future__ import annotations

import sys
from typing import Any

from aodh import service
from aodh.notifier.zaqar import TrustZaqarAlarmNotifier, ZaqarAlarmNotifier
from oslo_utils import netutils


class WithDomains(ZaqarAlarmNotifier):  # type: ignore[misc]
    """Aodh 23 names no domains when it logs in as itself, so Keystone refuses it (400)."""

    def _get_client_conf(self) -> dict[str, Any]:
        conf: dict[str, Any] = super()._get_client_conf()
        conf["auth_opts"]["options"] |= {"os_user_domain_id": "default", "os_project_domain_id": "default"}
        return conf


NOTIFIERS = {"zaqar": WithDomains, "trust+zaqar": TrustZaqarAlarmNotifier}


def main(file: str, *actions: str) -> None:
    conf = service.prepare_service([], config_files=[file], with_gmr=False)
    for action in actions:
        url = netutils.urlsplit(action)  # as aodh.notifier.AlarmNotifierService does
        alarm = ("alarm-1", "CPU is hot", "critical", "ok", "alarm", "threshold", {"value": 95})
        NOTIFIERS[url.scheme](conf).notify(url, *alarm)


if __name__ == "__main__":
    main(*sys.argv[1:])
