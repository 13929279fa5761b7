# SPDX-License-Identifier: Apache-2.0
"""``[drivers:management_store:mongodb]``"""

from zaqar.conf.mongodb import connection_opts

GROUP = "drivers:management_store:mongodb"

OPTS = connection_opts()
