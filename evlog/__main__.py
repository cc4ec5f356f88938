"""`python -m evlog` is `evlog`."""

from evlog.cli.app import main

if __name__ == "__main__":
    main()
