"""Long-tailed sets.

``source`` is the interface of data sources, with one file each beside it; ``load`` cuts one to a long tail;
``sampler`` draws real images.
"""
