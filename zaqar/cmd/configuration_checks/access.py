# SPDX-License-Identifier: Apache-2.0
"""Checks of the settings that say who may use the service, and from where."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from zaqar.access.keystone import TokenValidator, check_strategy
from zaqar.clock import system_clock
from zaqar.cmd.configuration_checks.addresses import is_loopback, open_transports
from zaqar.cmd.configuration_checks.complaints import Complaint, Examined
from zaqar.errors import KeystoneUnavailable, StartupError

_STRATEGY = "[DEFAULT] auth_strategy"


def find_open_server(examined: Examined) -> Iterator[Complaint]:
    """No authentication on an address that other hosts can reach."""
    if not examined.conf.auth_strategy and (found := open_transports(examined)):
        yield Complaint(
            _STRATEGY, f"callers are not authenticated, and the server listens to other hosts ({', '.join(found)})."
        )


def find_open_administration(examined: Examined) -> Iterator[Complaint]:
    if examined.conf.admin_mode and not examined.conf.auth_strategy:
        yield Complaint(
            "[DEFAULT] admin_mode",
            "without auth_strategy callers are not authenticated, so every client can manage pools and flavors.",
        )


def find_forgeable_headers(examined: Examined) -> Iterator[Complaint]:
    if examined.conf.oslo_middleware.enable_proxy_headers_parsing and (found := open_transports(examined)):
        yield Complaint(
            "[oslo_middleware] enable_proxy_headers_parsing",
            f"a client that reaches the server without the proxy can forge these headers ({', '.join(found)}).",
        )


def find_cors_for_all(examined: Examined) -> Iterator[Complaint]:
    cors = examined.conf.cors
    if "*" in (cors.allowed_origin or ()) and cors.allow_credentials:
        yield Complaint(
            "[cors] allowed_origin",
            "with '*' and allow_credentials the page of any site can use the API with the credentials of its visitors.",
        )


def find_unverified_keystone(examined: Examined) -> Iterator[Complaint]:
    """Keystone by plain HTTP on another host, or with a certificate that is not verified."""
    for group in ("keystone_authtoken", "trustee"):
        if examined.value(group, "insecure"):
            yield Complaint(f"[{group}] insecure", "the certificate of Keystone is not verified.")
        url = urlsplit(examined.value(group, "auth_url") or "")
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            yield Complaint(f"[{group}] auth_url", "passwords and tokens go to Keystone without TLS.")


def find_keystone_mistakes(examined: Examined) -> Iterator[Complaint]:
    """Options of Keystone that cannot be used, and an account that Keystone does not accept. Asks Keystone."""
    conf = examined.conf
    try:
        check_strategy(conf)
        if not conf.auth_strategy:
            return
        tokens = TokenValidator(conf, system_clock)
        tokens.start()
        problem = tokens.check()
    except StartupError as exc:
        yield Complaint.of(exc, "[keystone_authtoken] auth_type")
    except KeystoneUnavailable as exc:
        reason = " ".join(str(exc.__cause__ or exc).split()).rstrip(".")
        yield Complaint("[keystone_authtoken] auth_url", f"Keystone does not answer: {reason}.")
    else:
        if problem is not None:
            yield Complaint.of(ValueError(problem), "[keystone_authtoken] username")
