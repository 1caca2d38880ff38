"""Typed messages over a transport: flow control, loans and views, counted in the ledger."""
