# SPDX-License-Identifier: Apache-2.0
"""The log: text for people or JSON for machines, with the id of the request in each record, and without secrets.

oslo.log decides where records go, by its options. This package changes what they look like:

- ``setup`` puts the parts below on every handler; each command calls it once.
- ``context`` holds the request, or the delivery, that the present thread, greenlet or task works on.
- ``formatters`` writes records and removes secrets from them.
- ``repeats`` leaves out equal warnings.
- ``access`` logs requests.
"""
