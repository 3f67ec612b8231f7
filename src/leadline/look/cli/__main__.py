import sys

from leadline.look.cli import main

sys.exit(main())
