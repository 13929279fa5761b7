# SPDX-License-Identifier: Apache-2.0
"""The API tests of zaqar-tempest-plugin, as published, against a service with a Keystone.

Tempest makes projects and users of its own. One of its tests waits for 140 seconds, until a message has been claimed
too often; the others take some seconds beside it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.acceptance.cloud import Cloud, running_cloud
from tests.keystone import PASSWORD, REGION
from tests.virtualenvs import KEYSTONE, TEMPEST

VIRTUALENVS = (KEYSTONE, TEMPEST)
RUNS_WITH = "test_share_keystone"
"""pytest-xdist gives a process that has one test left the next file as well. Nothing has to wait behind this test but a
few of the API with a Keystone.
"""
TESTS = 135

_TEMPEST = """\
[auth]
use_dynamic_credentials = True
admin_username = admin
admin_password = {password}
admin_project_name = admin
admin_domain_name = Default
tempest_roles = member
create_isolated_networks = False
[identity]
uri_v3 = {uri}
auth_version = v3
region = {region}
v3_endpoint_type = public
[oslo_concurrency]
lock_path = {folder}/locks
[service_available]
cinder = False
glance = False
neutron = False
nova = False
swift = False
zaqar = True
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with running_cloud(tmp_path) as cloud:
        yield cloud


@pytest.mark.timeout(900)
def test_the_api_tests_of_tempest_pass(cloud: Cloud, tmp_path: Path) -> None:
    environment = servers.own(TEMPEST.folder)
    packages = next((environment / "lib").glob("python*/site-packages"))
    (tmp_path / "tempest.conf").write_text(
        _TEMPEST.format(password=PASSWORD, uri=cloud.keystone.uri, region=REGION, folder=tmp_path)
    )
    done = subprocess.run(
        [
            environment / "bin" / "stestr",
            f"--test-path={packages}/zaqar_tempest_plugin/tests",
            f"--top-dir={packages}",
            "run",
            "--concurrency=4",
            "--suppress-attachments",
        ],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{environment}/bin:{os.environ['PATH']}",
            "PYTHON": f"{environment}/bin/python",
            "TEMPEST_CONFIG_DIR": str(tmp_path),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
    )
    outcomes = dict(re.findall(r"^\{\d+\} (\S+(?: \(\S+\))?) \[.*\] \.\.\. (\S+)", done.stdout, re.MULTILINE))
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "ok"} == {}, done.stdout[-20_000:]
    assert (done.returncode, len(outcomes)) == (0, TESTS), done.stdout[-20_000:]
