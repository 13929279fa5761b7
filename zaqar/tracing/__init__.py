# SPDX-License-Identifier: Apache-2.0
"""Traces: the trace context that a producer sends goes with its message, and on to the subscribers.

``context`` reads and writes the headers of W3C Trace Context (https://www.w3.org/TR/trace-context/). That needs no
library. ``spans`` records the service's own part of a trace, ``export`` sends it away, and ``attributes`` has the names
of what is recorded.
"""
