"""`python -m chainrule`: the command line, where no script is installed."""

from chainrule.cli import main

if __name__ == "__main__":
    main()
