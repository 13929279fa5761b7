# SPDX-License-Identifier: Apache-2.0
"""What both stores on MongoDB are told."""

from oslo_config import cfg


def connection_opts() -> list[cfg.Opt]:
    return [
        cfg.StrOpt("ssl_keyfile", help="File of the private key that this client shows to the server."),
        cfg.StrOpt("ssl_certfile", help="File of the certificate that this client shows to the server."),
        cfg.StrOpt(
            "ssl_cert_reqs",
            default="CERT_REQUIRED",
            choices=["CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"],
            help="Whether the server has to show a certificate, and whether it is checked.",
        ),
        cfg.StrOpt("ssl_ca_certs", help="File of the certificates of the authorities that are trusted."),
        cfg.StrOpt("uri", secret=True, help="Connection URI of the replica set, mongodb://..."),
        cfg.StrOpt("database", default="zaqar", help="Name of the database."),
        cfg.IntOpt(
            "connections",
            default=50,
            min=1,
            help="Connections that each process of the service keeps at most, to each member, unless the URI sets "
            "maxPoolSize. One that was not needed for a minute is closed, unless the URI sets maxIdleTimeMS.",
        ),
        cfg.IntOpt("max_attempts", default=1000, min=0, help="Most attempts of a step that others get ahead of."),
        cfg.FloatOpt("max_retry_sleep", default=0.1, min=0, help="Longest pause between these attempts, in seconds."),
        cfg.FloatOpt("max_retry_jitter", default=0.005, min=0, help="Longest random part of such a pause, in seconds."),
        cfg.IntOpt("max_reconnect_attempts", default=10, min=0, help="Most attempts when the connection is lost."),
        cfg.FloatOpt("reconnect_sleep", default=0.02, min=0, help="Pause between attempts to reconnect, in seconds."),
    ]
