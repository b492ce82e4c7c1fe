"""``python -m simplicial_reg``: the command line."""

from simplicial_reg.cli import main

if __name__ == "__main__":
    main()
