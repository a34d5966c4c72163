"""Networks.

``network`` is the interface, ``zoo`` has the field's networks, ``cosine`` another last layer.  ``compiled`` makes them
fast, and ``pool`` gives random ones to match with.  ``store`` keeps trained ones, and ``trajectory`` their parameters
after every epoch.
"""
