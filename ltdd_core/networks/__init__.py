"""Networks.

``network`` is the interface, ``zoo`` has the field's networks, ``pool`` gives random ones to match with.
"""
