"""Classifiers and their scores.

``head`` is what a classifier head implements, ``lines`` trains the classifiers of a table, ``metrics`` scores them, and
``quality`` compares a distilled set with the whole one and with random images.
"""
