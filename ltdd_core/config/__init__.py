"""Put a configuration together.

``layers`` is what a user wrote and where, ``model`` what a configuration is, ``validation`` says what is wrong with an
option, and ``resolve`` puts the layers together.
"""
