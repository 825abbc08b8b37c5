"""`python -m aesthetic_client.cli` is the `aesthetic` command."""

import sys

from aesthetic_client.cli import main

sys.exit(main())
