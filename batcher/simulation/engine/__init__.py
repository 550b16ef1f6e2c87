"""A deployment, its service times, and a run of it in virtual time."""
