"""What the CUDA side makes of a plan's steps: launches."""
THREADS = 256
SCRATCH = 32768
