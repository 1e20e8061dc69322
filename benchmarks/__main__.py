"""`python -m benchmarks` times steps."""

from benchmarks.step import main

if __name__ == "__main__":
    main()
