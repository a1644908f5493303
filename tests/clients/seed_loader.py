"""The seed's loader: creates the table by action, then puts one batch of random rows per stream.

Usage: seed_loader.py LOCATION TABLE LOADER BATCHES. Prints how many rows were acknowledged.
"""

import random
import sys
from datetime import datetime

import pyarrow as pa
from pyarrow import flight

ROWS_PER_BATCH = 1000
CREATE = """CREATE TABLE IF NOT EXISTS {} (
    batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR
)"""


def random_batch(batch_id: int) -> pa.Table:
    return pa.table(
        {
            "batch_id": pa.array([batch_id] * ROWS_PER_BATCH, pa.int64()),
            "timestamp": pa.array([datetime.now()] * ROWS_PER_BATCH, pa.timestamp("us")),
            "value": pa.array([random.uniform(0, 100) for _ in range(ROWS_PER_BATCH)], pa.float64()),
            "category": pa.array(random.choices("ABCD", k=ROWS_PER_BATCH), pa.string()),
        }
    )


def main(location: str, table: str, loader: int, batches: int) -> int:
    client = flight.connect(location)
    list(client.do_action(("query", CREATE.format(table).encode())))
    for number in range(batches):
        batch = random_batch(loader * batches + number)
        writer, _ = client.do_put(flight.FlightDescriptor.for_path(table), batch.schema)
        writer.write_table(batch)
        writer.close()
    return batches * ROWS_PER_BATCH


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
