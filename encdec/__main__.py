"""`python -m encdec`."""

from encdec.cli import main

if __name__ == "__main__":
    main()
