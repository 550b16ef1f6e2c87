"""The rows of the dashboard, from the fleet as a whole to the insides of a replica."""
