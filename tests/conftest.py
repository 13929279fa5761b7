# SPDX-License-Identifier: Apache-2.0
"""Settings of all test tiers."""

import os

from hypothesis import HealthCheck, settings

# A shared machine has slow moments: no test is judged by the time one example takes.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")
