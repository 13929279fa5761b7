# SPDX-License-Identifier: Apache-2.0
"""``[access]``"""

from oslo_config import cfg

GROUP = "access"

OPTS = [
    cfg.IntOpt(
        "max_requests_waiting_for_keystone",
        min=1,
        help="How many requests of one process may wait for Keystone at a time, which those do whose token this "
        "process has not seen lately. More get 503 at once, so that the others are served whatever Keystone does. It "
        "must be less than the number of threads of the HTTP server. Unset: 256 with gevent, which zaqar-server uses; "
        "three quarters of the threads of uWSGI; 64 with granian; 8 otherwise.",
    ),
]
