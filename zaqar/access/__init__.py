# SPDX-License-Identifier: Apache-2.0
"""Who a caller is, and what else gives access: tokens, trusts, signed URLs and the plug-ins of EXTRA-SPEC."""
