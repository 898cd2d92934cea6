"""`python -m hala_tools.slerp`, the same as `hala-slerp`."""

from hala_tools.slerp.cli import main

if __name__ == "__main__":
    main()
