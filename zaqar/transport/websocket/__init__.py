# SPDX-License-Identifier: Apache-2.0
"""The WebSocket transport: frames in, frames out, over the same service layer as HTTP."""
