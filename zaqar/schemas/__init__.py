# SPDX-License-Identifier: Apache-2.0
"""Parses and checks requests, and makes answers: pure functions, one module for each resource.

The service and the transports call them. The JSON schemas validate requests that are not on the hot path, and describe
all requests and answers in the OpenAPI document.
"""
