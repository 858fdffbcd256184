"""Front end, layer table, passes, plan, build flow and command line."""
