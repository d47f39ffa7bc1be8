"""`ogpsa reproduce`: the paper's tables as runs, what they take before they start, and all of it in one command."""
