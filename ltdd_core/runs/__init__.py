"""Runs and their files.

``folder`` is the folder of a run, ``named`` what a user names as one; ``distilled`` is a distilled set, ``export`` and
``pictures`` show it to others; ``facts`` are written down beside it, ``devices`` and ``stop`` are what a run computes
on and how it is stopped.
"""
