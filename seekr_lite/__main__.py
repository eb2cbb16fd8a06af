"""`python -m seekr_lite`."""

from seekr_lite.cli import main

if __name__ == "__main__":
    main()
