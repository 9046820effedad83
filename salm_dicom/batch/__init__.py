"""Many series: what to do, who does it, what was done, and what was left out and why."""
