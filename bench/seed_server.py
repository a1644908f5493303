"""The server that Duck Flight started from, to measure against: a Python Flight server on one DuckDB file.

One connection and a cursor per call: `do_get` fetches a whole result, `do_put` reads a whole stream and inserts
it, the action `query` runs SQL. Usage: seed_server.py DATABASE
"""

import sys

import duckdb
from pyarrow import flight, py_buffer


class SeedServer(flight.FlightServerBase):
    def __init__(self, location: str, database: str):
        super().__init__(location)
        self.connection = duckdb.connect(database)

    def do_get(self, context, ticket):
        table = self.connection.cursor().execute(ticket.ticket.decode()).to_arrow_table()
        return flight.RecordBatchStream(table)

    def do_put(self, context, descriptor, reader, writer):
        name = descriptor.path[0].decode()
        rows = reader.read_all()
        cursor = self.connection.cursor()
        try:
            cursor.execute(f"INSERT INTO {name} SELECT * FROM rows")
        except duckdb.CatalogException:
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {name} AS SELECT * FROM rows LIMIT 0")
            cursor.execute(f"INSERT INTO {name} SELECT * FROM rows")
        # The one addition: duck-load counts only what is acknowledged.
        writer.write(py_buffer(b'{"rows":%d,"duplicate":false}' % rows.num_rows))

    def do_action(self, context, action):
        if action.type != "query":
            raise NotImplementedError(action.type)
        self.connection.cursor().execute(action.body.to_pybytes().decode())
        return [b"OK"]


def main() -> None:
    server = SeedServer("grpc://127.0.0.1:0", sys.argv[1])
    print(f"listening on 127.0.0.1:{server.port}", flush=True)
    server.serve()


if __name__ == "__main__":
    main()
