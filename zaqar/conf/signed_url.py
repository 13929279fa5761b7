# SPDX-License-Identifier: Apache-2.0
"""``[signed_url]``"""

from oslo_config import cfg

GROUP = "signed_url"

OPTS = [
    cfg.StrOpt(
        "secret_key",
        secret=True,
        help="Key that signs pre-signed URLs, the same on every server; unset: there are none.",
    ),
]
