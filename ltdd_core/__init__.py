"""ltdd: long-tailed dataset distillation, with methods as plugins.

The public names are those of ``__init__.pyi``, one list; nothing else is promised.  A name is imported when it is first
used, so that the entry module of a plugin stays cheap to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
