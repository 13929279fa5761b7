# SPDX-License-Identifier: Apache-2.0
"""What must stay small: the path of a request, files, functions, and who may import whom."""
