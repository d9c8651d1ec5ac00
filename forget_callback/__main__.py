"""`python -m forget_callback` is the command line."""

from forget_callback.cli import main

if __name__ == "__main__":
    main()
