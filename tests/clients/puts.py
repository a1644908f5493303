"""Puts with options, in one go or batch by batch."""

import json

import pyarrow as pa
from pyarrow import flight


def command(**options) -> flight.FlightDescriptor:
    return flight.FlightDescriptor.for_command(json.dumps(options))


def send(client: flight.FlightClient, data: pa.Table | pa.RecordBatch, **options) -> dict:
    """Puts all rows as one unit and answers with its ack."""
    writer, reader = client.do_put(command(**options), data.schema)
    writer.write(data)
    writer.done_writing()
    answer = reader.read()
    writer.close()
    return json.loads(answer.to_pybytes())


class Stream:
    """A put with `commit: batch`, whose acks are read one by one. Without a sequence a batch carries none."""

    def __init__(self, client: flight.FlightClient, columns: pa.Schema, **options):
        self.writer, self.reader = client.do_put(command(commit="batch", **options), columns)
        self.schema = columns

    def answer(self) -> dict:
        answer = self.reader.read()
        if answer is None:
            # The stream is over, and its end says why.
            self.writer.close()
        return json.loads(answer.to_pybytes())

    def resume_after(self) -> int:
        answer = self.answer()
        assert list(answer) == ["resume_after"]
        return answer["resume_after"]

    def write(self, rows: list[dict], sequence: int | None = None) -> None:
        batch = pa.RecordBatch.from_pylist(rows, self.schema)
        if sequence is None:
            self.writer.write_batch(batch)
        else:
            self.writer.write_with_metadata(batch, json.dumps({"sequence": sequence}).encode())

    def send(self, rows: list[dict], sequence: int | None = None) -> dict:
        """Sends a batch and waits for its ack."""
        self.write(rows, sequence)
        return self.answer()

    def close(self) -> None:
        self.writer.done_writing()
        assert self.reader.read() is None
        self.writer.close()
