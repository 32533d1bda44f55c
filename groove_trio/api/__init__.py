"""The HTTP interface: one table of routes, one small handler each."""
