"""``python -m kcircuits``."""

import sys

from kcircuits.cli.main import main

sys.exit(main())
