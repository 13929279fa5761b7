# SPDX-License-Identifier: Apache-2.0
"""The rules of the API, said once for all transports."""
