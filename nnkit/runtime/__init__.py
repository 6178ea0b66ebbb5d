"""Memory, machine code and the tape that runs a plan."""
