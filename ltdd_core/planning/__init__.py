"""What a run will take, before anything runs: multiply-adds, memory, disk and time."""
