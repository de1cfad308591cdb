"""The operators' command line, `headrace`.

It asks :mod:`broker.inspector`, :mod:`broker.jobs` and :mod:`broker.events` and has no Redis
commands of its own. Commands of the rooms above (keys, flows, dashboard, dev) come in by the
entry points ``headrace.commands``: docs/adr/0008.
"""
