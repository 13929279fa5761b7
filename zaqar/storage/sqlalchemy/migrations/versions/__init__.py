# SPDX-License-Identifier: Apache-2.0
"""The revisions. One that was released is never changed."""
