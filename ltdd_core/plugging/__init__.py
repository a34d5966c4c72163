"""Find plugins and name what they offer.

``loading`` finds and isolates plugins, ``catalog`` is the table of names, ``builtin`` has the core's own, and
``scaffold`` writes the package of a new plugin.
"""
