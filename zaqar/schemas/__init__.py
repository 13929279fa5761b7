# SPDX-License-Identifier: Apache-2.0
"""From the wire form of a request to model objects: pure functions, one module per resource.

The JSON schemas here validate what is off the hot path and describe all of it in the OpenAPI document.
"""
