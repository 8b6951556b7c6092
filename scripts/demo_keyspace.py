"""Fills an etcd with objects shaped like those of Kubernetes, and tells what an etcd holds, by its JSON gateway.

    demo_keyspace.py fill URL COUNT     writes COUNT objects, prints how many keys hang on a lease
    demo_keyspace.py edit URL COUNT     writes COUNT of them again, one revision each
    demo_keyspace.py forget URL         deletes all secrets, then writes one last key; prints how many secrets there were
    demo_keyspace.py digest URL         prints "KEYS REVISION SHA256" over all keys, values, revisions and leases
"""

import base64
import hashlib
import json
import random
import sys
import urllib.request

BATCH = 100
KINDS = ("pods", "configmaps", "secrets", "deployments", "leases", "events")


def call(url, path, request):
    data = json.dumps(request).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    message = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with opener.open(message, timeout=30) as answer:
        return json.load(answer)


def text(value):
    return base64.b64encode(value.encode()).decode()


def put(i, dice, leases):
    kind = KINDS[i % len(KINDS)]
    name = f"{kind[:-1]}-{i:05}"
    body = {
        "kind": kind,
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": f"team-{i % 40:02}", "uid": f"{dice.getrandbits(128):032x}"},
        "status": {"phase": dice.choice(["Running", "Pending", "Succeeded"]), "podIP": f"10.0.{i % 250}.{i % 240}"},
        "data": {f"key-{n}": f"value-{dice.randrange(1000)}" for n in range(dice.randrange(4, 24))},
    }
    request = {"key": text(f"/registry/{kind}/team-{i % 40:02}/{name}"), "value": text(json.dumps(body))}
    if kind in ("leases", "events"):
        request["lease"] = leases[i % len(leases)]
    return {"requestPut": request}


def fill(url, count):
    dice = random.Random(1)
    leases = [call(url, "/v3/lease/grant", {"TTL": ttl})["ID"] for ttl in (3600, 7200, 86400)]
    puts = [put(i, dice, leases) for i in range(count)]
    for start in range(0, count, BATCH):
        call(url, "/v3/kv/txn", {"success": puts[start : start + BATCH]})
    # Overwrites and deletes, so that there is a history to carry.
    for start in range(0, count, BATCH * 4):
        again = [put(i, dice, leases) for i in range(start, min(start + BATCH, count))]
        call(url, "/v3/kv/txn", {"success": again})
        key = puts[min(start + BATCH + 1, count - 1)]["requestPut"]["key"]
        call(url, "/v3/kv/deleterange", {"key": key})
    print(sum("lease" in p["requestPut"] for p in puts), len(leases))


def edit(url, count):
    dice = random.Random(2)
    for i in range(count):
        # Neither a lease nor an event: those that no lease can take away.
        call(url, "/v3/kv/put", put(i * len(KINDS) + i % 4, dice, ())["requestPut"])


def forget(url):
    secrets = {"key": text("/registry/secrets/"), "range_end": text("/registry/secrets0")}
    print(call(url, "/v3/kv/deleterange", secrets)["deleted"])
    call(url, "/v3/kv/put", {"key": text("/registry/last"), "value": text("the last write before the crash")})


def digest(url):
    hasher = hashlib.sha256()
    start, keys, revision = "\0", 0, 0
    while True:
        request = {"key": base64.b64encode(start if isinstance(start, bytes) else start.encode()).decode()}
        answer = call(url, "/v3/kv/range", {**request, "range_end": text("\0"), "limit": "1000"})
        revision = answer["header"]["revision"]
        for kv in answer.get("kvs", []):
            hasher.update(json.dumps(kv, sort_keys=True).encode())
            keys += 1
        if not answer.get("more"):
            break
        start = base64.b64decode(answer["kvs"][-1]["key"]) + b"\0"
    print(keys, revision, hasher.hexdigest())


if __name__ == "__main__":
    command, arguments = {"fill": fill, "edit": edit, "forget": forget, "digest": digest}[sys.argv[1]], sys.argv[3:]
    command(sys.argv[2], *map(int, arguments))
