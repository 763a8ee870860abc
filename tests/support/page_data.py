"""What a page to explore holds."""

import json
import re
from typing import Any


def data_of(page: str) -> dict[str, Any]:
    """Reads the data of a page."""
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)
