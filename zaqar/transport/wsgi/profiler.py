# SPDX-License-Identifier: Apache-2.0
"""Wraps the application in osprofiler's middleware, if ``[profiler]`` asks for it and the package is installed."""

import logging
import socket
from collections.abc import Callable
from typing import Any

from oslo_config import cfg

from zaqar.errors import StartupError

_log = logging.getLogger(__name__)

_KNOWN_KEY = "SECRET_KEY"
"""The default of ``hmac_keys``, which everybody knows."""


def wrap(app: Callable[..., Any], conf: cfg.ConfigOpts) -> Callable[..., Any]:
    """The application, or osprofiler's middleware around it. Trace headers have an effect only in the second case.

    Raises StartupError if traces cannot be sent to ``connection_string``.
    """
    options = conf.profiler
    if not (options.enabled and options.trace_wsgi_transport):
        return app
    try:
        from osprofiler import notifier, web
        from osprofiler.drivers import base
    except ImportError:
        _log.warning("[profiler] enabled: nothing is traced without osprofiler (pip install 'zaqar[profiler]').")
        return app
    if _KNOWN_KEY in (key.strip() for key in options.hmac_keys.split(",")):
        _log.warning("[profiler] hmac_keys: whoever can send a request can have it traced; set a key of your own.")
    try:
        # Not by osprofiler's own initializer, which logs the connection string with its password.
        driver = base.get_driver(
            options.connection_string, context={}, project="zaqar", service="api", host=socket.gethostname(), conf=conf
        )
    except Exception as exc:
        raise StartupError(
            f"[profiler] connection_string: osprofiler cannot send traces there ({type(exc).__name__})."
        ) from exc
    notifier.set(_log_errors(driver.notify))
    wrapped: Callable[..., Any] = web.WsgiMiddleware(app, hmac_keys=options.hmac_keys, enabled=True)
    return wrapped


def _log_errors(notify: Callable[..., Any]) -> Callable[..., None]:
    """Make ``notify`` log its errors, because a request must not fail if its trace cannot be sent."""

    def send(info: dict[str, Any], **more: Any) -> None:
        try:
            notify(info, **more)
        except Exception as exc:  # noqa: BLE001 - each driver has errors of its own
            _log.warning("A trace was lost: %s", type(exc).__name__)

    return send
