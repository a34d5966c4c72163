"""Grids of runs and the tables that come of them.

``grid`` reads a grid file and says what there is to do, ``work`` does what is not done yet, ``kept`` holds what
is known of each classifier, ``table`` writes it down.
"""

from __future__ import annotations
