# SPDX-License-Identifier: Apache-2.0
"""Every option of our own, by group, for the configuration and for oslo-config-generator."""

from oslo_config import cfg

from zaqar.conf import access, general, monitoring, notification, profiler, quotas, stores, transport

_SUBJECTS = (access, general, monitoring, notification, profiler, quotas, stores, transport)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """All groups with their options, as oslo-config-generator asks for them."""
    of_libraries = {**access.GROUPS_OF_LIBRARIES, **quotas.GROUPS_OF_LIBRARIES}
    return [*list_own_opts(), *((group, list(opts)) for group, opts in of_libraries.items())]


def list_own_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """All groups with their options, without the groups that a library registers when the service uses it."""
    groups = {group: list(opts) for subject in _SUBJECTS for group, opts in subject.GROUPS.items()}
    return sorted(groups.items(), key=lambda item: item[0].lower())
