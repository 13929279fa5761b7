# SPDX-License-Identifier: Apache-2.0
"""Shows the metrics of the host while a command runs. The sweeper, the notifier and ``zaqar-websocket`` use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zaqar import conf as configuration
from zaqar.cmd.listening import configured_metrics_address
from zaqar.metrics.exporter import Exporter, Pages

if TYPE_CHECKING:
    from zaqar.app import Parts


@contextmanager
def exporting(parts: Callable[[], Parts]) -> Iterator[None]:
    """Show the metrics of this host while the context lasts, unless another process does. Raises StartupError.

    ``parts`` returns the parts of this process, which a reload may replace.
    """
    conf = parts().conf
    address = configured_metrics_address(conf)
    if address is None:
        yield
        return
    exporter = Exporter(address, configuration.metrics_dir(conf), lambda: _make_pages(parts))
    exporter.start()
    try:
        yield
    finally:
        exporter.stop()


def _make_pages(parts: Callable[[], Parts]) -> Pages:
    # Imported here, because only the process that serves needs them.
    from zaqar.metrics.pages import Stores, make_pages
    from zaqar.storage.observed import DEFAULT, MANAGEMENT

    conf = parts().conf
    stores = Stores(
        management_label=MANAGEMENT,
        management=lambda: parts().management,
        placement=lambda: parts().placement,
        label_of=lambda store_ref: store_ref.name or DEFAULT,
    )
    return make_pages(
        configuration.metrics_dir(conf),
        parts().clock,
        None if configuration.is_in_memory(conf) else stores,
        shows_queues=conf.metrics.queues,
    )
