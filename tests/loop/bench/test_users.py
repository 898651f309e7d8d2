import json
import subprocess
import sys

from tests.conftest import ROOT

SMALL = """
import json
from loop.bench import users
users.RUNS, users.CONCURRENCY, users.WAVES, users.TURNS = 1, 40, 4, 1
print(json.dumps(users.run()))
"""


def test_conversations_end_at_about_the_ideal_rate():
    done = subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ideal_conversations_per_second"] == 33
    assert 0.3 < found["ratio"] < 1.2
    assert 0.3 < found["ratio_with_everybody_at_the_endpoint"] < 1.2
