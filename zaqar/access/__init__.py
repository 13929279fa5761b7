# SPDX-License-Identifier: Apache-2.0
"""Authentication and access: Keystone tokens, trusts, pre-signed URLs and the plug-ins of EXTRA-SPEC."""
