# SPDX-License-Identifier: Apache-2.0
"""The HTTP transport: a falcon application for any WSGI server."""
