"""The cases, in the order in which they are measured and shown."""

from case import Case
from cases import growth, loads, mixed, reads, rows, slow_reader, small, stalls, tpch

CASES: dict[str, Case] = {
    module.CASE.name: module.CASE for module in (loads, rows, reads, small, tpch, mixed, stalls, growth, slow_reader)
}
