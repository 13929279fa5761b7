# SPDX-License-Identifier: Apache-2.0
"""The rules of the API, in one place for all transports. They call one class for each noun, such as ``Claims``."""
