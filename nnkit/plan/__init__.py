"""From a declared network to a list of steps: pure Python, no compilation."""
