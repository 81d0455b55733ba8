"""`python -m obliviate_cli`: the command line where the package is on the path but not installed."""

from obliviate_cli.main import main

if __name__ == "__main__":
    main()
