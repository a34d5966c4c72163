"""``python -m ltdd_core`` is ``ltdd``, for those whose PATH does not have it."""

from ltdd_core.cli import main

if __name__ == "__main__":
    main()
