# SPDX-License-Identifier: Apache-2.0
"""``python -m zaqar.upgrade``: copies queues, messages and subscriptions from one messaging service to another.

It uses the HTTP API only and needs no access to the stores, so it also reads a zaqar 23. :mod:`zaqar.upgrade.service`
talks to a service, :mod:`~zaqar.upgrade.progress` remembers the copied messages in a file,
:mod:`~zaqar.upgrade.copying` copies one queue, and :mod:`~zaqar.upgrade.verification` compares it with its copy. The
rest of the service imports none of them.
"""
