# SPDX-License-Identifier: Apache-2.0
"""The contract of a store as tests, which run on every driver of :mod:`tests.conformance.drivers`.

The docstring of each module says which part of :mod:`zaqar.storage.base`, or which promise, it holds a driver to.

Parts of a message store::

    queues          test_fences, test_queue_positions, test_statistics, test_usage, test_deleted (purge)
    messages        test_acknowledged, test_one_order, test_paging, test_deleted, test_timers, test_trace_contexts
    claims          test_claims, test_one_live_claim, test_claim_timers, test_dead_letters
    dead_letters    test_dead_letters_between_stores
    outbox          test_outbox, test_large_posts
    deliveries      test_deliveries, test_concurrent_deliveries, test_restored_order, test_delivery_order
    delivery_log    test_delivery_log, test_dropped_subscriptions
    sealed_bodies   test_sealed_bodies
    sweep           test_sweep
    volume          test_statistics

Parts of a management store::

    queue_records   test_queue_records
    subscriptions   test_subscriptions
    catalog         test_catalog
    trusts          test_trusts
    nodes           test_nodes

Promises::

    1  acknowledged means stored    test_acknowledged, test_one_step, test_kill
    2  one order                    test_one_order
    3  paging                       test_paging
    4  one live claim               test_one_live_claim, test_claims, test_kill
    5  timers are exact             test_timers, test_claim_timers
    6  deleted stays deleted        test_deleted, test_kill
    7  dead letters                 test_dead_letters, test_dead_letters_between_stores
    8  isolation                    test_isolation
    9  notifications                test_outbox, test_deliveries, test_large_posts, test_kill
    10 statistics                   test_statistics, test_one_step
    12 outages                      test_outages, test_connections, test_name_lookup
    13 streams                      test_streams

All of them at once: test_history (many clients, and judges of what they recorded), test_random_operations and
test_random_deliveries (the memory driver is the model), test_threads.
"""
