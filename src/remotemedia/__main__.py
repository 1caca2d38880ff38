"""`python -m remotemedia`: the command line."""

from remotemedia.cli import main

if __name__ == "__main__":
    main()
