# SPDX-License-Identifier: Apache-2.0
"""The limits of a project over both transports; see the docstring of the package."""

from tests.api.agreement import Row

ROWS = {"of a project": Row("get_limits", {}, "GET", "/v2/limits")}
