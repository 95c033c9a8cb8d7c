"""A lock of kazoo, told what to do by its arguments: the hosts, the path, more patterns of contenders, the command."""

import sys
import time

from kazoo.client import KazooClient

hosts, path, patterns, command, *rest = sys.argv[1:]
client = KazooClient(hosts=hosts, timeout=10)
client.start()
lock = client.Lock(path, "kazoo", extra_lock_patterns=[p for p in patterns.split(",") if p])

if command == "try":
    print(lock.acquire(blocking=False), flush=True)
elif command == "hold":
    lock.acquire()
    print("held", flush=True)
    sys.stdin.readline()
    lock.release()
    print("released", flush=True)
elif command == "again":
    for _ in range(2):
        with lock:
            print("held", flush=True)
        print("released", flush=True)
        sys.stdin.readline()
elif command == "count":
    file, rounds = rest
    for _ in range(int(rounds)):
        with lock:
            with open(file) as f:
                number = int(f.read())
            time.sleep(0.001)
            with open(file, "w") as f:
                f.write(str(number + 1))
    print("done", flush=True)
client.stop()
