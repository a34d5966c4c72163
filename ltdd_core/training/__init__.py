"""Training of networks.

``sets`` are the images, ``options`` say how long and how fast, ``losses``, ``augment`` and ``mixup`` what a step sees;
``loop`` is the loop, and ``trainer`` is what classifier heads are given.
"""
