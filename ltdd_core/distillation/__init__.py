"""Distillation.

``matcher`` and ``batch_matcher`` are what a method implements, ``task`` and ``initial`` what it is given, ``partition``
splits the classes into groups, and ``distill`` is the whole job on one page.
"""
