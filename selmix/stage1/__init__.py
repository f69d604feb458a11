"""Stage one: training a backbone."""
