# SPDX-License-Identifier: Apache-2.0
"""CPU time of one statement through several layers of SQLAlchemy; the figures of decision 0004.

Run it with ``python docs/decisions/measure_statements.py`` where SQLAlchemy is installed. The statement reads one row
by its key from SQLite in memory, so that what differs is the path to it.
"""

import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

ROUNDS, CALLS = 40, 500

metadata = sa.MetaData()
fences = sa.Table(
    "fences",
    metadata,
    sa.Column("uid", sa.String(24), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("next_sequence", sa.Integer, nullable=False),
)
by_uid = sa.select(fences.c.generation, fences.c.next_sequence).where(fences.c.uid == sa.bindparam("uid"))


def best_times(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Microseconds of CPU for one call of each way: the best of rounds that take turns, as other load only adds."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, read in ways.items():
            started = time.process_time()
            for _ in range(CALLS):
                read()
            best[name] = min(best[name], time.process_time() - started)
    return {name: seconds / CALLS * 1e6 for name, seconds in best.items()}


def main() -> None:
    engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(fences.insert(), {"uid": "q", "generation": 1, "next_sequence": 1})
    parameters = {"uid": "q"}
    text = str(by_uid.compile(engine, compile_kwargs={"render_postcompile": True}))
    opened = engine.connect()
    driver = opened.connection.driver_connection
    assert driver is not None
    values = tuple(parameters.values())

    def connect_and_execute() -> object:
        with engine.connect() as connection:
            return connection.execute(by_uid, parameters).one()

    ways: dict[str, Callable[[], object]] = {
        "Core, connect and execute": connect_and_execute,
        "Core, execute on an open connection": lambda: opened.execute(by_uid, parameters).one(),
        "exec_driver_sql on an open connection": lambda: opened.exec_driver_sql(text, values).one(),
        "compiled text on the driver connection": lambda: driver.execute(text, values).fetchone(),
    }
    print(text)
    for name, microseconds in best_times(ways).items():
        print(f"{microseconds:8.2f} us  {name}")


if __name__ == "__main__":
    main()
