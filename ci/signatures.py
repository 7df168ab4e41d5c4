"""Checks that the Python of docs/signatures.md signs the golden records of events/contract as the services do; ci/docs.sh calls it.

Never here: the form itself. The code is the page's, word for word.
"""

import json
import re
import sys
from pathlib import Path

KEY = ("golden", "a secret of thirty-two bytes or more")

page = Path("docs/signatures.md").read_text(encoding="utf-8")
scope = {}
exec(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1), scope)

count = 0
for file in sorted(Path("events/contract/golden").glob("*.json")):
    golden = json.loads(file.read_text(encoding="utf-8"))
    if "record" not in golden:
        continue
    record = golden["record"]
    signed = scope["signature"](*KEY, golden["message"]["topic"], dict(record["headers"]), record["value"].encode())
    if signed != golden["signature"]:
        sys.exit(f"{file}: the page signs it {signed}")
    count += 1
print(f"docs/signatures.md signs {count} golden records as the services do")
